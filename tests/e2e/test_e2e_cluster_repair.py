"""``kbuild nodes renew`` on a real cluster whose certificates have ended.

It is the last story, because it leaves certificates of a century.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kbuild.x509.api import read_certificate
from tests.e2e.command import Kbuild
from tests.e2e.released import CENTURY
from tests.support.cluster.cluster import Cluster, CommandFailed, Node
from tests.support.cluster.expire import KUBELET, expire, expire_worker
from tests.support.cluster.files import NODES

pytestmark = [
    *(pytest.mark.e2e, pytest.mark.cluster),
    pytest.mark.usefixtures("with_ours"),
    pytest.mark.timeout(1800),
]

DAY = timedelta(days=1)
TOKEN = "[a-z0-9]{6}[.][a-z0-9]{16}"
PORTS = (6443, 2379, 2380)


def test_an_expired_cluster_is_repaired(cluster: Cluster, on_nodes: Kbuild) -> None:
    names = [node.name for node in cluster.control_planes]
    hosts = ("--hosts", ",".join(names), "--yes", "--json")
    with ThreadPoolExecutor() as pool:
        list(pool.map(expire, cluster.control_planes))
    with pytest.raises(CommandFailed):
        cluster.kubectl("get", "nodes", "--request-timeout=5s")
    done = renewed(on_nodes, hosts)
    assert {each["state"] for each in done} == {"changed"}
    assert all("repair with downtime" in each["notes"][0] for each in done)
    demand_whole(cluster)
    assert {each["state"] for each in renewed(on_nodes, hosts)} == {"unchanged"}


def test_one_expired_control_plane_is_repaired_while_the_others_serve(
    cluster: Cluster, on_nodes: Kbuild
) -> None:
    hosts = ("--hosts", "n1,n2,n3", "--yes", "--json")
    expire(cluster.nodes["n2"])
    with cluster.poller() as poller:
        states = {each["host"]: each["state"] for each in renewed(on_nodes, hosts)}
        seen = poller.stop()
    assert states["n2"] == "changed"
    assert seen.failed < seen.total, seen  # on a busy machine, many fail
    demand_whole(cluster)


def test_a_worker_whose_kubelet_cannot_log_in_gets_a_certificate(
    cluster: Cluster, on_nodes: Kbuild
) -> None:
    worker = cluster.nodes["w1"]
    hosts = ("--hosts", "n1,n2,n3,w1", "--yes", "--json")
    expire_worker(worker, cluster.nodes["n1"])
    kubelet_conf, tokens = worker.ssh("cat /etc/kubernetes/kubelet.conf"), tokens_of(cluster)
    shown = on_nodes("nodes", "renew", *hosts, "--dry-run")
    assert "make the bootstrap token" in shown.stdout
    assert not re.search(TOKEN, shown.stdout + shown.stderr)
    states = {each["host"]: each["state"] for each in renewed(on_nodes, hosts)}
    assert states == {"n1": "changed", "n2": "unchanged", "n3": "unchanged", "w1": "changed"}
    cluster.wait_until_whole()
    assert kubelet_ends(worker) > datetime.now(UTC) + 300 * DAY
    assert worker.ssh("cat /etc/kubernetes/kubelet.conf") == kubelet_conf
    assert tokens_of(cluster) == tokens
    assert not worker.ssh("ls /etc/kubernetes | grep bootstrap || true")
    for node in (worker, cluster.nodes["n1"]):
        assert not node.ssh(f"grep -rlE '{TOKEN}' /var/lib/kbuild/runs /run/kbuild || true")
    assert {each["state"] for each in renewed(on_nodes, hosts)} == {"unchanged"}


def tokens_of(cluster: Cluster) -> set[str]:
    """Return the names of the Secrets of bootstrap tokens."""
    secrets = cluster.kubectl("get", "secrets", "-n", "kube-system")["items"]
    names = {each["metadata"]["name"] for each in secrets}
    return {name for name in names if name.startswith("bootstrap-token-")}


def renewed(kbuild: Kbuild, hosts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Renew, and return what became of each host."""
    done = kbuild("nodes", "renew", *hosts)
    assert done.code == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return list(document["hosts"])


def demand_whole(cluster: Cluster) -> None:
    """See that all nodes are Ready, and that certificates of a century are used everywhere."""
    cluster.wait_until_whole()
    assert cluster.ready() == set(NODES)
    for node in cluster.control_planes:
        for port in PORTS:
            demand_century(cluster.not_after(node.name, port), (node.name, port))
        demand_century(kubelet_ends(node), (node.name, "kubelet"))
        assert not node.ssh("ls -A /run/kbuild | grep repair || true")


def kubelet_ends(node: Node) -> datetime:
    return read_certificate(node.ssh(f"grep -v KEY {KUBELET} | sed '/END/q'").encode()).not_after


def demand_century(end: datetime, what: object) -> None:
    assert abs(end - datetime.now(UTC) - CENTURY) < DAY, (what, end)
