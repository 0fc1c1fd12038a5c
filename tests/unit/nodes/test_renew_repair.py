"""Plans for control planes whose certificates have ended."""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest
import yaml

from kbuild.cli import nodes_renew
from kbuild.nodes.api import HostsRefused
from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed, values_of
from kbuild.nodes.model import Call, HostPlan, Proof, Refusal
from kbuild.nodes.renew.facts import (
    READS,
    REPAIR,
    ControlPlane,
    Stored,
    kubelet_of,
    survey_control_planes,
)
from kbuild.nodes.renew.health import Prover
from kbuild.nodes.renew.manifest import Manifest
from kbuild.nodes.renew.plan import RenewWishes, of_renewal, plan_renewal
from kbuild.nodes.renew.repair import documents, plan_repair
from kbuild.nodes.renew.undo import Backup, UndoWishes, plan_undo
from kbuild.nodes.renew.workers import (
    Worker,
    expired_workers,
    plan_workers,
    remove_token,
    worker_advice,
)
from tests.support import authority
from tests.unit.nodes.test_renew_plan import AT, LEAF, NOW, certificate, control_plane

PAST = NOW - timedelta(days=5)
FILES = ["back-up", "renew", "make-kubelet.conf", "start-kubelet"]
REST = [
    *("etcd", "restart-kube-apiserver", "restart-kube-controller-manager"),
    "restart-kube-scheduler",
]


def kubelet(end: datetime) -> tuple[Stored, ...]:
    facts = certificate(PAST)._replace(not_after=end, common_name="system:node:n1")
    return (Stored(changed=0, facts=facts),)


def expired(name: str = "n1") -> ControlPlane:
    plane = replace(control_plane(name, PAST), kubelet=kubelet(PAST), node=name)
    return replace(plane, processes={})


def fine(name: str) -> ControlPlane:
    return replace(control_plane(name), kubelet=kubelet(NOW + LEAF), node=name)


def planned(planes: list[ControlPlane], **wishes: object) -> list[HostPlan]:
    plans, refused = plan_repair(planes, RenewWishes(at=AT, **wishes))  # type: ignore[arg-type]
    assert refused == []
    return plans


def steps(plans: list[HostPlan]) -> list[tuple[str, list[str]]]:
    return [(plan.host.name, [step.name for step in plan.steps]) for plan in plans]


def test_files_come_first_then_all_of_etcd_then_the_rest() -> None:
    names = ("n1", "n2", "n3")
    assert steps(planned([expired(name) for name in names])) == [
        *((name, FILES) for name in names),
        *((name, ["restart-etcd"]) for name in names),
        *((name, REST) for name in names),
        *((name, ["settled"]) for name in names),
    ]


def test_a_member_of_etcd_is_not_awaited_before_the_others_restart() -> None:
    plans = planned([expired("n1"), expired("n2")])
    (restart,) = plans[2].steps
    assert restart.proofs == ()
    together = plans[4].steps[0]
    assert [str(proof) for proof in together.proofs] == ["serves etcd", "healthy etcd"]
    apiserver = plans[4].steps[1]
    assert [str(proof) for proof in apiserver.proofs] == [
        "serves kube-apiserver",
        "healthy kube-apiserver",
    ]
    assert apiserver.check.arguments == ("kube-apiserver", "60", *READS["kube-apiserver"])
    assert [str(proof) for proof in plans[-1].steps[-1].proofs] == ["recovered n1 n2"]


def test_nothing_but_the_backup_is_undone_for_what_was_before_has_ended() -> None:
    for plan in planned([expired()]):
        for step in plan.steps:
            assert step.name == "back-up" or (step.is_fatal and step.undo is None)


def test_the_plan_says_that_it_is_a_repair_with_downtime() -> None:
    plans = planned([expired("n1"), expired("n2"), fine("n3")])
    said = "repair with downtime, not a rolling renewal: certificates of n1, n2 have ended"
    assert [said in plan.notes[0] for plan in plans[:2]] == [True, True]
    notes = " ".join(plans[0].notes)
    assert "no API server answers until" in notes
    assert "kubelet's client certificate (2026-11-21)" in notes
    assert "nor a snapshot of etcd" in notes
    notes = " ".join(planned([expired("n1"), fine("n2"), fine("n3")])[0].notes)
    assert "carry on" in notes


def test_the_others_are_renewed_in_turn_when_the_repair_has_ended() -> None:
    found = steps(planned([fine("n1"), expired("n2"), fine("n3")]))
    assert [name for name, _ in found] == ["n2", "n2", "n2", "n2", "n1", "n3"]
    for _, names in found[4:]:
        assert names[:3] == ["healthy", "back-up", "renew"]


