"""Each finding is found where it should be, and nowhere else; its command is a real one."""

import base64
import os
import shlex
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from kbuild.certs import commands
from kbuild.certs.api import take_inventory
from kbuild.certs.model import Certificate, Finding, Inventory
from tests.support.authority import (
    CLIENT,
    DAY,
    NOW,
    SERVER,
    YEAR,
    Issued,
    control_plane,
    issue,
    key_pem,
    kubeconfig,
    write_kubeconfig,
)
from tests.support.recorder import Recorder
from tests.unit.certs.conftest import Read

ADVISE = 'kbuild advise --version "$(kubeadm version -o short)"'
SHA1 = Path(__file__).parents[2] / "support/sha1.pem"


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    return tmp_path / "kubernetes"


def of(inventory: Inventory, kind: str) -> list[Finding]:
    return [found for found in inventory.findings if found.kind == kind]


def only(inventory: Inventory, kind: str) -> Finding:
    [found] = of(inventory, kind)
    return found


def at(inventory: Inventory, path: Path, place: str = "") -> Certificate:
    [found] = [c for c in inventory.certificates if c.path == str(path) and c.place == place]
    return found


def test_a_new_control_plane_has_no_findings(etc: Path, read: Read) -> None:
    control_plane(etc)
    inventory = read(etc)
    assert inventory.findings == ()
    assert len(inventory.certificates) == 9
    assert {c.chain for c in inventory.certificates} == {"verified", "self-signed"}
    assert all(c.private_key and c.private_key.fits for c in inventory.certificates)
    apiserver = at(inventory, etc / "pki/apiserver.crt")
    assert apiserver.role == "API server, server"
    assert apiserver.issued_by == str(etc / "pki/ca.crt")
    assert apiserver.names == ("DNS:kubernetes",)
    assert apiserver.key == "ECDSA P-256"
    assert apiserver.usages == ("server auth",)
    admin = at(inventory, etc / "admin.conf", "users[kubernetes-admin].client-certificate-data")
    assert admin.role == "administrator, client"


@pytest.mark.parametrize(
    ("days", "kind", "severity"),
    [
        (-1, "expired", "critical"),
        (0, "expired", "critical"),
        (29, "expires-soon", "critical"),
        (30, "expires-soon", "warning"),
        (89, "expires-soon", "warning"),
    ],
)
def test_what_ends_soon(days: int, kind: str, severity: str, etc: Path, read: Read) -> None:
    ca = control_plane(etc)
    issue("kube-apiserver", ca, years=(days + 1) / 365).write(etc / "pki/apiserver.crt")
    found = only(read(etc), kind)
    assert (found.severity, found.path) == (severity, str(etc / "pki/apiserver.crt"))
    assert found.command == f"kubeadm certs renew apiserver --cert-dir {etc / 'pki'}"


def test_what_ends_in_90_days_is_fine(etc: Path, read: Read) -> None:
    issue("a", years=91 / 365, ca=True).write(etc / "ca.crt")
    assert read(etc).findings == ()


def test_what_is_not_valid_yet(etc: Path, read: Read) -> None:
    issue("a", born=NOW + DAY, ca=True).write(etc / "ca.crt")
    assert only(read(etc), "not-yet-valid").command == "timedatectl status"


def test_a_ca_of_ten_years_under_leaves_of_a_hundred(etc: Path, read: Read) -> None:
    control_plane(etc, ca_years=10, leaf_years=100)
    found = {found.path: found for found in of(read(etc), "leaf-outlives-ca")}
    assert set(found) == {str(etc / "pki/ca.crt"), str(etc / "pki/etcd/ca.crt")}
    assert "3 certificates" in found[str(etc / "pki/ca.crt")].reason
    assert "that are not valid without it" in found[str(etc / "pki/ca.crt")].reason
    words = shlex.split(found[str(etc / "pki/etcd/ca.crt")].command)
    assert (words[:2], words[-1]) == (["kbuild", "advise"], str(etc))


def test_equal_lifetimes_are_fine_though_leaves_are_younger(etc: Path, read: Read) -> None:
    ca = issue("kubernetes", years=100, ca=True)
    ca.write(etc / "pki/ca.crt")
    issue("x", ca, years=100, born=NOW - DAY + timedelta(minutes=5)).write(etc / "pki/x.crt")
    assert read(etc).findings == ()


def test_a_control_plane_that_was_renewed_in_part(etc: Path, read: Read) -> None:
    ca = control_plane(etc)
    issue("kube-apiserver", ca, years=5).write(etc / "pki/apiserver.crt")
    found = only(read(etc), "peers-differ")
    assert "5 of 6 certificates" in found.reason
    assert "etcd-server" in found.command
    assert found.command.startswith("for each in ")
    assert found.command.endswith(
        f'; do kubeadm certs renew "$each" --cert-dir {etc / "pki"}; done'
    )


