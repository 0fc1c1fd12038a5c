"""kbuild nodes check on a real sshd, with real TLS servers in the place of etcd and kubelet."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import Kbuild
from tests.e2e.conftest import fingerprint
from tests.support.authority import CLIENT, DAY, SERVER, Issued, issue
from tests.support.failures import kind_of
from tests.support.node_tree import write_manifests, write_node
from tests.support.releases import make_release

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
]
# The kernel ends all of it with its first process. kube-apiserver is a shell by another name.
BEGIN = """\
set -e
mount -t tmpfs run /run
mkdir -p /run/sshd /run/upper /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work etc /etc
mkdir -p /etc/kubernetes
mount --bind {root}/etc/kubernetes /etc/kubernetes
mount --bind {root}/var/lib /var/lib
{root}/kube-apiserver -c 'while :; do sleep 1; done' sh --tls-cert-file=/etc/kubernetes/pki/a.crt &
exec /usr/sbin/sshd -D -e -f {folder}/sshd_config
"""
SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
AllowTcpForwarding {forwarding}
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is reached as n1; n2 is a host that nobody reaches."""

    folder: Path
    root: Path
    etcd: int

    @property
    def options(self) -> tuple[str | Path, ...]:
        """Return the options with which kbuild reaches it."""
        return ("--ssh-config", self.folder / "config", "--known-hosts", self.folder / "known")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running_node(tmp_path_factory.mktemp("node"), "yes") as made:
        yield made


@contextlib.contextmanager
def running_node(folder: Path, forwarding: str) -> Iterator[Node]:
    """Run a control plane whose etcd serves an older certificate than its file has."""
    root = folder / "root"
    ca = write_node(root)
    pki = root / "etc/kubernetes/pki/etcd"
    etcd_ca = issue("etcd-ca", ca=True)
    now = datetime.now(UTC).replace(microsecond=0)
    old = issue("etcd-old", etcd_ca, born=now - 300 * DAY, usages=(SERVER, CLIENT))
    issue("etcd-new", etcd_ca, born=now - DAY, years=100, usages=(SERVER, CLIENT)).write(
        pki / "server.crt"
    )
    apiserver = issue("kube-apiserver", ca, born=now - DAY)
    apiserver.write(root / "etc/kubernetes/pki/apiserver.crt")
    shutil.copy("/bin/sh", root / "kube-apiserver")
    with (
        tls_server(folder / "etcd", old, demands=etcd_ca) as etcd,
        tls_server(folder / "apiserver", apiserver) as secure,
    ):
        _write(root, etcd, secure)
        with sshd(folder, root, forwarding):
            yield Node(folder=folder, root=root, etcd=etcd)


