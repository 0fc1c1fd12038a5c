"""The drop-ins of components: flags in each version's spelling, files, and what is left out."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from kbuild.pki.api import Units, make_units, plan_of
from kbuild.pki.errors import NotForUnits
from kbuild.pki.issuing import PASSWORD
from tests.unit.pki.conftest import KEY, Recipe, issue
from tests.unit.pki.test_rotating import rotate

TOML = """\
layout = "{layout}"
leaf-years = 10
cluster-domain = "example.internal"
{more}
[nodes.m1]
addresses = ["192.0.2.11"]
roles = ["control-plane", "etcd"]
[nodes.w1]
addresses = ["192.0.2.21"]
"""
OLD, NEW = "experimental-cluster-signing-duration", "cluster-signing-duration"


def units(
    folder: Path, tag: str = "v1.20.2", layout: str = "cfssl", more: str = "", **words: Any
) -> Units:
    (folder / "pki.toml").write_text(TOML.format(layout=layout, more=more))
    return make_units(folder, tag, **words)


def flags(made: Units, name: str) -> dict[str, str]:
    """Return the flags in a drop-in, as systemd reads it."""
    [content] = [f.content for f in made.files if f.name == f"{name}.service.d/20-kbuild-pki.conf"]
    found = re.search(r'^Environment="KUBE_PKI_ARGS=([^"]*)"$', content, re.MULTILINE)
    assert found
    words = found[1].replace("\\\n", " ").split()
    assert all(word.startswith("--") for word in words)
    pairs = [word.removeprefix("--").split("=", 1) for word in words]
    assert len({name for name, _ in pairs}) == len(pairs)
    return {name: value for name, value in pairs}  # noqa: C416  # lists are no pairs for dict


@pytest.mark.parametrize(
    ("tag", "signing", "issuer", "insecure_port"),
    [
        ("v1.13.7", OLD, False, True),
        ("v1.18.20", OLD, False, True),
        ("v1.19.3", NEW, False, True),
        ("v1.20.0-alpha.1", NEW, True, False),
        ("v1.20.2", NEW, True, False),
        ("v1.24.1", NEW, True, False),
        ("v1.33.3", NEW, True, False),
        ("v1.99.0", NEW, True, False),
    ],
)
def test_flags_have_the_spelling_of_the_version(
    tmp_path: Path, tag: str, signing: str, issuer: bool, insecure_port: bool
) -> None:
    made = units(tmp_path, tag)
    manager, server = flags(made, "kube-controller-manager"), flags(made, "kube-apiserver")
    assert {name: v for name, v in manager.items() if "duration" in name} == {signing: "87600h"}
    token = {"service-account-signing-key-file", "service-account-issuer"}
    assert (token <= server.keys()) is (not token.isdisjoint(server.keys())) is issuer
    if issuer:
        expected = "https://kubernetes.default.svc.example.internal"
        assert server["service-account-issuer"] == expected
    assert server.get("insecure-port") == ("0" if insecure_port else None)


@pytest.mark.parametrize("layout", ["cfssl", "kubeadm"])
def test_every_path_is_that_of_a_planned_file(tmp_path: Path, layout: str) -> None:
    made = units(tmp_path, layout=layout, on_node=PurePosixPath("/opt/k8s"))
    plan = plan_of(tmp_path)
    planned = {p for s in plan.specs for p in (s.certificate, s.key, s.login and s.login.path)}
    planned |= {path for pair in plan.pairs for path in (pair.key, pair.public)}
    for each in made.components:
        values = {str(s.value) for s in each.settings if "/opt/k8s" in str(s.value)}
        assert values == each.files.keys()
        assert set(each.files.values()) <= planned
        for there, here in each.files.items():
            assert there.startswith("/opt/k8s/")
            assert PurePosixPath(there).name == here.name
    ca = "/opt/k8s/ca.pem" if layout == "cfssl" else "/opt/k8s/pki/ca.crt"
    assert flags(made, "kube-apiserver")["client-ca-file"] == ca
    etcd = "/opt/k8s/etcd-ca.pem" if layout == "cfssl" else "/opt/k8s/pki/etcd/ca.crt"
    assert flags(made, "kube-apiserver")["etcd-cafile"] == etcd
    assert flags(made, "etcd")["trusted-ca-file"] == etcd
    kubelet = "kubelet-w1.kubeconfig" if layout == "cfssl" else "kubelet.conf"
    assert flags(made, "nodes/w1/kubelet")["kubeconfig"] == f"/opt/k8s/{kubelet}"


def test_with_one_ca_only_the_front_proxy_may_name_users(tmp_path: Path) -> None:
    server = flags(units(tmp_path, more="cas = 1"), "kube-apiserver")
    assert server["requestheader-client-ca-file"] == server["client-ca-file"]
    assert server["requestheader-allowed-names"] == "front-proxy-client"


def test_the_file_of_a_kubelet_says_what_its_flags_say(tmp_path: Path) -> None:
    made = units(tmp_path)
    told = flags(made, "nodes/m1/kubelet")
    [text] = [f.content for f in made.files if f.name == "nodes/m1/kubelet-config.yaml"]
    assert yaml.safe_load(text) == {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "x509": {"clientCAFile": told["client-ca-file"]},
            "anonymous": {"enabled": False},
        },
        "authorization": {"mode": told["authorization-mode"]},
        "rotateCertificates": True,
        "tlsCertFile": told["tls-cert-file"],
        "tlsPrivateKeyFile": told["tls-private-key-file"],
    }
    assert told["anonymous-auth"] == "false"


def test_what_is_not_in_the_plan_is_said(tmp_path: Path) -> None:
    made = units(tmp_path, more='components = ["apiserver", "controller-manager"]')
    assert {each.name for each in made.components} == {"kube-apiserver", "kube-controller-manager"}
    *left_out, others = made.notes
    assert any("gets no `--service-account-private-key-file`" in note for note in left_out)
    assert others.startswith("Nothing is written for etcd, flanneld, kube-scheduler,")


def test_without_the_key_of_the_ca_nothing_is_signed(tmp_path: Path) -> None:
    made = units(tmp_path, more='ca-keys = "/media/ca"')
    manager = flags(made, "kube-controller-manager")
    assert not [name for name in manager if "signing" in name]
    assert "root-ca-file" in manager
    assert any("/media/ca" in note and NEW in note for note in made.notes)


def test_the_signing_duration_can_be_given(tmp_path: Path) -> None:
    made = units(tmp_path, signing_years=3)
    assert flags(made, "kube-controller-manager")[NEW] == "26280h"


def test_each_node_gets_what_its_roles_need(tmp_path: Path) -> None:
    readme = units(tmp_path).files[0].content
    lines = " ".join(readme.split())
    assert "- w1: flanneld, kube-proxy, kubelet" in lines
    assert "- m1: etcd, flanneld, kube-apiserver, kube-controller-manager" in lines


def test_files_of_cfssl_need_what_cfssl_does_not_tell(recipe: Recipe) -> None:
    recipe.request("kubernetes", {"CN": "kubernetes", "hosts": ["a"], "key": KEY})
    recipe.request("kube-proxy", {"CN": "system:kube-proxy", "hosts": [], "key": KEY})
    recipe.request("cm", {"CN": "system:kube-controller-manager", "hosts": [], "key": KEY})
    made = make_units(
        recipe.folder,
        "v1.20.2",
        certificates={"etcd-server": "server", "apiserver-kubelet-client": "client"},
        profiles={"kubernetes": "server", "kube-proxy": "client", "cm": "client"},
    )
    server = flags(made, "kube-apiserver")
    assert server["kubelet-client-certificate"] == "/etc/kubernetes/pki/client.pem"
    assert "service-account-issuer" not in server
    assert flags(made, "etcd")["cert-file"] == "/etc/kubernetes/pki/server.pem"
    told = "\n".join(made.notes)
    assert "`--use service-account=NAME` names one" in told
    assert "`--cluster-signing-duration`: no lifetime was given with --signing-years." in told
    assert "/etc/kubernetes/pki/kube-proxy.kubeconfig" in told
    assert "--clusterrole=system:kubelet-api-admin --user=flanneld`" in told
    assert flags(made, "kube-proxy") == {"kubeconfig": "/etc/kubernetes/pki/kube-proxy.kubeconfig"}


@pytest.mark.parametrize("folder", ["/a b", "/a%b", '/a"', "/a$b", "/a\nb", "/a\\b", "/ä"])
def test_a_path_that_systemd_would_change_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(NotForUnits):
        units(tmp_path, on_node=PurePosixPath(folder))


def test_an_encrypted_key_of_a_ca_is_not_given_to_the_controller_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = 'key = "ecdsa-p256"'
    planned = units(tmp_path, more=f"{key}\nencrypt-ca-keys = true")
    monkeypatch.setenv(PASSWORD, "secret")
    issue(tmp_path)
    issued = units(tmp_path, more=key)  # what counts is the key that is there
    for made in (planned, issued):
        assert not [name for name in flags(made, "kube-controller-manager") if "signing" in name]
        assert any("the key of ca is encrypted" in note and NEW in note for note in made.notes)


def test_the_controller_manager_signs_with_one_certificate_during_a_rotation(
    tmp_path: Path,
) -> None:
    more = 'key = "ecdsa-p256"'
    units(tmp_path, more=more)
    issue(tmp_path)
    rotate(tmp_path, "begin", "etcd-ca")
    assert not [note for note in units(tmp_path, more=more).notes if "replaced" in note]
    for step in ("begin", "leaves"):
        rotate(tmp_path, step, "ca")
        made = units(tmp_path, more=more)
        manager = flags(made, "kube-controller-manager")
        assert manager["cluster-signing-cert-file"] == "/etc/kubernetes/pki/ca-signing.pem"
        assert manager["root-ca-file"] == "/etc/kubernetes/pki/ca.pem"
        [files] = [e.files for e in made.components if e.name == "kube-controller-manager"]
        there = files["/etc/kubernetes/pki/ca-signing.pem"]
        assert there == tmp_path / "pki/ca-signing.pem"
        assert there.exists()
        [note] = [note for note in made.notes if "replaced" in note]
        assert "signs with ca-signing.pem" in note
    rotate(tmp_path, "end", "ca")
    manager = flags(units(tmp_path, more=more), "kube-controller-manager")
    assert manager["cluster-signing-cert-file"] == "/etc/kubernetes/pki/ca.pem"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("kube client", "--user='kube client'`"),
        ("x; curl evil|sh", "--user='x; curl evil|sh'`"),
        ("x\n\n# Run this", ""),
        ("x\x1b[2J", ""),
        ("x` <b>", ""),
        ("Söhne", ""),
    ],
)
def test_a_user_of_any_name_is_safe_in_the_command(recipe: Recipe, name: str, shown: str) -> None:
    recipe.change("client", CN=name)
    uses = {"apiserver-kubelet-client": "client", "apiserver": "server"}
    made = make_units(recipe.folder, "v1.20.2", certificates=uses)
    [note] = [each for each in made.notes if each.startswith("Kubelets ask")]
    readme = made.files[0].content
    if shown:
        assert shown in note
        assert note.count(name) == note.count(f"`{name}`") + 1
        assert f"`{name}`" in readme
    else:
        assert "the certificate client" in note
        assert name not in readme + note
        assert "\x1b" not in readme + note
        assert "clusterrolebinding" not in note


@pytest.mark.parametrize("name", ["../../x", "a\n[Service]", "/etc", "..", "", "a b"])
def test_what_no_node_is_called_is_no_kubelet(recipe: Recipe, name: str) -> None:
    recipe.change("client", CN=f"system:node:{name}", names=[{"O": "system:nodes"}])
    made = make_units(recipe.folder, "v1.20.2")
    assert "kubelet" not in {each.name for each in made.components}
    recipe.change("client", CN="system:node:n1.example", names=[{"O": "system:nodes"}])
    made = make_units(recipe.folder, "v1.20.2")
    assert "nodes/n1.example/kubelet-config.yaml" in {each.name for each in made.files}
