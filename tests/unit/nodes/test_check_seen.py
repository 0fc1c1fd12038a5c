"""What a check sees of the files, manifests and processes of a node."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kbuild.certs.api import inventory_of, take_inventory
from kbuild.certs.model import Inventory
from kbuild.nodes.check.seen import Stored
from kbuild.nodes.check.served import ports_of
from tests.support.authority import NOW, issue, kubeconfig
from tests.support.node_tree import BOOT, look, write_manifests, write_node, write_process
from tests.support.recorder import Recorder

PLACES = (Path("/etc/kubernetes"), Path("/var/lib/kubelet/pki"))


def there(root: Path) -> Inventory:
    """Return the inventory that `kbuild certs` takes of the node itself."""
    paths = [root / str(place)[1:] for place in PLACES]
    return take_inventory(paths, NOW, Recorder())


def from_afar(root: Path) -> Inventory:
    return inventory_of(look(root).copies, PLACES, NOW, Recorder())


@pytest.mark.slow
def test_an_inventory_from_afar_is_that_of_the_node(tmp_path: Path) -> None:
    write_node(tmp_path)
    here, afar = there(tmp_path), from_afar(tmp_path)
    assert [each.path for each in afar.certificates] == [
        each.path.removeprefix(str(tmp_path)) for each in here.certificates
    ]
    for mine, theirs in zip(afar.certificates, here.certificates, strict=True):
        assert mine.fingerprint == theirs.fingerprint
        assert mine.owner == theirs.owner
        assert (mine.role, mine.chain, mine.is_superseded) == (
            theirs.role,
            theirs.chain,
            theirs.is_superseded,
        )
        if not mine.place.startswith("clusters"):  # without the key, which CA it is the same as
            assert (mine.private_key is None) == (theirs.private_key is None), mine.path
    assert [(each.kind, each.path) for each in afar.findings] == [
        (each.kind, each.path.removeprefix(str(tmp_path))) for each in here.findings
    ]


@pytest.mark.slow
def test_keys_that_stay_on_the_node_are_no_findings(tmp_path: Path) -> None:
    write_node(tmp_path)
    (tmp_path / "etc/kubernetes/pki/ca.key").chmod(0o644)
    afar = from_afar(tmp_path)
    keys = [each.private_key for each in afar.certificates if not each.place.startswith("clusters")]
    assert [key.fits for key in keys if key] == [True] * len(keys)
    kinds = {each.kind: each for each in afar.findings}
    assert set(kinds) & {"key-missing", "ca-key-missing", "key-mismatch", "key-unreadable"} == set()
    assert kinds["key-readable"].path == "/etc/kubernetes/pki/ca.key"
    assert kinds["key-readable"].command == "chmod 600 /etc/kubernetes/pki/ca.key"


@pytest.mark.slow
def test_whether_keys_fit_is_not_known_without_an_openssl_that_works(tmp_path: Path) -> None:
    root, tools = tmp_path / "root", tmp_path / "bin"
    write_node(root)
    tools.mkdir()
    (tools / "openssl").write_text("#!/bin/sh\nexit 1\n")
    (tools / "openssl").chmod(0o755)
    copies = look(root, path=f"{tools}:/usr/bin:/bin").copies
    afar = inventory_of(copies, PLACES, NOW, Recorder())
    keys = [each.private_key for each in afar.certificates if each.private_key]
    assert {key.fits for key in keys} == {None}


@pytest.mark.slow
def test_a_key_that_does_not_fit_is_a_finding_from_afar(tmp_path: Path) -> None:
    ca = write_node(tmp_path)
    other = issue("kube-apiserver", ca)
    (tmp_path / "etc/kubernetes/pki/apiserver.key").write_bytes(other.key_pem)
    admin = tmp_path / "etc/kubernetes/admin.conf"
    admin.write_bytes(kubeconfig("kubernetes-admin", replace(issue("x", ca), key=other.key), ca))
    found = [each for each in from_afar(tmp_path).findings if each.kind == "key-mismatch"]
    assert sorted(each.path for each in found) == [
        str(admin).removeprefix(str(tmp_path)),
        "/etc/kubernetes/pki/apiserver.crt",
    ]
    assert [each.kind for each in there(tmp_path).findings].count("key-mismatch") == 2


@pytest.mark.slow
def test_of_several_keys_in_a_file_none_is_compared(tmp_path: Path) -> None:
    ca = write_node(tmp_path)
    one, two = issue("one", ca), issue("two", ca)
    file = tmp_path / "etc/kubernetes/pki/both.pem"
    file.write_bytes(one.pem + two.key_pem + one.key_pem)
    found = [each for each in from_afar(tmp_path).certificates if each.path.endswith("both.pem")]
    assert [each.private_key and each.private_key.fits for each in found] == [None]


@pytest.mark.slow
def test_an_external_ca_is_one_from_afar_too(tmp_path: Path) -> None:
    write_node(tmp_path)
    (tmp_path / "etc/kubernetes/pki/ca.key").unlink()
    assert "ca-key-missing" in {each.kind for each in from_afar(tmp_path).findings}


@pytest.mark.slow
def test_names_of_files_are_kept_whatever_they_are(tmp_path: Path) -> None:
    write_node(tmp_path)
    old = tmp_path / "etc/kubernetes/pki/apiserver.crt"
    odd = tmp_path / "etc/kubernetes/ä b'$(x)\u202e.crt"
    odd.write_bytes(old.read_bytes())
    assert str(odd).removeprefix(str(tmp_path)) in {each.path for each in look(tmp_path).copies}


@pytest.mark.slow
def test_what_is_no_certificate_is_a_finding(tmp_path: Path) -> None:
    ca = write_node(tmp_path)
    pki = tmp_path / "etc/kubernetes/pki"
    (pki / "der.crt").write_bytes(ca.der)
    (pki / "text.crt").write_text("not a certificate")
    (pki / "large.crt").write_bytes(b"x" * (1 << 20) + b"x")
    found = {each.path.rpartition("/")[2]: each for each in from_afar(tmp_path).findings}
    assert "it is DER" in found["der.crt"].reason
    assert found["text.crt"].kind == "not-a-certificate"
    assert found["large.crt"].kind == "too-large"


@pytest.mark.slow
def test_flags_are_seen_but_not_those_that_may_be_secret(tmp_path: Path) -> None:
    write_node(tmp_path)
    write_manifests(tmp_path, apiserver="--oidc-client-secret=5ec7e7 --token-auth-file=/etc/t.csv")
    apiserver = look(tmp_path).components["kube-apiserver"]
    assert apiserver.version == "v1.31.2"
    assert apiserver.flags["tls-cert-file"] == "/etc/kubernetes/pki/apiserver.crt"
    assert apiserver.flags["oidc-client-secret"] == ""
    assert apiserver.flags["token-auth-file"] == "/etc/t.csv"


@pytest.mark.slow
def test_ports_are_those_of_the_manifests(tmp_path: Path) -> None:
    write_node(tmp_path)
    pki = "/etc/kubernetes/pki"
    write_manifests(
        tmp_path,
        etcd="--listen-metrics-urls=http://127.0.0.1:2381",
        apiserver="--secure-port=7443 --bind-address=0.0.0.0",
    )
    ports = {each.number: (each.address, each.file) for each in ports_of(look(tmp_path))}
    assert ports == {
        2379: ("127.0.0.1", f"{pki}/etcd/server.crt"),
        2380: ("192.0.2.1", f"{pki}/etcd/peer.crt"),
        7443: ("127.0.0.1", f"{pki}/apiserver.crt"),
        10250: ("127.0.0.1", "/var/lib/kubelet/pki/kubelet.crt"),
    }


@pytest.mark.slow
def test_processes_are_those_of_this_control_plane(tmp_path: Path) -> None:
    write_node(tmp_path)
    write_process(tmp_path, 7, "kube-controller-manager", 60, "--kubeconfig=/etc/kubernetes/x.conf")
    write_process(tmp_path, 8, "etcd", 70, "--cert-file=/opt/other/etcd.crt")
    write_process(tmp_path, 9, "kubelet", 80.5)
    began = datetime.fromtimestamp(BOOT, UTC)
    assert look(tmp_path).started == {
        "kube-controller-manager": began + timedelta(seconds=60),
        "kubelet": began + timedelta(seconds=80.5),
    }


@pytest.mark.slow
def test_stored_lifetimes_are_read_with_kubectl(tmp_path: Path) -> None:
    root, tools = tmp_path / "root", tmp_path / "bin"
    write_node(root)
    tools.mkdir()
    kubectl = tools / "kubectl"
    config = r'"certificateValidityPeriod: 8760h0m0s\ncaCertificateValidityPeriod: 87600h0m0s\n"'
    kubectl.write_text(
        f'#!/bin/sh\ncat <<\'E\'\n{{"data": {{"ClusterConfiguration": {config}}}}}\nE\n'
    )
    kubectl.chmod(0o755)
    path = f"{tools}:/usr/bin:/bin"
    assert look(root, path=path).stored == Stored(leaf="8760h0m0s", ca="87600h0m0s")
    kubectl.write_text("#!/bin/sh\nexit 1\n")
    broken = look(root, path=path).stored
    assert broken == Stored(problem="the API server does not give it")


@pytest.mark.slow
def test_a_worker_has_no_stored_lifetimes(tmp_path: Path) -> None:
    write_node(tmp_path)
    (tmp_path / "etc/kubernetes/admin.conf").unlink()
    assert look(tmp_path).stored is None
