"""The files of a node for tests, and what the shell functions of kbuild print of them."""

import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from kbuild.nodes.check.seen import NodeSeen, node_seen
from kbuild.nodes.connection import values_of
from kbuild.nodes.model import Host, HostFacts
from tests.support.authority import CLIENT, SERVER, Issued, control_plane, issue
from tests.support.host_facts import HEALTHY

BOOT, TICKS = 1_780_000_000, 100  # when the node booted, in seconds since 1970


def run_function(
    call: str,
    *,
    root: Path,
    stdin: bytes = b"",
    environment: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Run a function of check.sh with ``root`` before all paths, and return what it prints."""
    folder = resources.files("kbuild.nodes")
    node, check = (folder.joinpath(name).read_text() for name in ("node.sh", "check.sh"))
    done = subprocess.run(
        ["sh", "-c", f"{node}\nroot={shlex.quote(str(root))}\n{check}\n{call}"],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=True,
        env={"PATH": os.environ["PATH"], **environment},
    )
    return done.stdout.decode()


def facts(name: str = "n1") -> HostFacts:
    """Return the facts of a control plane with kubeadm v1.31.2."""
    return replace(
        HEALTHY,
        host=Host(name=name),
        sha256="ab" * 32,
        version="v1.31.2",
        kubelet="v1.31.2",
        package="deb kubeadm",
        is_held=True,
    )


def look(root: Path, *paths: str, path: str = "") -> NodeSeen:
    """Return what a check sees of the node below ``root``."""
    places = " ".join(("/etc/kubernetes", "/var/lib/kubelet/pki", *paths))
    environment = {"PATH": path} if path else {}
    printed = run_function(f"look {places}", root=root, environment=environment)
    return node_seen(facts(), values_of(printed))


def write_node(root: Path) -> Issued:
    """Write the files of a control plane below ``root``, and return its cluster CA."""
    ca = control_plane(root / "etc/kubernetes")
    pki = root / "var/lib/kubelet/pki"
    pki.mkdir(parents=True)
    client = issue("system:node:n1", ca, usages=(CLIENT,), organization="system:nodes")
    dated = pki / "kubelet-client-2026-05-31-12-00-00.pem"
    dated.write_bytes(client.pem + client.key_pem)
    dated.chmod(0o600)
    (pki / "kubelet-client-current.pem").symlink_to(dated.name)
    issue("n1@1780000000", usages=(SERVER,)).write(pki / "kubelet.crt")
    (root / "var/lib/kubelet/config.yaml").write_text(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nrotateCertificates: true\nport: 10250\n"
    )
    write_manifests(root)
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text(f"cpu 1 2 3\nbtime {BOOT}\n")
    return ca


def write_manifests(root: Path, etcd: str = "", apiserver: str = "") -> None:
    """Write the static pods of etcd and the API server, with more flags."""
    folder = root / "etc/kubernetes/manifests"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "etcd.yaml").write_text(
        _pod(
            "etcd:3.5.15-0",
            "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
            "--key-file=/etc/kubernetes/pki/etcd/server.key",
            "--listen-client-urls=https://127.0.0.1:2379,https://192.0.2.1:2379",
            "--listen-peer-urls=https://192.0.2.1:2380",
            "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
            *etcd.split(),
        )
    )
    (folder / "kube-apiserver.yaml").write_text(
        _pod(
            "kube-apiserver:v1.31.2",
            "--advertise-address=192.0.2.1",
            "--etcd-certfile=/etc/kubernetes/pki/apiserver-etcd-client.crt",
            "--tls-cert-file=/etc/kubernetes/pki/apiserver.crt",
            "--tls-private-key-file=/etc/kubernetes/pki/apiserver.key",
            *apiserver.split(),
        )
    )


def _pod(image: str, *flags: str) -> str:
    listed = "".join(f"    - {flag}\n" for flag in flags)
    name = image.partition(":")[0]
    return (
        "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - command:\n"
        f"    - {name}\n{listed}    image: registry.example.org/{image}\n"
        "    imagePullPolicy: IfNotPresent\n"
    )


def write_process(root: Path, number: int, name: str, seconds: float, *arguments: str) -> None:
    """Write a process that began so many seconds after the boot."""
    folder = root / f"proc/{number}"
    folder.mkdir(parents=True)
    (folder / "comm").write_text(f"{name[:15]}\n")
    (folder / "cmdline").write_text("\0".join((f"/usr/local/bin/{name}", *arguments, "")))
    before = " ".join(["S", *["0"] * 18])
    (folder / "stat").write_text(f"{number} ({name[:15]}) {before} {int(seconds * TICKS)} 0 0\n")
