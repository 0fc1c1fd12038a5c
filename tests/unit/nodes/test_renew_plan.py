"""Plans of a renewal and of an undo, and what is refused."""

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from kbuild.nodes.connection import CallFailed, Connection
from kbuild.nodes.model import Call, Host, HostFacts, Issues
from kbuild.nodes.renew.facts import (
    COMPONENTS,
    ControlPlane,
    Process,
    Stored,
    read_again,
    survey_control_planes,
)
from kbuild.nodes.renew.health import is_fresh
from kbuild.nodes.renew.manifest import Manifest
from kbuild.nodes.renew.plan import RenewWishes, of_renewal, plan_renewal
from kbuild.nodes.renew.undo import Backup, UndoWishes, choose_backup, plan_undo
from kbuild.x509.api import CertificateFacts, read_certificate
from tests.support import authority
from tests.support.host_facts import HEALTHY
from tests.unit.nodes.test_renew_manifest import APISERVER

NOW = datetime(2026, 11, 26, 19, tzinfo=UTC)
LEAF = timedelta(days=36500)
AT = "20261126T190000Z"
NAMING = APISERVER + b"# --tls-cert-file=/etc/kubernetes/pki/apiserver.crt\n"
RENEWED = (
    *("pki/apiserver.crt", "pki/apiserver-kubelet-client.crt", "pki/front-proxy-client.crt"),
    *("admin.conf", "controller-manager.conf", "scheduler.conf"),
    *("pki/apiserver-etcd-client.crt", "pki/etcd/server.crt", "pki/etcd/peer.crt"),
    "pki/etcd/healthcheck-client.crt",
)
_ISSUED_PEM = authority.issue("kube-apiserver", years=1).pem
_ISSUED = read_certificate(_ISSUED_PEM)
_MANIFEST = Manifest(content=APISERVER)  # which keeps what it has parsed


class FakeNode:
    """A connection whose functions print what they are told to."""

    def __init__(self, says: dict[str, str]) -> None:
        self.says = says

    def call(self, function: Call, **_: float) -> str:
        return self.says[function.function]


def certificate(end: datetime, name: str = "a") -> CertificateFacts:
    return _ISSUED._replace(not_after=end, fingerprint=name)


def host_facts(name: str) -> HostFacts:
    now = NOW.timestamp()
    return replace(HEALTHY, host=Host(name=name), clock=int(now), asked_at=now)


def control_plane(name: str = "n1", end: datetime = NOW + timedelta(days=90)) -> ControlPlane:
    started = int(NOW.timestamp()) - 1000
    changed = started - 10
    return ControlPlane(
        facts=host_facts(name),
        manifests=dict.fromkeys(COMPONENTS, _MANIFEST),
        certificates={f: Stored(changed=changed, facts=certificate(end)) for f in RENEWED},
        processes={each: (Process(pid=1, started=started),) for each in (*COMPONENTS, "kubelet")},
        missing=(),
        lifetime=LEAF,
        pods="/etc/kubernetes/manifests",
        size=1000,
        kubectl="/usr/bin/kubectl",
        etcdctl="/usr/bin/etcdctl",
        firewall="iptables",
        server="https://balancer:6443",
        own_server=False,
        base="",
        backups=(),
    )


def without(stored: Mapping[str, Stored], file: str) -> dict[str, Stored]:
    return {name: each for name, each in stored.items() if name != file}


def three(end: datetime = NOW + timedelta(days=90)) -> list[ControlPlane]:
    return [control_plane(name, end) for name in ("n1", "n2", "n3")]


def names(planes: list[ControlPlane], wishes: RenewWishes | None = None) -> list[list[str]]:
    plans, refused = plan_renewal(planes, wishes or RenewWishes(at=AT))
    assert not refused
    return [[step.name for step in plan.steps] for plan in plans]


def reasons(planes: list[ControlPlane], wishes: RenewWishes | None = None) -> str:
    plans, refused = plan_renewal(planes, wishes or RenewWishes(at=AT))
    assert not plans
    return "\n".join(f"{each.host}: {each.reason}; {each.todo}" for each in refused)


