"""Which certificate serves for what: told by names and subjects, given, or refused."""

from pathlib import Path

import pytest

from kbuild.pki.api import plan_of
from kbuild.pki.errors import (
    CertificateNotCertain,
    UnknownCertificate,
    UnknownUse,
    WrongCertificate,
)
from kbuild.pki.uses import USES, serving
from tests.unit.pki.conftest import KEY, Recipe

TOML = """\
layout = "{layout}"
cas = {cas}
[nodes.m1]
addresses = ["192.0.2.11"]
roles = ["control-plane", "etcd"]
[nodes.w1]
addresses = ["192.0.2.21"]
"""


def used(folder: Path, **given: str) -> dict[tuple[str, str], str]:
    found = serving(plan_of(folder), {use.replace("_", "-"): name for use, name in given.items()})
    return {use: spec.name for use, spec in found.items()}


@pytest.mark.parametrize("cas", [1, 3])
@pytest.mark.parametrize("layout", ["cfssl", "kubeadm"])
@pytest.mark.parametrize("folder", ["x", "etcd", "etcd/ssl", "kubernetes/ssl"])
def test_all_certificates_of_pki_toml_are_certain(
    tmp_path: Path, layout: str, cas: int, folder: str
) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    (place / "pki.toml").write_text(TOML.format(layout=layout, cas=cas))
    found = used(place)
    of_nodes = {(use, node) for use in ("kubelet", "kubelet-server") for node in ("m1", "w1")}
    assert found.keys() == {
        *((use, "") for use in USES if not use.startswith("kubelet")),
        *of_nodes,
    }
    if layout == "kubeadm":
        assert found["etcd-server", ""] == "pki/etcd/server"
        assert found["etcd-peer", ""] == "pki/etcd/peer"
        assert found["apiserver", ""] == "pki/apiserver"
        assert found["kubelet", "w1"] == "nodes/w1/kubelet.conf"
        assert found["kubelet-server", "w1"] == "nodes/w1/kubelet"
    else:
        assert found["etcd-server", ""] == found["etcd-peer", ""] == "etcd"
        assert found["apiserver", ""] == "kubernetes"
        assert found["apiserver-etcd-client", ""] == "apiserver-etcd-client"
        assert found["kubelet", "w1"] == found["kubelet-server", "w1"] == "kubelet-w1"


def test_files_of_cfssl_are_told_by_names_and_subjects_and_the_rest_is_not_guessed(
    recipe: Recipe,
) -> None:
    recipe.change("client", CN="nobody knows")
    profiles = {"kubernetes": "server", "flanneld": "client", "proxy": "client", "k": "client"}
    for name, cn in (
        ("kubernetes", "kubernetes"),
        ("flanneld", "flanneld"),
        ("proxy", "system:kube-proxy"),
        ("k", "system:node:n1"),
    ):
        recipe.request(
            name, {"CN": cn, "hosts": ["a"], "key": KEY, "names": [{"O": "system:nodes"}]}
        )
    found = serving(plan_of(recipe.folder, profiles=profiles), {})
    assert {use: spec.name for use, spec in found.items()} == {
        ("apiserver", ""): "kubernetes",
        ("flannel", ""): "flanneld",
        ("kube-proxy", ""): "proxy",
        ("kubelet", "n1"): "k",
    }


def test_a_name_says_nothing_without_the_usage(recipe: Recipe) -> None:
    recipe.request("kubernetes", {"CN": "kubernetes", "hosts": ["a"], "key": KEY})
    found = serving(plan_of(recipe.folder, profiles={"kubernetes": "client"}), {})
    assert ("apiserver", "") not in found


def test_two_that_could_serve_are_refused_until_one_is_named(recipe: Recipe) -> None:
    for name in ("kubernetes", "apiserver"):
        recipe.request(name, {"CN": "x", "hosts": ["a"], "key": KEY})
    plan = plan_of(recipe.folder, profiles=dict.fromkeys(("kubernetes", "apiserver"), "server"))
    with pytest.raises(CertificateNotCertain, match="apiserver and kubernetes could be"):
        serving(plan, {})
    assert serving(plan, {"apiserver": "kubernetes"})["apiserver", ""].name == "kubernetes"


def test_what_is_given_wins_and_must_fit(recipe: Recipe) -> None:
    assert used(recipe.folder, etcd_server="server", apiserver_etcd_client="client") == {
        ("etcd-server", ""): "server",
        ("apiserver-etcd-client", ""): "client",
        ("flannel", ""): "client",  # its CN is flanneld
    }
    with pytest.raises(WrongCertificate, match="no 'server auth'"):
        used(recipe.folder, etcd_server="client")
    with pytest.raises(WrongCertificate, match="no 'client auth'"):
        used(recipe.folder, etcd_peer="server")
    with pytest.raises(UnknownUse) as error:
        used(recipe.folder, api_server="server")
    assert "apiserver" in error.value.hint
    with pytest.raises(UnknownUse):
        used(recipe.folder, kubelet="client")
    for name in ("ca", "nobody"):
        with pytest.raises(UnknownCertificate):
            used(recipe.folder, etcd_server=name)