def _write(root: Path, etcd: int, secure: int) -> None:
    write_manifests(root, apiserver=f"--secure-port={secure}")
    manifest = root / "etc/kubernetes/manifests/etcd.yaml"
    lines = [line for line in manifest.read_text().splitlines() if "listen-" not in line]
    at = next(number for number, line in enumerate(lines) if "--cert-file" in line)
    lines.insert(at, f"    - --listen-client-urls=https://127.0.0.1:{etcd}")
    manifest.write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def tls_server(folder: Path, issued: Issued, demands: Issued | None = None) -> Iterator[int]:
    """Run a TLS server, of TLS 1.2 as old versions of etcd if it demands a client certificate."""
    issued.write(folder / "server.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    if demands is not None:
        demands.write(folder / "ca.crt")
        context.load_verify_locations(folder / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        end = threading.Event()
        thread = threading.Thread(target=_serve, args=(listening, context, end))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            end.set()
            thread.join()


def _serve(listening: socket.socket, context: ssl.SSLContext, end: threading.Event) -> None:
    while not end.is_set():
        with contextlib.suppress(OSError):
            peer, _ = listening.accept()
            peer.settimeout(5)
            with peer, context.wrap_socket(peer, server_side=True) as tls:
                tls.recv(1)


@contextlib.contextmanager
def sshd(folder: Path, root: Path, forwarding: str) -> Iterator[None]:
    """Run sshd in namespaces of its own, where the files of the node are in their places."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for key in ("host_key", "user_key"):
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
        subprocess.run(command, check=True)
    text = SSHD.format(port=port, folder=folder, forwarding=forwarding)
    (folder / "sshd_config").write_text(text)
    kind, key, *_ = (folder / "host_key.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (folder / "config").write_text(
        f"Host n1\n  HostName 127.0.0.1\n  Port {port}\n  User root\n"
        f"  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n"
        "Host n2\n  HostName 127.0.0.1\n  Port 1\n  User root\n"
    )
    begin = BEGIN.format(folder=shlex.quote(str(folder)), root=shlex.quote(str(root)))
    where = (
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ("unshare", *where, "sh", "-c", begin),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _await(port, process, folder / "log")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(400):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def check(kbuild: Kbuild, node: Node, *more: str | Path) -> tuple[int, dict[str, Any], str]:
    done = kbuild("nodes", "check", *node.options, "--json", *more)
    assert "PRIVATE KEY" not in done.stdout + done.stderr
    return done.code, json.loads(done.stdout), done.stderr


def test_a_node_is_checked_and_nothing_is_changed(kbuild: Kbuild, node: Node) -> None:
    before = fingerprint(node.root)
    html, metrics = kbuild.home / "nodes.html", kbuild.home / "nodes.prom"
    release = make_release(kbuild.home / "work", kbuild.home / "release")
    kubeadm = shutil.copy(release / "kubeadm-linux-amd64", node.folder / "kubeadm")
    known = ("--path", kubeadm, "--release", release)
    reports = ("--html", html, "--prometheus", metrics)
    code, found, stderr = check(kbuild, node, "--hosts", "n1", *known, *reports)
    assert code == 0, stderr
    assert fingerprint(node.root) == before
    paths = {each["path"] for each in found["certificates"]}
    assert {"/etc/kubernetes/admin.conf", "/var/lib/kubelet/pki/kubelet-client-current.pem"} < paths
    (host,) = found["hosts"]
    assert host["is_control_plane"] is True
    assert host["kubeadm"]["issues"] == {"ca_days": 36500, "leaf_days": 3650}
    assert set(host["started"]) == {"kube-apiserver"}
    served = {each["component"]: each for each in host["served"]}
    assert served["kubelet"]["problem"]
    files = {
        each["path"]: each["fingerprint"] for each in found["certificates"] if not each["place"]
    }
    apiserver, etcd = served["kube-apiserver"], served["etcd"]
    assert apiserver["fingerprint"] == files[apiserver["file"]], apiserver
    assert etcd["fingerprint"] not in {None, files[etcd["file"]]}, etcd
    restart = [each for each in found["findings"] if each["kind"] == "restart-needed"]
    assert [each["path"] for each in restart] == ["/etc/kubernetes/manifests/etcd.yaml"]
    assert f"port {node.etcd} serves a certificate until" in restart[0]["reason"]
    assert "1 host" in html.read_text()
    assert 'filepath="n1:/etc/kubernetes/pki/apiserver.crt"' in metrics.read_text()


def test_hosts_that_cannot_be_reached_are_named_and_the_rest_is_checked(
    kbuild: Kbuild, node: Node
) -> None:
    code, found, stderr = check(kbuild, node, "--hosts", "n1,n2")
    assert (code, kind_of(stderr)) == (100, "hosts-unchecked"), stderr
    assert [each["host"] for each in found["hosts"]] == ["n1"]
    assert [each["host"] for each in found["unreachable"]] == ["n2"]
    assert found["certificates"]


def test_what_is_served_counts_for_fail_before(kbuild: Kbuild, node: Node) -> None:
    code, _, stderr = check(kbuild, node, "--hosts", "n1", "--fail-before", "90d")
    assert (code, kind_of(stderr)) == (100, "certificates-expire"), stderr
    assert f"n1:port {node.etcd}" in stderr, stderr  # all files end later


def test_ports_are_asked_directly_if_sshd_forwards_none(kbuild: Kbuild, tmp_path: Path) -> None:
    with running_node(tmp_path / "node", "no") as node:
        _, found, stderr = check(kbuild, node, "--hosts", "n1")
    served = {each["component"]: each for each in found["hosts"][0]["served"]}
    assert served["kube-apiserver"]["fingerprint"], stderr
    assert "does not forward ports" in served["kubelet"]["problem"]