def test_the_steps_are_in_their_order_and_etcd_restarts_while_drained() -> None:
    steps = [
        *("healthy", "back-up", "renew", "drain", "restart-etcd", "restart-kube-apiserver"),
        *("undrain", "restart-kube-controller-manager", "restart-kube-scheduler", "settled"),
    ]
    assert names(three()) == [steps] * 3


def test_the_plan_says_what_is_run_and_what_must_be_seen() -> None:
    plans, _ = plan_renewal(three(), RenewWishes(at=AT))
    steps = {step.name: step for step in plans[0].steps}
    assert steps["renew"].do.arguments[1:] == ("/usr/bin/kubeadm", "certs", "renew", "all")
    (dates,) = steps["renew"].proofs
    assert set(dates.arguments) == set(RENEWED)
    assert [str(p) for p in steps["restart-kube-apiserver"].proofs] == [
        "serves kube-apiserver",
        "healthy kube-apiserver",
    ]
    assert [str(p) for p in steps["restart-kube-scheduler"].proofs] == ["healthy kube-scheduler"]
    assert steps["healthy"].proofs[0].arguments == ("n1", "n2", "n3")


def test_what_was_recorded_and_is_issued_is_renewed() -> None:
    plane = control_plane()
    facts = replace(plane.facts, issues=Issues(ca_years=100, leaf_years=100))
    assert "renew" in names([replace(plane, facts=facts)])[0]


def test_a_kubelet_that_starts_another_program_runs() -> None:
    plane = control_plane()
    twice = (*plane.processes["kubelet"], Process(pid=2, started=0))
    assert "renew" in names([replace(plane, processes={**plane.processes, "kubelet": twice})])[0]


def test_an_old_kubeadm_is_called_as_it_knows() -> None:
    old = control_plane()
    plans, _ = plan_renewal(
        [replace(old, facts=replace(old.facts, version="v1.19.3", kubelet=""))], RenewWishes(at=AT)
    )
    renew = next(step for step in plans[0].steps if step.name == "renew")
    assert renew.do.arguments[2:] == ("alpha", "certs", "renew", "all")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: replace(p, firewall=""), "neither iptables nor nft"),
        (lambda p: replace(p, own_server=True), "of a control plane itself"),
    ],
)
def test_no_drain_where_nobody_would_take_over(
    change: Callable[[ControlPlane], ControlPlane], why: str
) -> None:
    plans, _ = plan_renewal([change(each) for each in three()], RenewWishes(at=AT))
    for plan in plans:
        assert "drain" not in [step.name for step in plan.steps]
        assert why in plan.notes[0]


def test_a_balancer_on_the_control_planes_has_another_port() -> None:
    planes = [replace(p, own_server=True, server="https://10.0.0.9:8443") for p in three()]
    assert "drain" in names(planes)[0]


def test_no_drain_if_not_wanted_or_alone() -> None:
    assert "drain" not in names(three(), RenewWishes(at=AT, drain=False))[0]
    (plan,), _ = plan_renewal([control_plane()], RenewWishes(at=AT))
    assert "no other control plane" in plan.notes[0]


def test_new_certificates_need_nothing() -> None:
    assert names(three(NOW + LEAF)) == [[], [], []]


def test_a_run_that_was_killed_goes_on_with_what_is_left() -> None:
    plane = control_plane(end=NOW + LEAF)
    base = "20261126T185900Z-renew"
    now = int(NOW.timestamp())
    changed = {f: replace(each, changed=now) for f, each in plane.certificates.items()}
    after_etcd = {**plane.processes, "etcd": (Process(pid=2, started=now + 5),)}
    plane = replace(plane, certificates=changed, processes=after_etcd, base=base)
    (steps,) = names([plane])
    assert steps == [
        *("healthy", "back-up", "restart-kube-apiserver", "restart-kube-controller-manager"),
        *("restart-kube-scheduler", "settled"),
    ]
    plans, _ = plan_renewal([plane], RenewWishes(at=AT))
    assert plans[0].steps[1].do.arguments[0] == base


def test_a_renewal_that_only_has_no_end_ends() -> None:
    plane = replace(control_plane(end=NOW + LEAF), base="20261126T185900Z-renew")
    assert names([plane]) == [["healthy", "back-up", "settled"]]


