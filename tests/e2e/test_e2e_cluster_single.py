"""``kbuild nodes renew`` on a real cluster with one control plane, and with an external etcd."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kbuild.x509.api import read_certificate
from tests.e2e.command import Kbuild
from tests.e2e.conftest import on_nodes_of
from tests.e2e.released import CENTURY, Released
from tests.support.cluster.cluster import Cluster, CommandFailed, Node, running
from tests.support.cluster.expire import KUBELET, expire, expire_worker
from tests.support.cluster.lab import left
from tests.support.cluster.single import CLIENT_OF_ETCD, SINGLE, single, with_external_etcd

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.timeout(1800)]

HOSTS = ("--hosts", ",".join(SINGLE), "--yes", "--json")
DAY = timedelta(days=1)


@pytest.fixture(scope="module", params=[single, with_external_etcd])
def small(
    request: pytest.FixtureRequest, downloads: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    state = tmp_path_factory.mktemp("small")
    with running(downloads, state, SINGLE, request.param) as cluster:
        yield cluster
    assert left(state) == []


@pytest.fixture
def kbuild(small: Cluster, local_release: Released, tmp_path: Path, warm_cache: Path) -> Kbuild:
    kbuild = on_nodes_of(small, tmp_path, warm_cache)
    assert kbuild("nodes", "install", local_release.folder, *HOSTS).code == 0
    return kbuild


def test_one_control_plane_is_renewed_with_a_short_outage_that_is_said_before(
    small: Cluster, kbuild: Kbuild
) -> None:
    with small.poller("n1") as poller:
        (plane,) = renewed(kbuild)
        seen = poller.stop()
    assert plane["state"] == "changed"
    assert any("no other control plane: the API server does not" in n for n in plane["notes"])
    assert seen.failed < seen.total / 2, seen
    demand_renewed(small)
    demand_named(small, plane["notes"])
    assert [each["state"] for each in renewed(kbuild)] == ["unchanged"]
    done = kbuild("nodes", "undo", *HOSTS)
    assert done.code == 0, done.stderr
    assert small.not_after("n1", 6443) < datetime.now(UTC) + 366 * DAY


def test_one_control_plane_that_has_expired_is_repaired_with_its_worker(
    small: Cluster, kbuild: Kbuild
) -> None:
    plane, worker = small.nodes["n1"], small.nodes["w1"]
    expire_worker(worker, plane)
    expire(plane)
    with pytest.raises(CommandFailed):
        small.kubectl("get", "nodes", "--request-timeout=5s")
    done = {each["host"]: each for each in renewed(kbuild)}
    assert {each["state"] for each in done.values()} == {"changed"}
    assert any("repair with downtime" in note for note in done["n1"]["notes"])
    demand_named(small, done["n1"]["notes"])
    small.wait_until_whole()
    demand_renewed(small)
    demand_century(kubelet_ends(plane))
    assert kubelet_ends(worker) > datetime.now(UTC) + 300 * DAY
    assert [each["state"] for each in renewed(kbuild)] == ["unchanged"]


def renewed(kbuild: Kbuild) -> list[dict[str, Any]]:
    """Renew, and return what became of each host that has something to renew."""
    done = kbuild("nodes", "renew", *HOSTS)
    assert done.code == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return list(document["hosts"])


def has_own_etcd(cluster: Cluster) -> bool:
    return not cluster.nodes["n1"].ssh("test -f /etc/kubernetes/manifests/etcd.yaml || echo no")


def demand_renewed(cluster: Cluster) -> None:
    """See that a century is served by the API server, and by an etcd of kubeadm."""
    demand_century(cluster.not_after("n1", 6443))
    if has_own_etcd(cluster):
        demand_century(cluster.not_after("n1", 2379))
        demand_century(cluster.not_after("n1", 2380))
    else:
        assert cluster.not_after("w1", 2379) < datetime.now(UTC) + 366 * DAY


def demand_named(cluster: Cluster, notes: list[str]) -> None:
    """See that what kubeadm does not renew is named, with its end."""
    named = [note for note in notes if "its etcd is not of kubeadm" in note]
    if has_own_etcd(cluster):
        assert named == []
    else:
        ends = read_certificate(cluster.nodes["n1"].ssh(f"cat {CLIENT_OF_ETCD}").encode()).not_after
        assert any(
            f"{CLIENT_OF_ETCD} of the API server (it ends {ends:%Y-%m-%d})" in n for n in named
        )


def kubelet_ends(node: Node) -> datetime:
    return read_certificate(node.ssh(f"grep -v KEY {KUBELET} | sed '/END/q'").encode()).not_after


def demand_century(end: datetime) -> None:
    assert abs(end - datetime.now(UTC) - CENTURY) < DAY, end