def test_the_backup_is_one_of_a_renewal_and_asks_no_api_server() -> None:
    keep = planned([expired()])[0].steps[0]
    generation, config_map, kubectl, etcdctl, data = keep.do.arguments
    assert of_renewal(generation)
    assert generation.endswith(REPAIR)
    assert (config_map, kubectl, etcdctl) == ("kubelet-config-1.20", "", "")
    assert data == "/var/lib/etcd"


def test_kubeadm_gets_a_configuration_made_from_files() -> None:
    renew, make = planned([expired()])[0].steps[1:3]
    assert renew.do.arguments[3:] == (
        *("/usr/bin/kubeadm", "certs", "renew", "all"),
        *("--config", "/run/kbuild/repair/kubeadm.yaml"),
    )
    init, cluster = yaml.safe_load_all(renew.do.arguments[2])
    assert init["localAPIEndpoint"]["bindPort"] == 6443
    assert init["nodeRegistration"]["name"] == "n1"
    assert cluster["controlPlaneEndpoint"] == "balancer:6443"
    assert cluster["certificatesDir"] == "/etc/kubernetes/pki"
    assert "certificateValidityPeriod" not in cluster
    assert make.do.arguments[4:] == (
        *("/usr/bin/kubeadm", "init", "phase", "kubeconfig", "kubelet"),
        *("--kubeconfig-dir", "/run/kbuild/repair", "--config", "/run/kbuild/repair/kubeadm.yaml"),
    )


def of_version(plane: ControlPlane, version: str) -> ControlPlane:
    return replace(plane, facts=replace(plane.facts, version=version, kubelet=version))


def test_a_configuration_has_the_lifetime_where_kubeadm_reads_it() -> None:
    _, cluster = documents(of_version(expired(), "v1.31.2"))
    assert cluster["apiVersion"] == "kubeadm.k8s.io/v1beta4"
    assert cluster["certificateValidityPeriod"] == "876000h0m0s"


def test_an_external_etcd_is_in_the_configuration() -> None:
    plane = expired()
    content = b"""\
metadata: {name: a}
spec:
  containers:
  - command: [kube-apiserver, "--etcd-servers=https://a:2379,https://b:2379", --etcd-cafile=/e/ca]
"""
    manifests = {name: each for name, each in plane.manifests.items() if name != "etcd"}
    external = replace(plane, manifests={**manifests, "kube-apiserver": Manifest(content=content)})
    _, cluster = documents(external)
    endpoints = ["https://a:2379", "https://b:2379"]
    assert cluster["etcd"] == {"external": {"endpoints": endpoints, "caFile": "/e/ca"}}


def test_what_an_external_etcd_has_issued_is_not_repaired_but_named() -> None:
    plane = expired()
    manifests = {name: each for name, each in plane.manifests.items() if name != "etcd"}
    external = replace(plane, manifests=manifests)
    plans, (refused,) = plan_repair([external], RenewWishes(at=AT))
    assert plans == []
    assert "pki/apiserver-etcd-client.crt has ended, and kubeadm does not renew" in refused.reason
    good = {
        **plane.certificates,
        "pki/apiserver-etcd-client.crt": Stored(changed=0, facts=certificate(NOW + LEAF)),
    }
    # What an etcd of kubeadm has left there ends nothing.
    assert "pki/etcd/server.crt" in good
    plans, refused_now = plan_repair([replace(external, certificates=good)], RenewWishes(at=AT))
    assert refused_now == []
    assert any("not of kubeadm" in note for note in plans[0].notes)
    assert not any(step.name == "restart-etcd" for plan in plans for step in plan.steps)


def test_kubeconfigs_that_an_old_kubeadm_does_not_renew_are_made() -> None:
    (first, *_) = planned([of_version(expired(), "v1.14.10")])
    assert [step.name for step in first.steps] == [
        *("back-up", "renew", "make-controller-manager.conf", "make-scheduler.conf"),
        *("make-kubelet.conf", "start-kubelet"),
    ]


def test_a_repair_that_was_killed_goes_on_with_its_backup() -> None:
    base = f"20261126T185900Z{REPAIR}"
    plane = replace(fine("n1"), base=base, processes={})
    renewed = {f: replace(s, facts=certificate(NOW + LEAF)) for f, s in plane.certificates.items()}
    plane = replace(plane, certificates=renewed)
    assert plane.needs_repair
    plans = planned([plane])
    assert [name for name, _ in steps(plans)] == ["n1"] * 4
    assert steps(plans)[0][1] == ["back-up", "start-kubelet"]
    assert plans[0].steps[0].do.arguments[0] == base
    assert "goes on" in " ".join(plans[0].notes)


