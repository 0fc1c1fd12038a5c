"""pki.toml: the names that are derived from it, and the mistakes in it."""

from pathlib import Path

import pytest

from kbuild.base.errors import KbuildError
from kbuild.pki.api import plan_of
from kbuild.pki.model import Plan, Spec

TOML = """\
layout = "cfssl"
key = "ecdsa-p256"
cluster-domain = "example.internal"
service-network = ["10.32.0.0/24", "fd00::/108"]
vips = ["192.0.2.100", "api.example.org"]
ca-years = 50
leaf-years = 10

[nodes.m1]
addresses = ["192.0.2.11", "2001:db8::11"]
roles = ["control-plane"]

[nodes.e1]
addresses = ["192.0.2.21"]
roles = ["etcd"]

[nodes."w1.example.org"]
addresses = ["192.0.2.31"]
"""


def plan(folder: Path, text: str = TOML) -> Plan:
    (folder / "pki.toml").write_text(text)
    return plan_of(folder)


def hosts(spec: Spec) -> set[str]:
    return {name.partition(":")[2] for name in spec.wanted.names}


LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def test_the_api_server_is_known_by_every_name_that_clients_use(tmp_path: Path) -> None:
    assert hosts(plan(tmp_path).spec("kubernetes")) == LOOPBACK | {
        *("kubernetes", "kubernetes.default", "kubernetes.default.svc"),
        "kubernetes.default.svc.example.internal",
        *("10.32.0.1", "fd00::1", "192.0.2.100", "api.example.org"),
        *("m1", "192.0.2.11", "2001:db8::11"),
    }


def test_etcd_and_kubelets_are_known_by_their_own_names(tmp_path: Path) -> None:
    planned = plan(tmp_path)
    assert hosts(planned.spec("etcd")) == LOOPBACK | {"e1", "192.0.2.21"}
    worker = planned.spec("kubelet-w1.example.org")
    assert hosts(worker) == {"w1.example.org", "192.0.2.31"}
    assert worker.wanted.subject == (
        ("O", ("system:nodes",)),
        ("CN", ("system:node:w1.example.org",)),
    )
    assert {"server auth", "client auth"} < set(worker.wanted.usages)


@pytest.mark.parametrize(
    ("name", "ca", "user", "group"),
    [
        ("kube-controller-manager", "ca", "system:kube-controller-manager", ""),
        ("kube-scheduler", "ca", "system:kube-scheduler", ""),
        ("kube-proxy", "ca", "system:kube-proxy", ""),
        ("admin", "ca", "kubernetes-admin", "system:masters"),
        ("apiserver-kubelet-client", "ca", "kube-apiserver-kubelet-client", "system:masters"),
        ("apiserver-etcd-client", "etcd-ca", "kube-apiserver-etcd-client", ""),
        ("flanneld", "etcd-ca", "flanneld", ""),
        ("front-proxy-client", "front-proxy-ca", "front-proxy-client", ""),
    ],
)
def test_a_client_is_who_rbac_wants(
    tmp_path: Path, name: str, ca: str, user: str, group: str
) -> None:
    spec = plan(tmp_path).spec(name)
    subject = dict(spec.wanted.subject)
    assert (spec.issuer, subject["CN"], subject.get("O", ("",))) == (ca, (user,), (group,))
    assert "client auth" in spec.wanted.usages
    assert "server auth" not in spec.wanted.usages


def test_one_ca_signs_all_and_the_danger_is_said(tmp_path: Path) -> None:
    planned = plan(tmp_path, f"cas = 1\n{TOML}")
    assert {each.issuer for each in planned.specs} == {"", "ca"}
    assert any("--requestheader-allowed-names" in note for note in planned.notes)


def test_only_chosen_components_are_planned(tmp_path: Path) -> None:
    planned = plan(tmp_path, f'components = ["flannel"]\n{TOML}')
    assert [each.name for each in planned.specs if each.issuer] == ["flanneld"]
    assert planned.pairs == ()


