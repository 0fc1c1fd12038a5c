"""Faults on a real cluster while ``kbuild nodes renew`` runs, and how the next run goes on.

It begins and ends with a kubeadm of a century on all nodes, and certificates of a year.
"""

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.command import Done, Kbuild
from tests.e2e.released import CENTURY
from tests.support.cluster.cluster import Cluster, CommandFailed, Node
from tests.support.cluster.files import CONTROL_PLANES

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.timeout(1800)]

RENEW = ("nodes", "renew", "--hosts", ",".join(CONTROL_PLANES), "--yes", "--json")
UNDO = ("nodes", "undo", *RENEW[2:])
YEAR, DAY = timedelta(days=365), timedelta(days=1)
STEP = re.compile(r"^ *(?P<host>n\d): \d+ of \d+: (?P<step>[\w-]+)$")
# Files with keys that others than root may read.
READABLE = (
    "find /etc/kubernetes /var/lib/kbuild -type f -perm /077"
    r" \( -name '*.key' -o -name '*.conf' -o -name 'etcd.db*' -o -name '.kbuild*' \)"
)
BACKUPS = "/var/lib/kbuild/backups"


@pytest.fixture(autouse=True)
def guarded(
    cluster: Cluster,
    with_ours: None,  # noqa: ARG001  # before anything is looked at
) -> Iterator[None]:
    """See that two control planes are never down at once, and that the cluster is left healthy."""
    with guard(cluster) as down_at_once:
        yield
        cluster.wait_until_whole()
    assert down_at_once == []
    for node in cluster.control_planes:
        assert node.ssh(READABLE) == ""
        assert node.ssh("stat -c %a /var/lib/kbuild") == "700\n"
        assert "kbuild-drain" not in node.ssh("iptables -S INPUT")
        assert node.ssh("ls -A /run/kbuild 2>/dev/null || true") == ""


def test_a_full_disk_leaves_no_backup_and_nothing_changed(
    cluster: Cluster, on_nodes: Kbuild
) -> None:
    before, first = files(cluster), first_of(on_nodes)
    full = f"mkdir -p -m 700 {BACKUPS} && mount -t tmpfs -o size=200k,mode=700 full {BACKUPS}"
    with changed(cluster.nodes[first], full, f"umount {BACKUPS}"):
        done = refused(on_nodes(*RENEW), "run-failed")
        assert states(done) == {"undone": 1, "not-started": 2}
        assert f"{first}: the step back-up failed: the backup " in done.stderr
        assert "no space left on device; now the host is as it was before" in done.stderr
        assert cluster.nodes[first].ssh(f"ls -A {BACKUPS}") == ""
    assert files(cluster) == before


def test_runs_that_are_killed_or_cut_off_go_on(cluster: Cluster, on_nodes: Kbuild) -> None:
    for step in ("renew", "restart-kube-apiserver"):
        with Running(on_nodes) as killed:
            killed.until(step)
            os.killpg(killed.process.pid, signal.SIGKILL)
    with Running(on_nodes) as last:
        # The drain that the killed run has left ends before anything else begins.
        first = last.until("undrain")
        assert last.seen[0] == (first, "undrain")
        second = last.until("restart-etcd", {*CONTROL_PLANES} - {first})
        with suppress(CommandFailed):  # its own session, too
            cluster.nodes[second].ssh("pkill -KILL -f 'sshd: root'", seconds=20)
        other = refused(on_nodes(*RENEW), "hosts-locked")
        assert f" {last.process.pid} " in other.stderr
        third = last.until("restart-kube-scheduler", {*CONTROL_PLANES} - {first, second})
        cluster.nodes[third].reboot()
        done = last.end()
    assert (done.code, states(done)) == (0, {"changed": 3}), done.stderr
    demand_served(cluster, CENTURY)


def test_what_several_runs_have_renewed_is_undone(cluster: Cluster, on_nodes: Kbuild) -> None:
    done = on_nodes(*UNDO)
    assert (done.code, states(done)) == (0, {"changed": 3}), done.stderr
    demand_served(cluster, YEAR)


class Running:
    """A renewal that goes on; ``seen`` has the hosts and the steps that have begun."""

    def __init__(self, kbuild: Kbuild) -> None:
        self.seen: list[tuple[str, str]] = []
        self._said: list[str] = []
        self._printed: list[str] = []
        self.process = kbuild.start(*RENEW)
        self._threads = [
            threading.Thread(target=self._read),
            threading.Thread(target=self._keep),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stderr
        with self.process.stderr as stream:
            for line in stream:
                self._said.append(line)
                if match := STEP.match(line.rstrip()):
                    self.seen.append((match["host"], match["step"]))

    def _keep(self) -> None:
        assert self.process.stdout
        with self.process.stdout as stream:
            self._printed.append(stream.read())

    def until(self, step: str, among: Collection[str] = CONTROL_PLANES) -> str:
        """Wait until a step begins on one of some hosts, and return that."""
        while True:
            for host, name in list(self.seen):
                if name == step and host in among:
                    return host
            assert any(thread.is_alive() for thread in self._threads), "".join(self._said)
            time.sleep(0.05)

    def end(self) -> Done:
        """Wait until it ends."""
        for thread in self._threads:
            thread.join()
        return Done(self.process.wait(), "".join(self._printed), "".join(self._said))

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.end()


def refused(done: Done, kind: str) -> Done:
    """See that a command ended with an error that has a kind and no traceback."""
    assert done.code == 100, done
    assert f"error[{kind}]" in done.stderr
    assert "Traceback" not in done.stderr
    return done


def states(done: Done) -> Counter[str]:
    """Count the states of hosts after a run."""
    return Counter(each["state"] for each in json.loads(done.stdout)["hosts"])


def first_of(kbuild: Kbuild) -> str:
    """Return the host with which a renewal would begin."""
    plan = json.loads(kbuild(*RENEW, "--dry-run").stdout)
    return str(plan["hosts"][0]["host"])


def files(cluster: Cluster) -> list[str]:
    """Return the sha256 of all certificates, keys and kubeconfigs of each control plane."""
    command = "cd /etc/kubernetes && sha256sum *.conf pki/*.crt pki/*.key pki/etcd/*"
    return [node.ssh(command) for node in cluster.control_planes]


def demand_served(cluster: Cluster, lifetime: timedelta) -> None:
    """See that every control plane serves certificates of a lifetime, on every port."""
    for node in cluster.control_planes:
        for port in (6443, 2379, 2380):
            end = cluster.not_after(node.name, port)
            assert abs(end - datetime.now(UTC) - lifetime) < DAY, (node.name, port, end)


@contextmanager
def changed(node: Node, do: str, undo: str) -> Iterator[None]:
    """Have a node changed for a while."""
    node.ssh(do)
    try:
        yield
    finally:
        node.ssh(undo)


@contextmanager
def guard(cluster: Cluster) -> Iterator[list[str]]:
    """Collect the moments at which etcd or the API server is missing on two control planes."""
    seen: list[str] = []
    has_ended = threading.Event()

    def look() -> None:
        while not has_ended.wait(0.2):
            running = {name: cluster.lab.programs(name) for name in CONTROL_PLANES}
            down = [name for name in running if not {"etcd", "kube-apiserver"} <= running[name]]
            if len(down) > 1:
                seen.append(f"{time.strftime('%H:%M:%S')}: {down}")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        has_ended.set()
        thread.join()