@pytest.mark.parametrize(
    ("file", "needs"),
    [
        ("pki/etcd/peer.crt", True),
        ("scheduler.conf", True),
        ("admin.conf", False),
        ("pki/front-proxy-client.crt", False),
        ("pki/etcd/healthcheck-client.crt", False),
    ],
)
def test_only_what_a_control_plane_cannot_work_without_makes_a_repair(
    file: str, needs: bool
) -> None:
    plane = fine("n1")
    ended = replace(plane.certificates[file], facts=certificate(PAST))
    plane = replace(plane, certificates={**plane.certificates, file: ended})
    assert plane.needs_repair is needs


@pytest.mark.parametrize("end", [NOW + LEAF, NOW + timedelta(days=90)])
def test_if_only_a_kubelet_has_ended_it_alone_is_repaired_and_the_rest_is_rolled(
    end: datetime,
) -> None:
    plane = replace(control_plane(end=end), kubelet=(*kubelet(NOW + LEAF), *kubelet(PAST)))
    assert list(plane.ended) == ["kubelet's client certificate"]
    plans = planned([plane])
    first, last, rolling = steps(plans)
    assert first[1] == ["back-up", "make-kubelet.conf", "start-kubelet"]
    assert last[1] == ["settled"]
    assert rolling[1][:3] == ([] if end == NOW + LEAF else ["healthy", "back-up", "renew"])
    assert "downtime" not in " ".join(plans[0].notes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: replace(p, missing=("pki/ca.key",)), "external CA"),
        (lambda p: replace(p, pods="/etc/pods"), "/etc/pods"),
        (lambda p: replace(p, size=1 << 30), "needed for a backup"),
        (
            lambda p: replace(p, facts=replace(p.facts, clock=p.facts.clock + 3600)),
            "clock differs",
        ),
        (
            lambda p: replace(
                p,
                certificates={
                    **p.certificates,
                    "pki/ca.crt": Stored(changed=0, facts=certificate(PAST)),
                },
            ),
            "the CA /etc/kubernetes/pki/ca.crt has ended",
        ),
        (lambda p: of_version(p, "v1.13.7"), "cannot make"),
        (lambda p: replace(p, server=""), "which address the API server has"),
    ],
)
def test_a_repair_is_refused_where_it_cannot_succeed(
    change: Callable[[ControlPlane], ControlPlane], reason: str
) -> None:
    plans, refused = plan_repair([expired("n1"), change(expired("n2"))], RenewWishes(at=AT))
    assert plans == []
    assert reason in " ".join(each.reason for each in refused)


def test_an_undo_of_a_repair_brings_files_back_and_restarts_nothing() -> None:
    plane = fine("n1")
    kept = {f: replace(s, facts=certificate(PAST, "b")) for f, s in plane.certificates.items()}
    backup = Backup(name=f"{AT}{REPAIR}", manifests=plane.manifests, certificates=kept)
    (plan,), refused = plan_undo([plane], {"n1": backup}, set(), UndoWishes(at=AT))
    assert refused == []
    assert [step.name for step in plan.steps] == ["back-up", "restore", "settled"]
    assert not any(step.proofs for step in plan.steps)
    assert "nothing is restarted" in plan.notes[0]
    again = replace(plane, certificates=kept)
    (plan,), _ = plan_undo([again], {"n1": backup}, set(), UndoWishes(at=AT))
    assert plan.steps == ()


class Node:
    """A host whose functions print what a test says."""

    def __init__(self, name: str = "n1", **printed: str) -> None:
        self.host = SimpleNamespace(name=name)
        self._printed = printed

    def call(self, function: Call, **_options: float) -> str:
        return self._printed[function.function]


def node(name: str = "n1", **printed: str) -> Connection:
    return cast("Connection", Node(name, **printed))


def encoded(issued: authority.Issued) -> str:
    return base64.b64encode(issued.pem).decode()


CLIENT = f"kubelet_client=0 {encoded(authority.issue('system:node:node-1', years=1))}\n"


def test_workers_that_have_ended_are_named_with_commands() -> None:
    (found,) = kubelet_of(values_of(CLIENT))
    late = int(found.facts.not_after.timestamp()) + 1
    facts = [replace(expired(name).facts, clock=clock) for name, clock in (("w1", late), ("w2", 0))]
    printed = f"{CLIENT}servers=1\n"
    connections = {name: node(name, worker_facts=printed) for name in ("w1", "w2")}
    ended = expired_workers(facts, connections, 2, untold)
    assert [(each.name, each.node) for each in ended] == [("w1", "node-1")]
    lines = worker_advice(with_tokens(expired("n1")), ended)
    assert "w1 (" in lines[0]
    assert "no --bootstrap-kubeconfig" in lines[1]
    assert any(line.startswith("kubeadm init phase kubeconfig kubelet") for line in lines)
    assert any('"name": "node-1"' in line for line in lines)
    assert worker_advice(expired("n1"), []) == []
    assert plan_workers(expired("n1"), ended, AT) == ([], None)