def test_what_a_killed_run_has_left_drained_is_accepted_first() -> None:
    fresh = replace(control_plane("n1", NOW + LEAF), drained="6443")
    other = control_plane("n2", NOW + LEAF)
    assert names([fresh, other]) == [["undrain"], []]
    (plan, _), _ = plan_renewal([fresh, other], RenewWishes(at=AT))
    assert plan.steps[0].do.arguments == ("6443",)
    stale = replace(control_plane(), drained="6443")
    steps = names([stale, other])[0]
    assert steps.index("undrain") < steps.index("healthy") < steps.index("drain")


def test_an_undo_begins_with_what_is_drained() -> None:
    first, second, third = three()
    planes = [first, replace(second, drained="6443"), third]
    chosen = {each.name: backup(each) for each in planes}
    plans, _ = plan_undo(planes, chosen, {"n3"}, UndoWishes(at=AT))
    assert [plan.host.name for plan in plans] == ["n2", "n3", "n1"]
    assert plans[0].steps[0].name == "undrain"


def test_copies_of_admin_conf() -> None:
    assert names([control_plane(end=NOW + LEAF)], RenewWishes(at=AT, users=("ops",))) == [
        ["kubeconfig-ops"]
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: replace(p, missing=("pki/ca.key",)), "external CA"),
        (lambda p: replace(p, pods="/etc/pods"), "/etc/pods"),
        (lambda p: replace(p, processes={**p.processes, "kubelet": ()}), "kubelet does not run"),
        (lambda p: replace(p, processes={**p.processes, "etcd": ()}), "no processes of etcd"),
        (lambda p: replace(p, size=1 << 30), "needed for a backup"),
        (
            lambda p: replace(p, twins=("etcd etcd.yaml.bak",)),
            "manifests/etcd.yaml.bak is a second manifest of etcd, and kubelet reads both",
        ),
        (
            lambda p: replace(p, manifests={**p.manifests, "etcd": Manifest(content=b"{}")}),
            "etcd.yaml: it is not a pod",
        ),
        (
            lambda p: replace(p, facts=replace(p.facts, clock=p.facts.clock + 3600)),
            "clock differs from ours",
        ),
        (lambda p: replace(p, facts=replace(p.facts, busy=("apt",))), "apt is running"),
        (lambda p: replace(p, lifetime=timedelta(days=30)), "would make that"),
        (
            lambda p: replace(p, unreadable={"pki/apiserver.crt": "it is empty"}),
            "/etc/kubernetes/pki/apiserver.crt cannot be read: it is empty",
        ),
        (
            lambda p: replace(
                p,
                certificates=without(p.certificates, "pki/apiserver.crt"),
                manifests={**p.manifests, "kube-apiserver": Manifest(content=NAMING)},
            ),
            "pki/apiserver.crt is not there, and kube-apiserver could not start without it",
        ),
        (
            lambda p: replace(p, facts=replace(p.facts, issues=Issues(ca_years=1, leaf_years=10))),
            "issues certificates of 36500 days for trial, and 10 years were recorded",
        ),
    ],
)
def test_one_that_must_not_be_changed_refuses_all(
    change: Callable[[ControlPlane], ControlPlane], reason: str
) -> None:
    first, *rest = three()
    assert reason in reasons([change(first), *rest])


def test_a_clock_that_is_off_is_said_of_that_host_alone() -> None:
    def off(plane: ControlPlane, seconds: int) -> ControlPlane:
        return replace(plane, facts=replace(plane.facts, clock=plane.facts.clock + seconds))

    first, second, third = three()
    (line,) = reasons([first, off(second, 3600), third]).splitlines()
    assert line.startswith("n2: its clock differs from ours by 3600 seconds")
    # Each differs little from ours, but not from each other.
    said = reasons([off(first, 40), off(second, -40), third])
    assert "n1: its clock differs from that of n2 by 80 seconds" in said
    assert "n3" not in said


def test_shorter_certificates_are_allowed_if_asked_for() -> None:
    plane = replace(control_plane(), lifetime=timedelta(days=30))
    assert "renew" in names([plane], RenewWishes(at=AT, may_shorten=True))[0]


