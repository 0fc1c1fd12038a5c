"""Stories of ``kbuild nodes`` on a real cluster: three control planes and a worker."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kbuild.x509.api import quiet, read_certificate
from tests.e2e.command import VERSION, Kbuild
from tests.e2e.released import CENTURY, Released
from tests.support.cluster.cluster import Cluster, Node, down
from tests.support.cluster.files import NODES
from tests.support.cluster.lab import left

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.timeout(1800)]

HOSTS = ("--hosts", ",".join(NODES), "--yes", "--json")
ROOT = Path(__file__).parents[2]
KUBEADM = "/usr/bin/kubeadm"


def test_stock_kubeadm_has_made_it(cluster: Cluster) -> None:
    assert cluster.ready() == set(NODES)
    year = timedelta(days=365)
    for node in cluster.control_planes:
        for port in (6443, 2379, 2380):
            assert abs(cluster.not_after(node.name, port) - datetime.now(UTC) - year) < year / 365
    with cluster.poller() as poller:
        time.sleep(2)
        seen = poller.stop()
    assert seen.total > 20
    assert seen.failed < seen.total


def test_install_again_roll_back_and_install(
    cluster: Cluster, local_release: Released, on_nodes: Kbuild
) -> None:
    stock = sums(cluster)
    ours = dict.fromkeys(NODES, hashlib.sha256(local_release.binary.read_bytes()).hexdigest())
    assert len({*stock.values(), *ours.values()}) == 2
    assert change(on_nodes, "install", local_release.folder) == {"changed"}
    assert sums(cluster) == ours
    assert change(on_nodes, "install", local_release.folder) == {"unchanged"}
    assert change(on_nodes, "rollback") == {"changed"}
    assert sums(cluster) == stock
    assert change(on_nodes, "install", local_release.folder) == {"changed"}
    assert sums(cluster) == ours
    for node in cluster.nodes.values():
        assert node.ssh("kubeadm version -o short").strip() == VERSION
        assert lifetime(node) == CENTURY
    assert cluster.ready() == set(NODES)


def test_a_node_comes_back_after_a_reboot_and_a_power_cut(cluster: Cluster) -> None:
    node = cluster.nodes["n3"]
    before = sums(cluster)
    node.reboot()
    node.kill()
    assert not node.answers()
    node.boot()
    assert sums(cluster) == before
    cluster.wait_until_whole()


def test_what_a_killed_start_leaves_is_found_and_removed(downloads: Path, tmp_path: Path) -> None:
    state = tmp_path / "other"
    command = (sys.executable, "-m", "tests.support.cluster", "up", str(downloads), str(state))
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while not all((state / name / "init.pid").exists() for name in NODES):
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    kinds = {each.partition(":")[0] for each in left(state)}
    assert kinds == {"mount", "process", "file", "cgroup"}
    for _ in range(2):
        down(state)
        assert left(state) == []
    assert not state.exists()


def change(kbuild: Kbuild, *words: str | Path) -> set[str]:
    """Run a command on all nodes, and return the states that they are in after it."""
    done = kbuild("nodes", *words, *HOSTS)
    assert done.code == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert {each["host"] for each in document["hosts"]} == set(NODES)
    return {each["state"] for each in document["hosts"]}


def sums(cluster: Cluster) -> dict[str, str]:
    """Return the sha256 of each node's kubeadm."""
    return {
        name: node.ssh(f"sha256sum {KUBEADM}").split()[0] for name, node in cluster.nodes.items()
    }


def lifetime(node: Node) -> timedelta:
    """Return how long a CA lives that a node's kubeadm makes."""
    make = f"kubeadm init phase certs ca --cert-dir $d --kubernetes-version {VERSION} >&2"
    made = node.ssh(f"d=$(mktemp -d) && {make} && cat $d/ca.crt && rm -r $d")
    with quiet():
        ca = read_certificate(made.encode())
    return ca.not_after - ca.not_before