CAN_JOIN = "bootstraps=yes\nserver=https://192.0.2.9:6443\nservers=1\nauthority=yes\n"
JOINS = f"{CLIENT}{CAN_JOIN}"


def untold(text: str) -> None:
    raise AssertionError(text)


def worker(name: str, printed: str) -> Worker:
    facts = replace(expired(name).facts, clock=1 << 40)
    [found] = expired_workers([facts], {name: node(name, worker_facts=printed)}, 1, untold)
    return found


def with_tokens(plane: ControlPlane) -> ControlPlane:
    manifest = plane.manifests["kube-apiserver"]
    flag = b"\n    - --enable-bootstrap-token-auth=true"
    content = manifest.content.replace(b"\n    - kube-apiserver", b"\n    - kube-apiserver" + flag)
    assert content != manifest.content
    return replace(
        plane, manifests={**plane.manifests, "kube-apiserver": Manifest(content=content)}
    )


def test_workers_get_a_certificate_with_one_token_that_no_plan_shows() -> None:
    plane = with_tokens(fine("n1"))
    workers = [worker("w1", JOINS), worker("w2", JOINS), worker("w3", f"{CLIENT}servers=1\n")]
    plans, token = plan_workers(plane, workers, AT)
    assert token is not None
    assert steps(plans) == [
        ("n1", ["make-token"]),
        ("w1", ["back-up", "join-again", "settled"]),
        ("w2", ["back-up", "join-again", "settled"]),
    ]
    assert [plan.is_independent for plan in plans] == [False, True, True]
    secret = f"{token.id}.{token.secret}"
    assert re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}", secret)
    make, join = plans[0].steps[0].do, plans[1].steps[1].do
    assert (make.secret, join.secret) == (secret, secret)
    assert token.secret not in f"{plans} {token} {make} {join}"
    text = f"{make.arguments[-1]}{secret}\n"
    cluster, init = yaml.safe_load_all(text)
    # Without a version, kubeadm looks for the newest one in the internet.
    assert cluster["kubernetesVersion"] == plane.facts.version
    assert init["bootstrapTokens"] == [{"ttl": "30m0s", "token": secret}]
    [line] = [line for line in worker_advice(plane, workers) if "does not repair" in line]
    assert line.startswith("w3: kbuild does not repair it: its kubelet has no --bootstrap")
    assert plan_workers(plane, workers, AT)[1] != token


def test_a_lost_manifest_is_refused_before_workers_are_planned() -> None:
    plane = fine("n1")
    manifests = {name: each for name, each in plane.manifests.items() if name != "kube-apiserver"}
    lost = replace(plane, manifests=manifests)

    def plan(planes: Sequence[ControlPlane], *_: object) -> tuple[list[HostPlan], list[Refusal]]:
        return plan_renewal(planes, RenewWishes(at=AT))

    with pytest.raises(HostsRefused) as caught:
        nodes_renew.planned([lost], [worker("w1", JOINS)], {}, plan)
    assert "kube-apiserver.yaml is not there" in caught.value.details


def test_workers_are_not_repaired_without_what_they_need() -> None:
    able = worker("w1", JOINS)
    assert plan_workers(fine("n1"), [able], AT) == ([], None)
    assert "no --enable-bootstrap-token-auth" in worker_advice(fine("n1"), [able])[1]
    other = worker("w1", f"{JOINS}bootstrap=other\n")
    assert plan_workers(with_tokens(fine("n1")), [other], AT) == ([], None)
    several = worker("w1", JOINS.replace("servers=1", "servers=2"))
    assert plan_workers(with_tokens(fine("n1")), [several], AT) == ([], None)
    assert "exactly one API server" in worker_advice(with_tokens(fine("n1")), [several])[1]
    lost = worker("w1", f"{CLIENT}bootstraps=yes\nserver=\nservers=1\nauthority=yes\n")
    assert plan_workers(with_tokens(fine("n1")), [lost], AT) == ([], None)