def test_an_external_etcd_is_named_and_left_alone() -> None:
    plane = control_plane()
    file = "/etc/kubernetes/pki/apiserver-etcd-client.crt"
    flags = (
        b"    - --etcd-certfile=%s\n    - --etcd-servers=https://192.0.2.9:2379\n" % file.encode()
    )
    content = APISERVER.replace(b"    - kube-apiserver\n", b"    - kube-apiserver\n" + flags, 1)
    manifests = {
        **{name: each for name, each in plane.manifests.items() if name != "etcd"},
        "kube-apiserver": Manifest(content=content),
    }
    external = replace(plane, manifests=manifests, missing=("pki/etcd/ca.key",))
    (plan,), refused = plan_renewal([external], RenewWishes(at=AT))
    assert not refused
    steps = {step.name: step for step in plan.steps}
    assert "restart-etcd" not in steps
    assert not any("etcd" in file for file in steps["renew"].proofs[0].arguments)
    assert "snapshot" not in steps["back-up"].what
    assert "the backup has no snapshot of etcd: make one where it runs" in plan.notes
    (named,) = [note for note in plan.notes if "not of kubeadm" in note]
    ends = plane.certificates["pki/apiserver-etcd-client.crt"].facts.not_after
    assert "(https://192.0.2.9:2379)" in named
    assert named.endswith(f"and {file} of the API server (it ends {ends:%Y-%m-%d})")


@pytest.mark.parametrize("drain", [True, False])
def test_a_single_control_plane_has_an_outage_that_is_said_before_and_no_drain(
    drain: bool,
) -> None:
    wishes = RenewWishes(at=AT, drain=drain)
    (plan,), _ = plan_renewal([control_plane()], wishes)
    assert "drain" not in {step.name for step in plan.steps}
    assert any("does not answer for some seconds" in note for note in plan.notes)
    said = " ".join(step.why for step in plan.steps)
    assert "others" not in said
    assert "next control plane" not in said
    plans, _ = plan_renewal(three(), wishes)
    assert not any("does not answer" in note for plan in plans for note in plan.notes)


def test_a_damaged_certificate_is_a_fact_and_no_failure_of_the_survey() -> None:
    good = base64.b64encode(_ISSUED_PEM).decode()
    node = FakeNode(
        {
            "control_plane": f"certificate=pki/a.crt 1 {good}\ncertificate=pki/b.crt 1 \nsize=1\n",
            "trial": f"issued={good}\n",
        }
    )
    connected = {"n1": cast("Connection", node)}
    (plane,), refused = survey_control_planes([host_facts("n1")], connected, 1)
    assert not refused
    assert list(plane.certificates) == ["pki/a.crt"]
    assert list(plane.unreadable) == ["pki/b.crt"]
    # Of a certificate that was just renewed, it is an error.
    node.says["certificates"] = node.says["control_plane"]
    with pytest.raises(CallFailed, match=r"pki/b\.crt cannot be read"):
        read_again(connected["n1"])


def test_a_component_that_just_starts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    good, pod = base64.b64encode(_ISSUED_PEM).decode(), base64.b64encode(APISERVER).decode()
    down = f"manifest=etcd 1 {pod}\nsize=1\nprocess=kubelet 1 10 10\n"
    node = FakeNode({"control_plane": down, "trial": f"issued={good}\n"})
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            node.says["control_plane"] = f"{down}process=etcd 2 20 20\n"

    monkeypatch.setattr(time, "sleep", sleep)
    connected = {"n1": cast("Connection", node)}
    (plane,), _ = survey_control_planes([host_facts("n1")], connected, 1)
    assert (len(waited), len(plane.processes["etcd"])) == (2, 1)
    # Nobody starts it where kubelet does not run.
    node.says["control_plane"] = down.replace("kubelet", "other")
    survey_control_planes([host_facts("n1")], connected, 1)
    assert len(waited) == 2


def test_fresh_means_within_a_day() -> None:
    assert is_fresh(NOW + LEAF - timedelta(hours=23), NOW, LEAF)
    assert not is_fresh(NOW + LEAF - timedelta(hours=25), NOW, LEAF)
    assert not is_fresh(NOW + LEAF + timedelta(hours=25), NOW, LEAF)


