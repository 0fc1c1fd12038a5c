"""What is refused, and what the plans of the other hosts are."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kbuild.nodes.install import Kubeadm, Wishes, plan_install
from kbuild.nodes.model import Generation, Host, HostFacts, HostPlan, Issues
from kbuild.nodes.rollback import plan_rollback
from kbuild.nodes.survey import each_once, survey
from tests.support.host_facts import HEALTHY
from tests.support.local_node import LocalNode

AT = "20261126T183000Z"
NEW, OLD, OLDER = "a" * 64, "b" * 64, "c" * 64
HUNDRED = Issues(ca_years=100, leaf_years=50)
KUBEADM = Kubeadm(file=Path("k"), sha256=NEW, size=40 << 20, version="v1.20.2", issues=HUNDRED)
NODE = replace(
    HEALTHY, clock=1000, asked_at=1000.0, sha256=OLD, version="v1.20.0", kubelet="v1.20.1"
)
INSTALLED: dict[str, Any] = {
    "sha256": NEW,
    "version": "v1.20.2",
    "issues": HUNDRED,
    "is_ours": True,
}


def wishes(**changes: Any) -> Wishes:
    return replace(Wishes(kubeadms={"amd64": KUBEADM}, at=AT), **changes)


def planned(*, hold: bool = False, **changes: Any) -> HostPlan:
    (plan,), refused = plan_install([replace(NODE, **changes)], wishes(hold=hold))
    assert refused == []
    return plan


def names(plan: HostPlan) -> list[str]:
    return [step.name for step in plan.steps]


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "not root": ({"uid": 1000}, "the user is not root there", "--sudo"),
    "clock": ({"clock": 4600}, "its clock differs from ours by 3600 seconds", "set the clocks"),
    "clock behind": ({"clock": 0}, "by -1000 seconds", "set the clocks"),
    "none": ({"kubeadm": "", "target": "", "sha256": ""}, "no kubeadm on the PATH", "--path"),
    "relative": ({"kubeadm": "bin/kubeadm"}, "not an absolute path", "--path"),
    "control characters": ({"target": "/usr/bin/a?b"}, "printable characters", "--path"),
    "not UTF-8": ({"target": "/usr/bin/a\\xff"}, "printable characters", "--path"),
    "nowhere": ({"target": "", "sha256": ""}, "is a link that leads nowhere", "repair that"),
    "directory": ({"problem": "/usr/bin is not a file"}, "is not a file", "repair that"),
    "read-only": ({"is_read_only": True}, "/usr/bin is read-only", "mount it for writing"),
    "busy": ({"busy": ("apt-get", "dpkg")}, "apt-get, dpkg is running", "wait until"),
    "architecture": ({"machine": "aarch64"}, "it is aarch64, and the release has amd64", "--arch"),
    "unknown machine": ({"machine": "vax"}, "it is vax", "--arch"),
    "minor": ({"version": "v1.21.0"}, "its kubeadm is v1.21.0", "own minor version"),
    "minor of kubelet": ({"kubelet": "v1.19.9"}, "its kubelet is v1.19.9", "own minor version"),
    "mute": ({"version": "", "kubelet": ""}, "does not say which version", "version -o short"),
    "full beside": ({"free": 1024}, "1 MiB are free beside kubeadm", "make room"),
    "full state": ({"state_free": 0}, "0 MiB are free in /var/lib", "make room"),
}


@pytest.mark.parametrize(("changes", "reason", "todo"), REFUSED.values(), ids=REFUSED)
def test_a_host_is_refused(changes: dict[str, Any], reason: str, todo: str) -> None:
    other = replace(NODE, host=Host(name="n2"))
    plans, refused = plan_install([replace(NODE, **changes), other], wishes())
    assert [plan.host.name for plan in plans] == ["n2"]
    assert [each.host for each in refused] == ["n1"]
    assert reason in refused[0].reason
    assert todo in refused[0].todo


def test_a_host_that_is_not_root_is_not_called_read_only() -> None:
    _, refused = plan_install([replace(NODE, uid=7, is_read_only=True)], wishes())
    assert [each.reason for each in refused] == ["the user is not root there"]


def test_a_host_without_kubeadm_gets_one_where_the_last_was() -> None:
    backup = Generation(name="x", sha256=OLD, version="v1.20.0", path="/opt/bin/kubeadm")
    none: dict[str, Any] = {"kubeadm": "", "target": "", "sha256": "", "generations": (backup,)}
    _, refused = plan_install([replace(NODE, **none)], wishes())
    assert refused[0].todo.endswith("--path /opt/bin/kubeadm")


def test_a_machine_with_two_names_takes_part_once(tmp_path: Path) -> None:
    boot = tmp_path / "proc/sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("0e2f9c1e-3c55-4a0f-8c60-0d9d3f3f5a11\n")
    nodes: Any = {name: LocalNode(root=tmp_path, name=name) for name in ("cp1", "vip")}
    other = replace(HEALTHY, host=Host(name="n1"))
    unknown = replace(HEALTHY, host=Host(name="n2"))
    facts, refused = each_once([*survey(nodes, 2)[0], other, unknown])
    assert [each.host.name for each in facts] == ["cp1", "n1", "n2"]
    assert [str(each) for each in refused] == [
        "vip: it is the same machine as cp1; leave one of them out with --limit, or name it once"
    ]


def test_the_steps_of_an_installation() -> None:
    plan = planned()
    assert names(plan) == ["copy", "back-up", "record", "replace"]
    copy, _, record, swap = plan.steps
    assert str(record.do) == f"record {NEW} 100 50 v1.20.2 /usr/bin/kubeadm"
    assert copy.upload is not None
    assert copy.upload.sha256 == NEW
    assert str(swap.do) == f"swap /usr/bin/.kubeadm.kbuild-{NEW[:12]} /usr/bin/kubeadm {OLD} {NEW}"
    assert str(swap.undo) == f"bring_back {OLD} /usr/bin/kubeadm {NEW}"


def test_a_host_without_kubeadm_needs_no_backup() -> None:
    plan = planned(sha256="", version="")
    assert names(plan) == ["copy", "back-up", "record", "replace"]
    assert str(plan.steps[1].do) == f"keep_none /usr/bin/kubeadm {AT}-none"
    assert str(plan.steps[-1].undo) == f"take_away /usr/bin/kubeadm {NEW}"


def test_nothing_is_to_be_done_twice() -> None:
    assert names(planned(**INSTALLED, free=0)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"issues": None, "is_ours": False},
        {"issues": replace(HUNDRED, leaf_years=1)},
        {"is_ours": False},
    ],
)
def test_what_it_issues_is_recorded_of_a_kubeadm_that_is_there(change: dict[str, Any]) -> None:
    assert names(planned(**(INSTALLED | change))) == ["record"]


def test_an_installation_that_was_not_confirmed_is_confirmed() -> None:
    plan = planned(**INSTALLED, unfinished="run replace begin")
    assert names(plan) == ["confirm"]
    assert str(plan.steps[0].confirm) == f"runs_as /usr/bin/kubeadm {NEW} v1.20.2"
    assert "an earlier run did not end; its last entry is: run replace begin" in plan.notes


def test_what_other_runs_left_is_removed_but_not_our_own_upload() -> None:
    ours = f".kubeadm.kbuild-{NEW[:12]}.part"
    assert names(planned(leftovers=(ours,)))[0] == "copy"
    plan = planned(leftovers=(ours, ".kubeadm.kbuild-0.part"))
    assert names(plan)[0] == "clean"
    assert ".kubeadm.kbuild-0.part" in plan.steps[0].what
    assert ours not in plan.steps[0].what
    assert names(planned(**INSTALLED, leftovers=(ours,))) == ["clean"]


HOLDS: dict[str, tuple[dict[str, Any], bool, bool, str]] = {
    "deb": ({"package": "deb kubeadm"}, True, True, ""),
    "deb, held": ({"package": "deb kubeadm", "is_held": True}, True, False, ""),
    "deb, not asked": ({"package": "deb kubeadm"}, False, False, "apt may bring back"),
    "rpm": ({"package": "rpm kubeadm", "can_lock_versions": True}, True, True, ""),
    "rpm without plugin": ({"package": "rpm kubeadm"}, True, False, "no plugin versionlock"),
    "rpm, not asked": ({"package": "rpm kubeadm"}, False, False, "yum or dnf may bring back"),
    "rpm, excluded": (
        {"package": "rpm kubeadm", "is_excluded": True},
        True,
        False,
        "because of exclude=",
    ),
    "rpm, excluded, with plugin": (
        {"package": "rpm kubeadm", "is_excluded": True, "can_lock_versions": True},
        True,
        True,
        "",
    ),
    "ours": ({"package": "rpm kubeadm-kbuild"}, False, False, ""),
    "ours, held": (
        {"package": "rpm kubeadm-kbuild", "can_lock_versions": True},
        True,
        False,
        "no repository has",
    ),
    "no package": ({}, True, False, "there is nothing to hold"),
}


@pytest.mark.parametrize(("changes", "hold", "holds", "note"), HOLDS.values(), ids=HOLDS)
def test_packages_are_held(changes: dict[str, Any], hold: bool, holds: bool, note: str) -> None:
    plan = planned(hold=hold, **changes)
    assert ("hold" in names(plan)) == holds
    assert note in " ".join(plan.notes)
    assert bool(note) == bool(plan.notes)


def test_another_kubeadm_is_told() -> None:
    (note,) = planned(others=("/usr/local/bin/kubeadm",)).notes
    assert note.startswith("also on the PATH, and left as it is: /usr/local/bin/kubeadm; ")


def test_a_link_is_told() -> None:
    plan = planned(kubeadm="/usr/bin/link")
    assert "/usr/bin/link is a link to /usr/bin/kubeadm" in plan.notes[0]


# --- rollback -------------------------------------------------------------------------------------

BACKUPS = (
    Generation(name="20260101T000000Z-cccccccccccc", sha256=OLDER, version="v1", path=NODE.target),
    Generation(name="20260201T000000Z-aaaaaaaaaaaa", sha256=NEW, version="v2", path=NODE.target),
    Generation(name="20260301T000000Z-bbbbbbbbbbbb", sha256=OLD, version="v3", path=NODE.target),
    Generation(name="20260401T000000Z-dddddddddddd", sha256="d" * 64, version="v4", path="/other"),
)


@pytest.mark.parametrize(
    ("to", "chosen"),
    [("", 1), ("20260101", 0), (NEW[:7], 1), (OLDER, 0), (BACKUPS[1].name, 1)],
)
def test_the_backup_that_is_chosen(to: str, chosen: int) -> None:
    (plan,), refused = plan_rollback([replace(NODE, generations=BACKUPS)], to, AT)
    assert refused == []
    assert names(plan) == ["back-up", "restore"]
    backup = BACKUPS[chosen]
    do = f"roll_back {backup.name} {NODE.target} {backup.sha256} {OLD}"
    assert str(plan.steps[1].do) == do


def test_a_rollback_to_what_is_there_does_nothing_and_never_touches_a_hold() -> None:
    held = replace(NODE, generations=BACKUPS, package="deb kubeadm", is_held=True)
    (plan,), _ = plan_rollback([held], OLD, AT)
    assert names(plan) == []
    (plan,), _ = plan_rollback([held], OLDER, AT)
    assert "hold" not in str(plan)


def test_a_rollback_that_is_asked_for_again_does_nothing() -> None:
    restored = replace(NODE, generations=BACKUPS, is_restored=True)
    (plan,), _ = plan_rollback([restored], "", AT)
    assert names(plan) == []
    assert "name another backup with --to" in plan.notes[0]
    (plan,), _ = plan_rollback([restored], NEW, AT)
    assert names(plan) == ["back-up", "restore"]
    assert plan.notes == ()


@pytest.mark.parametrize("mine", [(), BACKUPS[2:]])
def test_hosts_that_an_installation_did_not_reach_do_not_hinder_a_rollback(
    mine: tuple[Generation, ...],
) -> None:
    idle = replace(NODE, host=Host(name="n2"), generations=mine)
    plans, refused = plan_rollback([idle, replace(NODE, generations=BACKUPS)], "", AT)
    assert refused == []
    assert {plan.host.name: names(plan) for plan in plans} == {
        NODE.host.name: ["back-up", "restore"],
        "n2": [],
    }
    assert "no backup that differs, so kubeadm stays as it is" in plans[-1].notes[0]
    plans, refused = plan_rollback([idle], "", AT)
    assert (plans, refused[0].reason) == ([], "it has no backup that differs")


BEFORE = Generation(name="20260101T000000Z-none", sha256="", version="none", path=NODE.target)


@pytest.mark.parametrize("to", ["", "none", "20260101"])
def test_a_rollback_before_the_first_installation_removes_kubeadm(to: str) -> None:
    ours = replace(NODE, **INSTALLED, generations=(BEFORE,))
    (plan,), refused = plan_rollback([ours], to, AT)
    assert (refused, names(plan)) == ([], ["back-up", "remove"])
    assert str(plan.steps[1].do) == f"remove_ours /usr/bin/kubeadm {NEW}"


def test_a_kubeadm_of_somebody_else_is_never_removed() -> None:
    other = replace(NODE, generations=(BEFORE,))
    assert plan_rollback([other], "", AT)[1][0].reason == "it has no backup that differs"
    plans, (refusal,) = plan_rollback([other], "none", AT)
    assert plans == []
    assert "was not installed by kbuild, so it is not removed" in refusal.reason


@pytest.mark.parametrize("kubeadm", ["", "/usr/bin/kubeadm"])
def test_a_rollback_that_removed_kubeadm_does_nothing_again(kubeadm: str) -> None:
    kept = replace(BACKUPS[1], name="20260301T000000Z-aaaaaaaaaaaa")
    gone: dict[str, Any] = {"kubeadm": kubeadm, "target": kubeadm, "sha256": "", "version": ""}
    none = replace(NODE, **gone, is_restored=True, generations=(BEFORE, kept))
    (plan,), refused = plan_rollback([none], "", AT)
    assert (refused, names(plan)) == ([], [])
    assert "removed its kubeadm already" in plan.notes[-1]
    if kubeadm:
        (plan,), _ = plan_rollback([replace(none, unfinished="run remove begin")], "", AT)
        assert str(plan.steps[0].confirm) == "has_none /usr/bin/kubeadm"
        (plan,), _ = plan_rollback([none], NEW, AT)
        assert names(plan) == ["restore"]


@pytest.mark.parametrize("to", ["20260401", "nonsense"])
def test_a_backup_that_is_not_there(to: str) -> None:
    plans, refused = plan_rollback([replace(NODE, generations=BACKUPS)], to, AT)
    assert plans == []
    assert refused[0].reason == f"it has no backup {to}"
    assert BACKUPS[0].name in refused[0].todo


# --- answers --------------------------------------------------------------------------------------


class Says(LocalNode):
    """A node that prints what it is told to."""

    text = ""

    def call(self, *_: object, **__: object) -> str:
        return self.text


GOOD = (
    f"uid=0\ntime={{}}\nmachine=x86_64\nasked=/k\ntarget=/k\nsha256={OLD}\nfree=9\nstate_free=9\n"
)


def answers(tmp_path: Path, text: str) -> tuple[list[HostFacts], list[str]]:
    node = Says(root=tmp_path)
    node.text = text.format(int(time.time()))
    facts, refused = survey({"n1": node}, 2)  # type: ignore[dict-item]
    return facts, [each.reason for each in refused]


def test_a_hostile_answer_is_an_error_or_harmless(tmp_path: Path) -> None:
    (facts,), _ = answers(tmp_path, GOOD)
    assert (facts.uid, facts.sha256, facts.free) == (0, OLD, 9)
    for text in ("", "uid=x\ntime=1\n", "uid=0\ntime=\u0661\n", f"uid=0\ntime={'9' * 5000}\n"):
        found, (reason,) = answers(tmp_path, text)
        assert found == []
        assert "its answer cannot be understood" in reason
        assert len(reason) < 200


@pytest.mark.parametrize(
    ("record", "issues", "is_ours"),
    [
        (f"{OLD} 100 50 v1.20.2 /k", HUNDRED, True),
        (f"{OLD} 100 50 v1.20.2 /elsewhere", HUNDRED, False),
        (f"{NEW} 100 50 v1.20.2 /k", None, False),  # of another kubeadm
        (f"{OLD} 100 5x v1.20.2 /k", None, False),
        (f"{OLD} 100", None, False),
    ],
)
def test_a_record_counts_for_exactly_the_kubeadm_that_is_there(
    tmp_path: Path, record: str, issues: Issues | None, is_ours: bool
) -> None:
    (facts,), _ = answers(tmp_path, f"{GOOD}issues={record}\n")
    assert (facts.issues, facts.is_ours) == (issues, is_ours)


def test_a_hostile_value_is_no_version_and_no_package(tmp_path: Path) -> None:
    text = GOOD + (
        "version=v1.20.2; rm -rf /\nkubelet=Kubernetes v1.20\nuid=7\npackage=exe evil\n"
        f"generation=../../etc {NEW} v1 relative\ngeneration=x y\ngeneration=g {NEW} v1 /k k\n"
    )
    (facts,), _ = answers(tmp_path, text)
    assert (facts.version, facts.kubelet, facts.uid, facts.package) == ("", "v1.20", 0, "")
    assert [each.path for each in facts.generations] == ["/k k"]