@pytest.mark.parametrize(
    "name", ["x;touch /tmp/PWNED;#", "$(id)", "../etc/kubernetes", "x\nreboot", "X", "", "a..b"]
)
def test_a_name_that_no_node_has_gets_into_no_command(name: str) -> None:
    client = f"kubelet_client=0 {encoded(authority.issue(f'system:node:{name}', years=-1))}\n"
    bad = worker("w1", client + CAN_JOIN)
    plane = with_tokens(fine("n1"))
    assert plan_workers(plane, [bad], AT) == ([], None)
    lines = worker_advice(plane, [bad])
    assert lines[-1].startswith("make its kubelet.conf by hand")
    assert not name or name not in "\n".join(lines)


def test_workers_that_cannot_be_examined_are_told_and_stop_nothing() -> None:
    told: list[str] = []
    facts = [replace(expired(name).facts, clock=1 << 40) for name in ("w1", "w2")]
    odd = CLIENT.replace("kubelet_client=0", "kubelet_client=abc")
    connections = {"w1": node("w1", worker_facts=odd), "w2": node("w2", worker_facts="")}
    assert expired_workers(facts, connections, 1, told.append) == []
    assert [line.split(":")[0] for line in told] == ["w1", "w2"]


def test_a_worker_that_has_joined_in_a_run_that_was_killed_is_only_settled() -> None:
    facts = replace(expired("w1").facts, clock=0)
    for base, names in ((f"{AT}{REPAIR}", ["settled"]), ("", [])):
        connection = node("w1", worker_facts=f"{JOINS}base={base}\n")
        found = expired_workers([facts], {"w1": connection}, 1, untold)
        plans, token = plan_workers(fine("n1"), found, AT)
        assert token is None
        assert [name for _, steps_ in steps(plans) for name in steps_] == names
        assert worker_advice(fine("n1"), found) == []


def test_a_token_that_cannot_be_removed_is_told() -> None:
    _, token = plan_workers(with_tokens(fine("n1")), [worker("w1", JOINS)], AT)
    assert token is not None
    told: list[str] = []
    remove_token(token, {"n1": node(remove_token="")}, told.append)
    remove_token(None, {}, told.append)
    assert told == []

    class Cut(Node):
        def call(self, function: Call, **_options: float) -> str:
            raise ConnectionFailed(function.function)

    remove_token(token, {"n1": cast("Connection", Cut("n1"))}, told.append)
    (line,) = told
    assert f"token {token.id} is left" in line
    assert token.secret not in line


@pytest.mark.parametrize("printed", [CLIENT, ""])
def test_kubelet_has_not_joined_with_a_certificate_that_has_ended(printed: str) -> None:
    old = encoded(authority.issue("system:node:node-1", years=-1)) if printed else ""
    connection = node(kubelet_clients=f"kubelet_client=0 {old}\n" if old else "")
    prover = Prover(planes={}, connections={})
    with pytest.raises(CallFailed, match="ended" if printed else "no certificate"):
        prover(connection, Proof(kind="joined"))
    prover(node(kubelet_clients=CLIENT), Proof(kind="joined"))


@pytest.mark.parametrize(
    ("printed", "reason"), [(CLIENT, "was expected"), ("", "no client certificate")]
)
def test_a_certificate_of_kubelet_that_is_not_as_issued_is_no_repair(
    printed: str, reason: str
) -> None:
    connection = node(kubelet_clients=printed)
    prover = Prover(planes={"n1": fine("n1")}, connections={"n1": connection})
    with pytest.raises(CallFailed, match=reason):
        prover(connection, Proof(kind="kubelet"))


@pytest.mark.parametrize(
    ("version", "stored", "days"),
    [
        ("v1.31.2", "876000h0m0s", 36500),
        ("v1.31.2", "24h0m0s", 365),
        ("v1.31.2", "", 365),
        ("v1.30.0", "876000h0m0s", 365),
    ],
)
def test_a_lifetime_that_a_backup_has_counts_where_kubeadm_reads_it_if_it_is_longer(
    version: str, stored: str, days: int
) -> None:
    issued = authority.issue("kube-apiserver", years=1)
    clock = int(issued.certificate.not_valid_before_utc.timestamp()) + 2 * 365 * 86400
    trial = authority.issue("a", years=3)
    facts = replace(of_version(expired(), version).facts, clock=clock)
    certificate = f"certificate=pki/apiserver.crt 0 {encoded(issued)}\n"
    said = f"size=1\nstored_leaf={stored}\n{certificate}{CLIENT}"
    connection = node(control_plane=said, trial=f"issued={encoded(trial)}\n")
    (plane,), refused = survey_control_planes([facts], {"n1": connection}, 1)
    assert refused == []
    assert plane.node == "node-1"
    assert not plane.is_rotated
    assert plane.lifetime.days == days