def backup(plane: ControlPlane, mark: str = "b") -> Backup:
    kept = {f: replace(s, facts=certificate(NOW, mark)) for f, s in plane.certificates.items()}
    return Backup(name="20261120T000000Z-renew", manifests=plane.manifests, certificates=kept)


def test_an_undo_goes_backwards_and_begins_with_what_is_broken() -> None:
    planes = three()
    chosen = {each.name: backup(each) for each in planes}
    plans, refused = plan_undo(planes, chosen, {"n2"}, UndoWishes(at=AT))
    assert not refused
    assert [plan.host.name for plan in plans] == ["n2", "n3", "n1"]
    steps = [step.name for step in plans[0].steps]
    assert steps == [
        *("healthy", "back-up", "restore", "drain", "restart-etcd", "restart-kube-apiserver"),
        *("undrain", "restart-kube-controller-manager", "restart-kube-scheduler", "settled"),
    ]
    seen = [plan.steps[0].proofs[0].arguments for plan in plans]
    assert seen == [("n1", "n3"), ("n1", "n2"), ("n2", "n3")]
    assert plans[2].steps[-1].proofs[0].arguments == ("n1", "n2", "n3")


def test_an_undo_twice_has_nothing_to_do() -> None:
    plane = control_plane()
    plans, _ = plan_undo([plane], {"n1": backup(plane, "a")}, set(), UndoWishes(at=AT))
    assert plans[0].steps == ()


def test_an_undo_brings_back_a_certificate_that_is_damaged_or_gone() -> None:
    plane = control_plane()
    kept = backup(plane, "a")
    left = replace(plane, certificates=without(plane.certificates, "pki/apiserver.crt"))
    for each in (left, replace(left, unreadable={"pki/apiserver.crt": "it is empty"})):
        plans, refused = plan_undo([each], {"n1": kept}, set(), UndoWishes(at=AT))
        assert not refused
        assert "restore" in [step.name for step in plans[0].steps]


def test_a_killed_undo_goes_on() -> None:
    plane = control_plane()
    kept = backup(plane, "a")
    begun = f"20261126T185900Z-undo.{kept.name}"
    plans, _ = plan_undo([replace(plane, base=begun)], {"n1": kept}, set(), UndoWishes(at=AT))
    assert plans[0].steps[1].do.arguments[0] == begun


def test_an_undo_to_other_static_pods_is_refused() -> None:
    plane = control_plane()
    other = replace(backup(plane), manifests={"etcd": Manifest(content=APISERVER)})
    plans, refused = plan_undo([plane], {"n1": other}, set(), UndoWishes(at=AT))
    assert not plans
    assert "other static pods" in refused[0].reason


def test_the_backup_of_an_undo_is_none_of_a_renewal() -> None:
    assert of_renewal("20261126T190000Z-renew")
    assert not of_renewal("20261126T191000Z-undo.20261126T190000Z-renew")
    assert not of_renewal("")
    base = "20261126T191000Z-undo.20261126T190000Z-renew"
    plans, _ = plan_renewal([replace(control_plane(), base=base)], RenewWishes(at=AT))
    assert plans[0].steps[1].do.arguments[0] == f"{AT}-renew"


def test_an_undo_brings_back_what_the_last_renewal_kept() -> None:
    plane = control_plane()
    manifest = base64.b64encode(APISERVER).decode()

    node = cast("Connection", FakeNode({"manifests_of": f"manifest=etcd 0 {manifest}\n"}))
    first, last = "20261125T000000Z-renew", "20261126T000000Z-renew"
    own = f"20261126T010000Z-undo.{last}"
    having = replace(plane, backups=(first, last, own))
    assert getattr(choose_backup(having, "", node), "name", "") == last
    assert getattr(choose_backup(having, "20261125", node), "name", "") == first
    begun = replace(having, base=f"20261126T020000Z-undo.{first}")
    assert getattr(choose_backup(begun, "", node), "name", "") == first
    assert "no backup" in getattr(choose_backup(plane, "", node), "reason", "")