def test_all_is_renewed_at_once_only_where_kubeadm_looks_for_it() -> None:
    """With --cert-dir, ``renew all`` signs the kubeconfigs of /etc/kubernetes by another CA."""
    names = ("apiserver", "front-proxy-client")
    pki = [(f"{commands.PKI}/{name}.crt", name) for name in names]
    admin = ("/etc/kubernetes/admin.conf", "admin.conf")
    assert commands.renew_all([*pki, admin]) == "kubeadm certs renew all"
    assert commands.renew_all([admin]) == "kubeadm certs renew all"
    other = [("/k/pki/apiserver.crt", "apiserver"), ("/k/admin.conf", "admin.conf")]
    assert commands.renew_all(other) == (
        'for each in apiserver; do kubeadm certs renew "$each" --cert-dir /k/pki; done'
    )
    assert commands.renew_all(other[1:]) == ""


@pytest.mark.parametrize("typed", ["pki", "./pki", "../kubernetes/pki", "link/../pki"])
def test_a_folder_gets_the_same_advice_however_it_is_typed(
    typed: str, etc: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_plane(etc, ca_years=0.1, leaf_years=0.1)
    (etc / "link").symlink_to(etc / "pki/etcd")
    expected = read(etc / "pki")
    assert any(found.command == f"{ADVISE} {etc}" for found in expected.findings)
    monkeypatch.chdir(etc)
    # "link/.." is the folder that the link leads into, as for every program that opens it.
    folder = Path("link/..") if typed.startswith("link") else Path(typed)
    assert read(folder).findings == expected.findings
    monkeypatch.chdir(etc / "pki")
    assert read(Path()).findings == expected.findings
    assert (
        read(*map(Path, ("ca.crt", "ca.key"))).findings
        == read(etc / "pki/ca.crt", etc / "pki/ca.key").findings
    )


def test_a_kubeconfig_is_compared_with_the_ca_beside_it_in_the_current_directory(
    etc: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_plane(etc)
    other = issue("kubernetes", ca=True)
    write_kubeconfig(etc / "admin.conf", kubeconfig("kubernetes-admin", admin(other), other))
    monkeypatch.chdir(etc)
    assert only(read(Path()), "kubeconfig-other-ca").path == str(etc / "admin.conf")


def test_a_pattern_for_a_path_may_be_relative(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control_plane(etc)
    monkeypatch.chdir(etc)
    for pattern in ("pki/etcd", "./pki/etcd", f"{etc}/pki/etcd", "*/pki/etcd", "etcd"):
        inventory = take_inventory((Path("pki"),), NOW, Recorder(), (pattern,))
        assert not [c for c in inventory.certificates if "/etcd/" in c.path], pattern


def test_a_key_that_does_not_fit(etc: Path, read: Read) -> None:
    control_plane(etc)
    shutil.copy(etc / "pki/ca.key", etc / "pki/apiserver.key")
    inventory = read(etc)
    assert only(inventory, "key-mismatch").path == str(etc / "pki/apiserver.crt")
    key = at(inventory, etc / "pki/apiserver.crt").private_key
    assert key is not None
    assert key.fits is False


def test_a_key_that_is_missing(etc: Path, read: Read) -> None:
    control_plane(etc)
    (etc / "pki/apiserver.key").unlink()
    found = only(read(etc), "key-missing")
    assert (found.path, found.severity) == (str(etc / "pki/apiserver.crt"), "warning")


@pytest.mark.parametrize(
    ("mode", "severity"), [(0o644, "critical"), (0o640, "warning"), (0o602, "critical")]
)
def test_a_key_that_others_may_use(mode: int, severity: str, etc: Path, read: Read) -> None:
    control_plane(etc)
    (etc / "pki/apiserver.key").chmod(mode)
    found = only(read(etc), "key-readable")
    assert found.severity == severity
    assert found.command == f"chmod 600 {etc / 'pki/apiserver.key'}"
    assert f"{mode:04o}" in found.reason


def test_a_kubeconfig_that_others_may_read_holds_a_key_too(etc: Path, read: Read) -> None:
    control_plane(etc)
    (etc / "admin.conf").chmod(0o644)
    assert only(read(etc), "key-readable").path == str(etc / "admin.conf")


def test_an_encrypted_key(etc: Path, read: Read) -> None:
    leaf = issue("x", issue("ca", ca=True))
    leaf.write(etc / "x.crt")
    (etc / "x.key").write_bytes(key_pem(leaf.key, b"secret"))
    inventory = read(etc)
    assert only(inventory, "key-encrypted").severity == "info"
    key = at(inventory, etc / "x.crt").private_key
    assert key is not None
    assert (key.fits, key.encrypted) == (None, True)
    assert of(inventory, "key-mismatch") == []


def test_a_ca_without_a_key_is_an_external_one(etc: Path, read: Read) -> None:
    control_plane(etc)
    (etc / "pki/etcd/ca.key").unlink()
    assert only(read(etc), "ca-key-missing").path == str(etc / "pki/etcd/ca.crt")


def test_a_worker_has_the_ca_without_its_key(etc: Path, read: Read) -> None:
    issue("kubernetes", ca=True).write(etc / "pki/ca.crt")
    (etc / "pki/ca.key").unlink()
    assert read(etc).findings == ()


def test_weak_keys_and_signatures(etc: Path, read: Read) -> None:
    ca = issue("ca", ca=True)
    ca.write(etc / "ca.crt")
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    issue("x", ca, key=small).write(etc / "small.crt")
    assert only(read(etc), "weak-key").path == str(etc / "small.crt")
    assert of(read(etc), "weak-signature") == []


def test_a_sha1_root_is_fine_and_a_sha1_leaf_is_not(etc: Path, read: Read) -> None:
    etc.mkdir()
    file = Path(shutil.copy(SHA1, etc / "both.pem"))  # made with openssl: the library refuses to
    inventory = read(etc)
    assert only(inventory, "weak-signature").place == "certificate 2"
    assert at(inventory, file).chain == "self-signed"
    assert at(inventory, file, "certificate 2").chain == "verified"


def test_an_unknown_issuer(etc: Path, read: Read) -> None:
    issue("x", issue("ca", ca=True)).write(etc / "x.crt")
    inventory = read(etc)
    assert only(inventory, "unknown-issuer").severity == "info"
    assert at(inventory, etc / "x.crt").chain == "unknown-issuer"


def test_a_ca_of_the_same_name_that_did_not_sign_it(etc: Path, read: Read) -> None:
    control_plane(etc)
    issue("kubernetes", ca=True, years=10).write(etc / "pki/ca.crt")
    (etc / "admin.conf").unlink()  # it embeds the CA that signed them
    inventory = read(etc)
    assert {f.path for f in of(inventory, "bad-signature")} > {str(etc / "pki/apiserver.crt")}
    assert at(inventory, etc / "pki/apiserver.crt").issued_by is None


@pytest.mark.parametrize("same_key", [True, False])
def test_after_a_renewal_of_the_ca_both_are_tried(same_key: bool, etc: Path, read: Read) -> None:
    old = control_plane(etc)
    new = issue("kubernetes", ca=True, years=100, key=old.key if same_key else None)
    (etc / "pki/ca.crt").write_bytes(new.pem + old.pem)
    (etc / "pki/ca.key").write_bytes(new.key_pem)
    issue("kube-apiserver", new, years=1).write(etc / "pki/apiserver.crt")
    inventory = read(etc)
    assert {c.chain for c in inventory.certificates} == {"verified", "self-signed"}
    assert at(inventory, etc / "pki/ca.crt", "certificate 2").not_after < NOW + 11 * 365 * DAY


def test_an_intermediate_ca_without_its_root(etc: Path, read: Read) -> None:
    root = issue("root", ca=True)
    middle = issue("middle", root, ca=True)
    middle.write(etc / "middle.crt")
    issue("x", middle).write(etc / "x.crt")
    leaf = at(read(etc), etc / "x.crt")
    assert (leaf.chain, leaf.issued_by) == ("unknown-issuer", str(etc / "middle.crt"))
    root.write(etc / "root.crt")
    assert at(read(etc), etc / "x.crt").chain == "verified"


def test_a_kubeconfig_of_another_cluster(etc: Path, read: Read) -> None:
    ca = control_plane(etc)
    other = issue("kubernetes", ca=True, years=10)
    admin = issue("kubernetes-admin", ca, organization="system:masters", usages=(CLIENT,))
    write_kubeconfig(etc / "admin.conf", kubeconfig("kubernetes-admin", admin, other))
    found = only(read(etc), "kubeconfig-other-ca")
    assert (found.severity, found.path) == ("critical", str(etc / "admin.conf"))
    assert f"--certificate-authority={etc / 'pki/ca.crt'}" in shlex.split(found.command)


def test_a_kubeconfig_with_the_ca_from_before_it_was_lengthened(etc: Path, read: Read) -> None:
    ca = control_plane(etc)
    issue("kubernetes", ca=True, years=100, key=ca.key).write(etc / "pki/ca.crt")
    found = only(read(etc), "kubeconfig-old-ca")
    assert found.place == "clusters[kubernetes].certificate-authority-data"


def test_a_copied_kubeconfig_that_was_not_renewed(etc: Path, tmp_path: Path, read: Read) -> None:
    ca = control_plane(etc)
    old = issue("kubernetes-admin", ca, years=0.5, organization="system:masters")
    config = tmp_path / "home/.kube/config"
    write_kubeconfig(config, kubeconfig("kubernetes-admin", old, ca))
    found = only(read(etc, config), "kubeconfig-old-certificate")
    assert found.path == str(config)
    assert found.command == f"cp --backup=numbered {etc / 'admin.conf'} {config}"


def test_of_the_copies_of_a_ca_the_one_in_use_is_judged(etc: Path, read: Read) -> None:
    ca = control_plane(etc, ca_years=0.1)
    ca.write(etc / "backup/pki/ca.crt")
    (etc / "pki/a-bundle.crt").write_bytes(ca.pem)
    found = read(etc).findings
    assert [
        f.path for f in found if f.kind == "expires-soon" and f.path.endswith("pki/ca.crt")
    ] == [str(etc / "pki/ca.crt")]
    assert not [f for f in found if "bundle" in f.path]


def test_a_copy_of_admin_conf_stays_that_of_its_user() -> None:
    command = commands.take_over("/home/me/.kube/config", "a.conf", is_whole=True, owner="me:us")
    assert command == (
        "cp --backup=numbered a.conf /home/me/.kube/config && chown me:us /home/me/.kube/config"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_copy_of_admin_conf_is_kept(etc: Path, tmp_path: Path, read: Read) -> None:
    ca = control_plane(etc)
    old = issue("kubernetes-admin", ca, years=0.5, organization="system:masters", usages=(CLIENT,))
    config = tmp_path / "home/.kube/config"
    write_kubeconfig(config, kubeconfig("kubernetes-admin", old, ca))
    os.chown(config, 12345, 54321)
    subprocess.run(
        ["sh", "-c", only(read(etc, config), "kubeconfig-old-certificate").command], check=True
    )
    assert config.read_bytes() == (etc / "admin.conf").read_bytes()
    assert (config.stat().st_uid, config.stat().st_gid) == (12345, 54321)


def kubelet(folder: Path, ca: Issued, years: float = 1) -> Path:
    """Write what kubelet keeps after it rotated its certificate once; return the folder."""
    earlier, now = (
        issue("system:node:n1", ca, born=born, organization="system:nodes", usages=(CLIENT,),
              years=years)
        for born in (NOW - 400 * DAY, NOW - DAY)
    )  # fmt: skip
    folder.mkdir(parents=True)
    for leaf, date in ((earlier, "2025-04-27-12-00-00"), (now, "2026-05-31-12-00-00")):
        file = folder / f"kubelet-client-{date}.pem"
        file.write_bytes(leaf.pem + leaf.key_pem)
        file.chmod(0o600)
    (folder / "kubelet-client-current.pem").symlink_to("kubelet-client-2026-05-31-12-00-00.pem")
    own = issue("n1-ca@1780000000", ca=True)
    serving = issue("n1@1780000000", own)
    (folder / "kubelet.crt").write_bytes(serving.pem + own.pem)
    (folder / "kubelet.key").write_bytes(serving.key_pem)
    (folder / "kubelet.key").chmod(0o600)
    return folder


def test_kubelet_keeps_what_it_has_replaced(etc: Path, tmp_path: Path, read: Read) -> None:
    ca = control_plane(etc)
    folder = kubelet(tmp_path / "kubelet/pki", ca)
    inventory = read(etc, folder)
    assert at(inventory, folder / "kubelet-client-current.pem").role == "kubelet, client"
    assert at(inventory, folder / "kubelet-client-2025-04-27-12-00-00.pem").role.endswith(
        "(earlier)"
    )
    assert len([c for c in inventory.certificates if c.path.startswith(str(folder))]) == 4
    assert {found.kind for found in inventory.findings} == {"kubelet-serving-self-signed"}


def test_the_serving_certificate_of_a_kubelet_is_moved_away_with_its_key(
    tmp_path: Path, read: Read
) -> None:
    folder = kubelet(tmp_path / "kubelet/pki", issue("kubernetes", ca=True))
    inventory = read(folder, now=NOW + 350 * DAY)
    found = [f for f in inventory.findings if f.path == str(folder / "kubelet.crt")]
    command, other = (each.command for each in found if each.kind == "expires-soon")
    assert command == other  # the one for the CA that kubelet made for it
    (tmp_path / "root").mkdir()
    script = f"systemctl() {{ echo $*; }}\n{command}".replace("/root/", f"{tmp_path}/root/")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "restart kubelet\n"
    assert not {"kubelet.crt", "kubelet.key"} & {each.name for each in folder.iterdir()}
    assert {each.name for each in (tmp_path / "root").iterdir()} == {"kubelet.crt", "kubelet.key"}


def test_a_kubelet_of_a_year_beside_leaves_of_a_hundred(
    etc: Path, tmp_path: Path, read: Read
) -> None:
    ca = control_plane(etc, ca_years=100, leaf_years=99)
    folder = kubelet(tmp_path / "kubelet/pki", ca)
    found = only(read(etc, folder), "kubelet-client-short")
    assert found.path == str(folder / "kubelet-client-current.pem")
    assert found.command.startswith("kbuild config ")


def test_a_kubeconfig_that_refers_to_files(etc: Path, tmp_path: Path, read: Read) -> None:
    ca = control_plane(etc)
    current = kubelet(tmp_path / "kubelet/pki", ca) / "kubelet-client-current.pem"
    references = {"client_certificate": str(current), "client_key": str(current)}
    unused = issue("unused", ca)
    write_kubeconfig(etc / "kubelet.conf", kubeconfig("n1", unused, ca, **references))
    inventory = read(etc)
    certificate = at(inventory, current)
    assert certificate.private_key is not None
    assert certificate.private_key.fits is True
    assert inventory.findings == ()
    current.unlink()
    found = of(read(etc), "kubeconfig-file-missing")
    assert {one.place for one in found} == {"users[n1].client-certificate", "users[n1].client-key"}


def test_a_kubelet_conf_that_embeds_what_kubelet_has_replaced(
    etc: Path, tmp_path: Path, read: Read
) -> None:
    ca = control_plane(etc)
    folder = kubelet(tmp_path / "kubelet/pki", ca)
    old = issue("system:node:n1", ca, years=0.5, organization="system:nodes", usages=(CLIENT,))
    write_kubeconfig(etc / "kubelet.conf", kubeconfig("system:node:n1", old, ca))
    found = only(read(etc, folder), "kubeconfig-old-certificate")
    assert f"--client-certificate={folder / 'kubelet-client-current.pem'}" in found.command


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("opt/kubernetes/ssl/ca.pem", "cluster CA"),
        ("opt/kubernetes/ssl/server.pem", "API server, server"),
        ("opt/etcd/ssl/server.pem", "etcd, server and peer"),
        ("k8s/etcd/ssl/ca.pem", "etcd CA"),
        ("etc/kubernetes/ssl/kubernetes.pem", "API server, server"),
        ("etc/kubernetes/ssl/kube-proxy.pem", "kube-proxy, client"),
        ("etc/kubernetes/ssl/flanneld.pem", "flannel, etcd client"),
        ("somewhere/else.pem", "server and client"),
    ],
)
def test_clusters_made_with_cfssl(path: str, role: str, tmp_path: Path, read: Read) -> None:
    file = tmp_path / path
    ca = issue("ca", ca=True)
    made = ca if role.endswith("CA") else issue("x", ca, usages=(SERVER, CLIENT))
    made.write(file, file.with_name(f"{file.stem}-key.pem"))
    certificate = at(read(tmp_path), file)
    assert certificate.role == role
    assert certificate.private_key is not None
    assert certificate.private_key.path.endswith("-key.pem")


@pytest.mark.parametrize("name", ["with space", "quo'te", "$(touch pwned)", "new\nline", "-x"])
def test_the_command_quotes_what_is_in_a_path(name: str, tmp_path: Path, read: Read) -> None:
    folder = tmp_path / name
    issue("x", issue("ca", ca=True)).write(folder / "x.crt")
    (folder / "x.key").chmod(0o644)
    command = only(read(folder), "key-readable").command
    assert "\n" not in command
    bash = shutil.which("bash")
    assert bash is not None
    subprocess.run([bash, "-c", command], check=True, cwd=tmp_path)
    assert (folder / "x.key").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "pwned").exists()


def test_a_bundle_in_a_kubeconfig_may_hold_the_ca_among_others(etc: Path, read: Read) -> None:
    ca = control_plane(etc)
    admin = issue("kubernetes-admin", ca, organization="system:masters", usages=(CLIENT,))
    both = base64.b64encode(issue("old", ca=True).pem + ca.pem).decode()
    one = base64.b64encode(ca.pem).decode()
    text = kubeconfig("kubernetes-admin", admin, ca).decode().replace(one, both)
    write_kubeconfig(etc / "admin.conf", text.encode())
    assert of(read(etc), "kubeconfig-other-ca") == []


def admin(ca: Issued, years: float = 1) -> Issued:
    return issue(
        "kubernetes-admin", ca, years=years, organization="system:masters", usages=(CLIENT,)
    )


def test_a_kubeconfig_of_another_cluster_is_no_copy(etc: Path, tmp_path: Path, read: Read) -> None:
    control_plane(etc)
    other = issue("kubernetes", ca=True, years=10)
    config = tmp_path / "home/.kube/config"
    write_kubeconfig(config, kubeconfig("kubernetes-admin", admin(other, 9), other))
    inventory = read(etc, config)
    assert inventory.findings == ()
    embedded = at(inventory, config, "users[kubernetes-admin].client-certificate-data")
    assert (embedded.chain, embedded.issued_by) == ("verified", str(config))


def test_a_kubeconfig_without_its_ca_says_nothing_of_a_ca_elsewhere(
    etc: Path, tmp_path: Path, read: Read
) -> None:
    control_plane(etc)
    other, another = (issue("kubernetes", ca=True, years=10) for _ in range(2))
    config = tmp_path / "home/.kube/config"
    write_kubeconfig(config, kubeconfig("kubernetes-admin", admin(other), another))
    assert only(read(etc, config), "bad-signature").path == str(config)  # it embeds a wrong one
    one, none = base64.b64encode(another.pem).decode(), ""
    config.write_text(config.read_text().replace(one, none))
    inventory = read(etc, config)
    assert of(inventory, "bad-signature") == []
    assert only(inventory, "unknown-issuer").path == str(config)


def test_a_copy_keeps_what_else_is_in_a_kubeconfig(etc: Path, tmp_path: Path, read: Read) -> None:
    ca = control_plane(etc)
    config = tmp_path / "config"
    mine = yaml.safe_load(kubeconfig("kubernetes-admin", admin(ca, 0.5), ca))
    other = issue("kubernetes", ca=True, years=10)
    theirs = yaml.safe_load(kubeconfig("joe", issue("joe", other), other))
    mine["users"] += theirs["users"]
    write_kubeconfig(config, yaml.safe_dump(mine).encode())
    command = only(read(etc, config), "kubeconfig-old-certificate").command
    assert f"KUBECONFIG={etc / 'admin.conf'}:{config} kubectl config view --flatten" in command
    assert f"> {config}.new" in command


def test_an_administrator_gets_the_renewed_admin_conf(
    etc: Path, tmp_path: Path, read: Read
) -> None:
    ca = control_plane(etc)
    config, dev = tmp_path / "config", tmp_path / "dev"
    write_kubeconfig(config, kubeconfig("kubernetes-admin", admin(ca, 0.1), ca))
    write_kubeconfig(dev, kubeconfig("dev", issue("dev", ca, years=0.1, organization="devs"), ca))
    found = {found.path: found for found in of(read(etc, config, dev), "expires-soon")}
    assert found[str(config)].command == f"cp --backup=numbered {etc / 'admin.conf'} {config}"
    words = shlex.split(found[str(dev)].command)
    assert words[-6:] == ["--config", "kubeadm.yaml", "--client-name", "dev", "--org", "devs"]
    assert "v1.22" in found[str(dev)].reason


def test_a_kubeconfig_with_a_later_ca_than_the_file(etc: Path, read: Read) -> None:
    ca = control_plane(etc)
    later = issue("kubernetes", ca=True, years=100, key=ca.key)
    write_kubeconfig(etc / "admin.conf", kubeconfig("kubernetes-admin", admin(ca), later))
    found = only(read(etc), "kubeconfig-old-ca")
    assert f"{etc / 'pki/ca.crt'} is the older one" in found.reason
    assert "set-cluster" not in found.command
    assert '.clusters[?(@.name=="kubernetes")]' in found.command


def test_a_ca_file_that_did_not_sign_the_certificates_beside_it(etc: Path, read: Read) -> None:
    control_plane(etc)
    issue("kubernetes", ca=True, years=10).write(etc / "pki/ca.crt")
    found = only(read(etc), "kubeconfig-other-ca")
    assert "did not sign the API server's" in found.reason
    assert "set-cluster" not in found.command


def run(command: str, folder: Path) -> str:
    bash = shutil.which("bash")
    assert bash is not None
    ran = [bash, "-c", f"set -o pipefail; {command}"]
    return subprocess.run(ran, check=True, cwd=folder, capture_output=True, text=True).stdout


def as_der(path: Path) -> None:
    """Convert a file of PEM, whose block is a certificate or a key, to DER."""
    body = "".join(line for line in path.read_text().splitlines() if "-----" not in line)
    path.write_bytes(base64.b64decode(body))


@pytest.mark.parametrize("keys", ["PEM", "DER"])
def test_of_der_the_new_certificate_is_der_too(keys: str, tmp_path: Path, read: Read) -> None:
    ca = issue("a", ca=True, years=0.1)
    ca.write(tmp_path / "ca.der", tmp_path / "ca.key")
    issue("x", ca, years=0.09).write(tmp_path / "x.der", tmp_path / "x.key")
    for name in ("ca.der", "x.der", *(("ca.key", "x.key") if keys == "DER" else ())):
        as_der(tmp_path / name)
    found = {Path(each.path).name: each.command for each in of(read(tmp_path), "expires-soon")}
    assert ("-CAkeyform DER" in found["x.der"]) == (keys == "DER")
    for name, command in found.items():
        assert f"-in {tmp_path / name} -inform DER" in command  # OpenSSL 1.1.1 must be told
        run(command, tmp_path)
        assert (tmp_path / name).with_stem(f"{name[:-4]}-new").read_bytes()[:1] == b"0"
    assert len(found) == 2
    assert at(read(tmp_path), tmp_path / "x-new.der").issued_by == str(tmp_path / "ca-new.der")


@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_the_commands_that_show_and_compare_read_der(form: str, tmp_path: Path, read: Read) -> None:
    old = issue("x", issue("ca", ca=True), years=0.1)
    old.write(tmp_path / "x.crt", tmp_path / "x.key")
    (tmp_path / "x.key").write_bytes(issue("other").key_pem)
    issue("y", issue("ca", ca=True), years=0.1).write(tmp_path / "y.crt", tmp_path / "y.pem")
    (tmp_path / "y.pem").unlink()
    if form == "DER":
        for name in ("x.crt", "x.key", "y.crt"):
            as_der(tmp_path / name)
    found = of(read(tmp_path), "expires-soon")
    assert len(found) == 2
    for each in found:
        assert ("-inform DER" in each.command) == (form == "DER")
        run(each.command, tmp_path)


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("label", [b" PKCS7-", b" CMS-"])
@pytest.mark.parametrize("key", [True, False])
def test_the_command_for_pkcs7_prints_its_certificates(
    encoding: Encoding, label: bytes, tmp_path: Path, read: Read, *, key: bool
) -> None:
    ca = issue("a", ca=True, years=0.1)
    leaf = issue("x", ca, years=0.09)
    for name, made in (("ca", [ca]), ("x", [leaf]), ("two", [leaf, issue("y", ca)])):
        content = pkcs7.serialize_certificates([each.certificate for each in made], encoding)
        (tmp_path / f"{name}.p7b").write_bytes(content.replace(b" PKCS7-", label))
        if key:
            (tmp_path / f"{name}.key").write_bytes(made[0].key_pem)
    found = {Path(each.path).stem: each for each in of(read(tmp_path), "expires-soon")}
    assert found.keys() == {"ca", "x", "two"}
    for name, each in found.items():
        assert "Issuer: CN=a" in run(each.command, tmp_path).replace(" = ", "="), (name, each)


def test_the_request_keeps_the_names_and_is_signed(etc: Path, read: Read) -> None:
    ca = issue("kubernetes", ca=True, years=10)
    ca.write(etc / "ca.pem", etc / "ca-key.pem")
    issue("x", ca, years=0.1).write(etc / "x y.pem", etc / "x y-key.pem")
    found = only(read(etc), "expires-soon")
    run(found.command, etc)
    old = at(read(etc / "x y.pem", etc), etc / "x y.pem")
    new = at(read(etc), etc / "x y-new.pem")
    assert (new.names, new.usages, new.subject) == (old.names, old.usages, old.subject)
    assert (new.chain, new.issued_by) == ("verified", str(etc / "ca.pem"))
    assert new.private_key is not None
    assert (new.not_after - new.not_before).days == 36


def test_a_weak_key_is_replaced(etc: Path, read: Read) -> None:
    ca = issue("ca", ca=True, years=10)
    ca.write(etc / "ca.crt")
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    issue("x", ca, key=small).write(etc / "small.crt")
    run(only(read(etc), "weak-key").command, etc)
    new = at(read(etc), etc / "small-new.crt")
    assert (new.key, new.names, new.chain) == ("ECDSA P-256", ("DNS:kubernetes",), "verified")
    assert new.private_key is not None
    assert (new.private_key.path, new.private_key.fits) == (str(etc / "small-new.key"), True)


@pytest.mark.parametrize("folder", ["pki", "ssl"])
def test_a_weak_ca_gets_a_new_key(folder: str, etc: Path, read: Read) -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    issue("the ca", ca=True, years=10, key=small, organization="o").write(etc / folder / "ca.crt")
    command = only(read(etc), "weak-key").command
    if folder == "pki":
        assert command == 'kubeadm init phase certs ca --cert-dir "$HOME/new-pki"'
        return
    run(command, etc)
    new = at(read(etc), etc / folder / "ca-new.crt")
    assert (new.key, new.subject, new.chain) == ("RSA 2048", "CN=the ca,O=o", "self-signed")


def test_what_an_external_ca_signed_needs_a_request(etc: Path, read: Read) -> None:
    ca = control_plane(etc)
    issue("kube-apiserver", ca, years=0.1).write(etc / "pki/apiserver.crt")
    write_kubeconfig(etc / "admin.conf", kubeconfig("kubernetes-admin", admin(ca, 0.1), ca))
    (etc / "pki/ca.key").unlink()
    inventory = read(etc)
    found = {found.path: found.command for found in of(inventory, "expires-soon")}
    leaf = etc / "pki/apiserver.crt"
    assert found[str(leaf)].startswith("openssl x509 -x509toreq -copy_extensions copyall")
    run(found[str(leaf)], etc)
    assert "kubeadm certs generate-csr --config" in found[str(etc / "admin.conf")]
    assert "renew" not in only(inventory, "peers-differ").command


def test_a_ca_with_the_key_of_another_is_not_signed_anew(etc: Path, read: Read) -> None:
    ca = issue("kubernetes", ca=True, years=0.1)
    ca.write(etc / "pki/ca.crt")
    (etc / "pki/ca.key").write_bytes(issue("other", ca=True).key_pem)
    inventory = read(etc)
    command = only(inventory, "key-mismatch").command
    assert command == only(inventory, "expires-soon").command
    assert "signkey" not in command
    run(command, etc)


def test_kubelets_rotated_certificate_ends_soon_by_design(
    etc: Path, tmp_path: Path, read: Read
) -> None:
    ca = control_plane(etc, ca_years=10, leaf_years=2)
    folder = kubelet(tmp_path / "kubelet/pki", ca)

    def expiring(days_left: float) -> list[Finding]:
        now = NOW - DAY + (365 - days_left) * DAY
        found = of(read(etc, folder, now=now), "expires-soon")
        return [each for each in found if each.path.endswith(".pem")]

    assert expiring(37) == []
    [found] = expiring(36)
    assert found.path == str(folder / "kubelet-client-current.pem")
    assert found.command.startswith("journalctl")
    assert "its rotation fails" in found.reason


@pytest.mark.parametrize(
    ("ca_age", "years", "severity"), [(200, 10, "info"), (400, 10, "warning"), (30, 4, "warning")]
)
def test_equal_lifetimes_from_different_days(
    ca_age: int, years: float, severity: str, etc: Path, read: Read
) -> None:
    ca = issue("ca", ca=True, years=years, born=NOW - ca_age * DAY)
    ca.write(etc / "ca.crt")
    issue("x", ca, years=years).write(etc / "x.crt")
    assert only(read(etc), "leaf-outlives-ca").severity == severity


def test_a_kubelet_of_a_year_under_a_long_ca_only(etc: Path, tmp_path: Path, read: Read) -> None:
    ca = control_plane(etc, ca_years=100, leaf_years=1)
    issue("kube-apiserver", ca, years=50).write(etc / "pki/apiserver.crt")  # one of six
    folder = kubelet(tmp_path / "kubelet/pki", ca)
    assert of(read(etc, folder), "kubelet-client-short") == []


def test_the_configuration_has_the_lifetimes_that_the_cluster_has(
    etc: Path, tmp_path: Path, read: Read
) -> None:
    folder = kubelet(tmp_path / "kubelet/pki", control_plane(etc, ca_years=30, leaf_years=20))
    inventory = read(etc, folder)
    for kind in ("kubelet-serving-self-signed", "kubelet-client-short"):
        assert "--ca-years 30 --leaf-years 20 " in only(inventory, kind).command
    assert only(inventory, "kubelet-serving-self-signed").severity == "info"


def test_a_ca_without_an_end_is_judged_like_others(tmp_path: Path, read: Read) -> None:
    # RFC 5280, section 4.1.2.5: 99991231235959Z stands for no expiration.
    end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    ca = issue("kubernetes", born=NOW, years=(end - NOW) / YEAR, ca=True)
    ca.write(tmp_path / "ca.crt")
    issue("n1", ca).write(tmp_path / "n1.crt")
    inventory = read(tmp_path)
    assert max(c.not_after for c in inventory.certificates) == end
    assert of(inventory, "leaf-outlives-ca") == []


def test_commands_quote_all_bytes_of_a_name() -> None:
    assert commands.quote("vi\u2713\x01\udcff") == r"$'vi\xe2\x9c\x93\x01\xff'"