def test_the_layout_of_kubeadm_has_its_paths(tmp_path: Path) -> None:
    planned = plan(tmp_path, TOML.replace('"cfssl"', '"kubeadm"'))
    places = {str(each.place.relative_to(tmp_path / "pki")) for each in planned.specs}
    assert places == {
        *("pki/ca.crt", "pki/etcd/ca.crt", "pki/front-proxy-ca.crt", "pki/apiserver.crt"),
        *("pki/apiserver-kubelet-client.crt", "pki/apiserver-etcd-client.crt"),
        *("pki/etcd/server.crt", "pki/etcd/peer.crt", "pki/etcd/healthcheck-client.crt"),
        *("pki/front-proxy-client.crt", "pki/flannel-etcd-client.crt"),
        *("admin.conf", "controller-manager.conf", "scheduler.conf", "kube-proxy.conf"),
        *(f"nodes/{n}/kubelet.conf" for n in ("m1", "e1", "w1.example.org")),
        *(f"nodes/{n}/kubelet.crt" for n in ("m1", "e1", "w1.example.org")),
    }
    [pair] = planned.pairs
    assert (pair.key.name, pair.public.name) == ("sa.key", "sa.pub")


def test_keys_of_cas_can_be_elsewhere(tmp_path: Path) -> None:
    planned = plan(tmp_path, f'ca-keys = "usb"\n{TOML}')
    assert planned.spec("etcd-ca").key == tmp_path / "usb/etcd-ca-key.pem"
    assert planned.spec("etcd").key == tmp_path / "pki/etcd-key.pem"


def test_service_accounts_have_no_ed25519_key(tmp_path: Path) -> None:
    planned = plan(tmp_path, TOML.replace("ecdsa-p256", "ed25519"))
    assert planned.spec("ca").key_kind.algorithm == "ed25519"
    assert planned.pairs[0].key_kind.algorithm == "ecdsa"


@pytest.mark.parametrize(
    ("old", "new", "kind", "said"),
    [
        ("vips =", "vip =", "unknown-pki-key", "did you mean vips"),
        ('"cfssl"', '"cfsl"', "bad-pki-file", "did you mean cfssl"),
        ('"control-plane"]', '"control-plan"]', "unknown-pki-key", "did you mean control-plane"),
        ("addresses =", "address =", "unknown-pki-key", "did you mean addresses"),
        ('"192.0.2.21"', '"192.0.2.31"', "duplicate-name", "in the nodes e1 and w1.example.org"),
        ('"192.0.2.21"', '"192.0.2.21:22"', "bad-host", "nodes.e1.addresses"),
        ('["192.0.2.21"]', "[]", "bad-pki-file", "nodes.e1 has no addresses"),
        ("nodes.e1", "nodes.E1", "bad-pki-file", "cannot be called 'E1'"),
        ("10.32.0.0/24", "10.32.0.1/24", "bad-pki-file", "host bits"),
        ("= 50", "= 0", "bad-pki-file", "from 1 to 292"),
        ("= 50", '= "50"', "bad-pki-file", "a whole number"),
        ("ecdsa-p256", "rsa-1024", "bad-pki-file", "rsa-"),
        ("layout", "components = ['flanel']\nlayout", "unknown-pki-key", "did you mean flannel"),
        ("layout", "cas = 2\nlayout", "bad-pki-file", "1 or 3"),
        ("layout", "layout", "bad-pki-file", "not TOML"),
    ],
)
def test_a_mistake_is_refused(tmp_path: Path, old: str, new: str, kind: str, said: str) -> None:
    text = TOML.replace(old, new, 1) if old != new else f"{TOML}["
    with pytest.raises(KbuildError) as caught:
        plan(tmp_path, text)
    assert caught.value.kind == kind
    assert said in f"{caught.value.happened} {caught.value.hint}"


def test_kubeadm_reads_no_ed25519(tmp_path: Path) -> None:
    with pytest.raises(KbuildError, match="RSA and ECDSA"):
        plan(tmp_path, 'layout = "kubeadm"\nkey = "ed25519"\n')


@pytest.mark.parametrize("domain", ["*.x", "a@b.c", "https://x", "10.0.0.1", "::1"])
def test_the_domain_of_a_cluster_is_a_dns_name(tmp_path: Path, domain: str) -> None:
    with pytest.raises(KbuildError, match="cluster-domain cannot be") as caught:
        plan(tmp_path, f'cluster-domain = "{domain}"\n')
    assert caught.value.kind == "bad-pki-file"


@pytest.mark.parametrize("name", ["ca", "etcd-ca"])
def test_a_ca_keeps_the_usages_of_a_ca(tmp_path: Path, name: str) -> None:
    with pytest.raises(KbuildError, match=f"certificates.{name}.usages is that of a CA") as caught:
        plan(tmp_path, f'[certificates.{name}]\nusages = ["server auth"]\n')
    assert caught.value.kind == "bad-pki-file"
