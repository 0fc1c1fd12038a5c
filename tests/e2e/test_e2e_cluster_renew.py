"""The story of ``kbuild nodes renew`` and ``undo`` on a real cluster."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.command import Kbuild
from tests.e2e.released import CENTURY
from tests.support.cluster.cluster import Cluster, Polled

pytestmark = [
    *(pytest.mark.e2e, pytest.mark.cluster, pytest.mark.usefixtures("with_ours")),
    pytest.mark.timeout(1800),
]

PORTS = (6443, 2379, 2380)
DAY = timedelta(days=1)


def test_renew_and_undo_without_a_failed_request(cluster: Cluster, on_nodes: Kbuild) -> None:
    names = [node.name for node in cluster.control_planes]
    with cluster.poller() as poller:
        assert run(on_nodes, names, "renew") == {"changed"}
        seen = poller.stop()
    demand_no_failure(seen)
    demand_served(cluster, CENTURY)
    assert run(on_nodes, names, "renew") == {"unchanged"}
    with cluster.poller() as poller:
        assert run(on_nodes, names, "undo") == {"changed"}
        seen = poller.stop()
    demand_no_failure(seen)
    demand_served(cluster, timedelta(days=365))
    assert run(on_nodes, names, "undo") == {"unchanged"}
    cluster.wait_until_whole()


def demand_no_failure(seen: Polled) -> None:
    """See that no request failed, but for what etcd refused while its last leader changed.

    An API server passes on this answer of etcd to the reads that had begun before: on a busy
    machine, two or three of those of the poller.
    """
    others = [error for error in seen.errors if "etcdserver: leader changed" not in error]
    assert others == []
    assert seen.failed <= 3, seen.errors
    assert seen.total > 500


def run(kbuild: Kbuild, names: list[str], command: str) -> set[str]:
    """Run a command on the control planes, and return the states that they are in after it."""
    done = kbuild("nodes", command, "--hosts", ",".join(names), "--yes", "--json")
    assert done.code == 0, done.stderr
    return {each["state"] for each in json.loads(done.stdout)["hosts"]}


def demand_served(cluster: Cluster, lifetime: timedelta) -> None:
    """See that every control plane serves certificates of a lifetime, on every port."""
    for node in cluster.control_planes:
        for port in PORTS:
            end = cluster.not_after(node.name, port)
            assert abs(end - datetime.now(UTC) - lifetime) < DAY, (node.name, port, end)
