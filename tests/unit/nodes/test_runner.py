"""Carrying out plans on nodes without ssh: locks, failures, and what is true afterwards."""

import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kbuild.nodes import locks
from kbuild.nodes.connection import CallFailed, ConnectionFailed, TimedOut
from kbuild.nodes.errors import HostsLocked
from kbuild.nodes.install import Kubeadm, Wishes, plan_install
from kbuild.nodes.model import Call, HostPlan, Issues, Outcome, Step, call
from kbuild.nodes.rollback import plan_rollback
from kbuild.nodes.runner import Run, carry_out
from kbuild.nodes.survey import at_once, survey
from tests.support.local_node import KUBEADM, LocalNode

pytestmark = pytest.mark.slow  # it runs shells

NEW = "#!/bin/sh\necho v1.20.2\n# new\n"


class Watcher:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self, host: str, step: Step, number: int, of: int) -> None:
        self.said.append(f"{host}: {number} of {of}: {step.name}")

    def sent(self, host: str, done: int, total: int) -> None:
        self.said.append(f"{host}: {done} of {total}")

    def ended(self, outcome: Outcome) -> None:
        self.said.append(f"{outcome.host}: {outcome.state}")

    def tell(self, text: str) -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        pass


class Fleet:
    """Local nodes with a kubeadm, and a release for them."""

    def __init__(self, root: Path, count: int) -> None:
        self.file = root / "release"
        self.nodes = [LocalNode(root=root / f"n{i}", name=f"n{i}") for i in range(1, count + 1)]
        for node in self.nodes:
            node.put_kubeadm()
        self.connections: Any = {node.name: node for node in self.nodes}
        self.watcher = Watcher()

    def plans(self, text: str = NEW) -> list[HostPlan]:
        self.file.write_text(text)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        kubeadm = Kubeadm(
            file=self.file,
            sha256=sha256,
            size=len(text),
            version="v1.20.2",
            issues=Issues(ca_years=100, leaf_years=50),
        )
        plans = []
        for node in self.nodes:
            facts, refused = survey({node.name: node}, 1, str(node.kubeadm))  # type: ignore[dict-item]
            assert refused == []
            machine = Wishes(kubeadms={"amd64": kubeadm, "arm64": kubeadm}, at="20261126T120000Z")
            made, refused = plan_install(facts, machine)
            assert refused == []
            plans += made
        return plans

    def install(self, plans: list[HostPlan] | None = None, **options: Any) -> list[str]:
        settings = {"name": f"20261126T12{time.monotonic_ns()}", "parallel": 2, "max_fail": 0}
        run = Run(**{**settings, **options})
        outcomes = carry_out(plans or self.plans(), self.connections, run, self.watcher)
        self.outcomes = outcomes
        return [each.state for each in outcomes]


@pytest.fixture
def one(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, 1)


def failing(
    name: str, error: Exception, after: Callable[[], object] = bool
) -> Callable[[Call], None]:
    def before(function: Call) -> None:
        if name in str(function):
            after()
            raise error

    return before


def test_an_installation(one: Fleet) -> None:
    (node,) = one.nodes
    assert one.install() == ["changed"]
    assert node.kubeadm.read_text() == NEW
    assert not node.lock.exists()
    assert [path.name for path in (node.root / "bin").iterdir()] == ["kubeadm"]
    assert one.install() == ["unchanged"]


def test_what_the_environment_says_to_programs_changes_nothing(
    one: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"POSIXLY_CORRECT": "1", "QUOTING_STYLE": "shell-always"}.items():
        monkeypatch.setenv(name, value)
    assert one.install() == ["changed"]
    (node,) = one.nodes
    (node.state / "runs/3 cut off").write_text("copy begin\n")
    (facts,), _ = survey({"n1": node}, 1)  # type: ignore[dict-item]
    assert facts.unfinished == "3 cut off copy begin"


def test_a_rollback_of_the_first_installation_leaves_no_kubeadm(one: Fleet) -> None:
    (node,) = one.nodes
    node.kubeadm.unlink()
    assert one.install() == ["changed"]

    def rolled_back(to: str = "") -> list[str]:
        facts, _ = survey({"n1": node}, 1, str(node.kubeadm))  # type: ignore[dict-item]
        plans, refused = plan_rollback(facts, to, f"2026112{time.monotonic_ns()}")
        assert refused == []
        return one.install(plans)

    assert rolled_back() == ["changed"]
    assert list((node.root / "bin").iterdir()) == []
    assert rolled_back() == ["unchanged"]
    assert rolled_back(hashlib.sha256(NEW.encode()).hexdigest()) == ["changed"]
    assert node.kubeadm.read_text() == NEW
    assert rolled_back("none") == ["changed"]
    assert not node.kubeadm.exists()


def test_a_rollback_stays_one_after_an_installation_that_was_undone(one: Fleet) -> None:
    (node,) = one.nodes

    def rolled_back() -> list[str]:
        facts, _ = survey({"n1": node}, 1, str(node.kubeadm))  # type: ignore[dict-item]
        return one.install(plan_rollback(facts, "", f"2026112{time.monotonic_ns()}")[0])

    assert [*one.install(), *rolled_back()] == ["changed", "changed"]
    node.stub("mv", 'case "$*" in *"/bin/kubeadm") exit 1;; esac; exec /bin/mv "$@"')
    assert one.install() == ["undone"]
    node.stub("mv", 'exec /bin/mv "$@"')
    assert rolled_back() == ["unchanged"]
    assert node.kubeadm.read_text() == KUBEADM
    # An installation of what a rollback brought back is none.
    one.install()
    assert one.install(one.plans(KUBEADM)) == ["changed"]
    assert rolled_back() == ["changed"]
    assert node.kubeadm.read_text() == NEW


def test_a_kubeadm_that_was_changed_since_the_plan_is_not_removed(one: Fleet) -> None:
    (node,) = one.nodes
    node.kubeadm.unlink()
    one.install()
    facts, _ = survey({"n1": node}, 1, str(node.kubeadm))  # type: ignore[dict-item]
    plans, _ = plan_rollback(facts, "", "20261127T120000Z")
    node.put_kubeadm("#!/bin/sh\n# of somebody else\n")
    assert one.install(plans) == ["undone"]
    assert "of somebody else" in node.kubeadm.read_text()


def test_a_failed_step_is_undone_with_those_before(one: Fleet) -> None:
    (node,) = one.nodes
    node.stub(
        "mv", 'case $* in *bin/kubeadm*) echo "mv: no space" >&2; exit 1;; esac; exec /bin/mv "$@"'
    )
    assert one.install() == ["undone"]
    (outcome,) = one.outcomes
    assert (outcome.step, outcome.reason) == (
        "replace",
        f"{node.kubeadm} cannot be replaced: mv: no space",
    )
    assert node.kubeadm.read_text() == KUBEADM
    assert [path.name for path in (node.root / "bin").iterdir()] == ["kubeadm"]
    assert not node.lock.exists()


def test_a_replacement_that_does_not_run_is_taken_back(one: Fleet) -> None:
    (node,) = one.nodes
    plans = one.plans()
    node.stub("mv", f'/bin/mv "$@"; case $* in *bin/kubeadm) chmod 644 {node.kubeadm};; esac')
    assert one.install(plans) == ["undone"]
    assert "cannot be executed" in one.outcomes[0].reason
    assert node.kubeadm.read_text() == KUBEADM


@pytest.mark.slow
def test_a_lost_connection_leaves_the_host_for_the_next_run(one: Fleet) -> None:
    (node,) = one.nodes
    for name in ("uploaded", "back_up", "swap"):
        node.before = failing(name, ConnectionFailed("cut"))
        assert one.install() == ["failed"]
        assert "the connection was lost: cut" in one.outcomes[0].reason
        assert node.kubeadm.read_text() == KUBEADM
    node.before = failing("swap", TimedOut("it did not end within 300 seconds"))
    assert one.install() == ["failed"]
    assert "it may still be going on there" in one.outcomes[0].reason
    assert "take_back" not in node.called
    node.before = lambda _: None
    assert one.install() == ["changed"]


def test_an_undo_that_fails_is_told_and_the_others_are_done(one: Fleet) -> None:
    (node,) = one.nodes
    plans = one.plans()

    def before(function: Call) -> None:
        if function.function == "apply" and "replace" in function.arguments:
            node.kubeadm.write_text("of somebody else")

    node.before = before
    assert one.install(plans) == ["failed"]
    assert "the step replace could not be undone: somebody has changed" in one.outcomes[0].reason
    assert one.outcomes[0].kept == ("replace",)
    assert [path.name for path in (node.root / "bin").iterdir()] == ["kubeadm"]


def test_a_restart_of_the_host_takes_the_lock_and_the_run_goes_on(one: Fleet) -> None:
    (node,) = one.nodes
    restarted: list[bool] = []

    def before(function: Call) -> None:
        if "swap" in str(function) and not restarted:
            restarted.append(True)
            for path in node.lock.iterdir():
                path.unlink()
            node.lock.rmdir()

    node.before = before
    assert one.install() == ["changed"]
    assert "n1: the lock was gone, and is taken again" in one.watcher.said


def test_a_release_that_changed_is_not_sent(one: Fleet) -> None:
    plans = one.plans()
    one.file.write_text(NEW + "changed")
    assert one.install(plans) == ["undone"]
    assert "has changed since the release was checked; nothing was sent" in one.outcomes[0].reason
    one.file.unlink()
    assert one.install(plans) == ["undone"]
    assert "cannot be read" in one.outcomes[0].reason


@pytest.mark.slow
def test_the_first_host_that_fails_stops_the_run(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 3)
    fleet.nodes[0].before = failing("unpack", CallFailed("broken", ""))
    plans = fleet.plans()
    assert fleet.install(plans) == ["undone", "not-started", "not-started"]
    assert fleet.install(plans, max_fail=1) == ["undone", "changed", "changed"]


@pytest.mark.slow
def test_locks_that_were_taken_are_given_back_if_one_is_refused(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 3)
    plans = fleet.plans()
    others = "somebody@elsewhere 1 2 boot"
    fleet.nodes[1].call(call("take_lock", "other", others))
    with pytest.raises(HostsLocked) as caught:
        fleet.install(plans)
    assert others in caught.value.happened
    assert [node.lock.exists() for node in fleet.nodes] == [False, True, False]
    assert all(node.kubeadm.read_text() == KUBEADM for node in fleet.nodes)
    assert fleet.install(plans, take_over=True) == ["changed"] * 3


def test_a_host_that_cannot_be_locked_has_failed(one: Fleet) -> None:
    one.nodes[0].before = failing("take_lock", CallFailed("no space", ""))
    assert one.install() == ["undone"]
    assert (one.outcomes[0].step, one.outcomes[0].reason) == ("lock", "no space")


@pytest.mark.slow
def test_locks_of_dead_and_living_runs_of_this_machine(one: Fleet) -> None:
    (node,) = one.nodes
    plans = one.plans()
    node.call(call("take_lock", "living", locks.this_process()))
    with pytest.raises(HostsLocked):
        one.install(plans)
    assert (node.lock / "run").read_text() == "living\n"
    # The same process ID, but another process: it began at another time.
    who, pid, _, boot = locks.this_process().split()
    (node.lock / "owner").write_text(f"{who} {pid} 1 {boot}\n")
    assert one.install(plans) == ["changed"]
    assert any("is removed: it has ended" in text for text in one.watcher.said)
    # The same name and process ID, but another boot, which may be another machine's.
    node.put_kubeadm()
    node.call(call("take_lock", "elsewhere", f"{who} {pid} 1 other/1"))
    with pytest.raises(HostsLocked):
        one.install(one.plans())
    os.utime(node.lock, (0, 0))
    assert one.install(one.plans()) == ["changed"]


@pytest.mark.slow
def test_hosts_are_looked_at_only_when_no_other_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, 2)
    first, second = fleet.nodes

    def look(*, by_force: bool = False) -> None:
        everyone = fleet.connections.values()
        locks.demand_idle(everyone, 2, fleet.watcher.tell, by_force=by_force)

    look()
    second.call(call("take_lock", "other", "somebody@elsewhere 1 2 boot"))
    with pytest.raises(HostsLocked) as caught:
        look()
    assert (caught.value.host, "somebody@elsewhere" in caught.value.owner) == ("n2", True)
    look(by_force=True)
    # The run has ended, but a step of it goes on; it ends while we wait.
    step = subprocess.Popen(["/bin/sh", "-c", "sleep 60", "kbuild_step"])
    (second.lock / "pid").write_text(f"{step.pid}\n")
    look_again = time.sleep

    def end_the_step(seconds: float) -> None:
        if seconds >= 1:  # it is not of subprocess
            step.kill()
            step.wait()
        look_again(0.001)

    monkeypatch.setattr(time, "sleep", end_the_step)
    look(by_force=True)
    assert step.returncode == -signal.SIGKILL
    assert any("waiting for a step of the run other" in text for text in fleet.watcher.said)
    assert (second.lock / "run").read_text() == "other\n"
    assert not first.lock.exists()
    # Whoever asks next says why it cannot be asked.
    first.before = failing("who_has", ConnectionFailed("gone"))
    look(by_force=True)


@pytest.mark.slow
def test_ctrl_c_waits_for_what_goes_on_and_gives_the_lock_back(one: Fleet) -> None:
    (node,) = one.nodes
    plans = one.plans()

    def before(function: Call) -> None:
        if "back_up" in str(function) and function.function == "apply":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # the main thread is interrupted meanwhile

    node.before = before
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            one.install(plans)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "n1: failed" in one.watcher.said
    assert node.called[-1] == "release_lock"
    assert "swap" not in " ".join(node.called)
    assert node.kubeadm.read_text() == KUBEADM
    assert not node.lock.exists()
    assert list((node.state / "kubeadm").iterdir())  # the step that went on has ended
    node.before = lambda _: None
    assert one.install() == ["changed"]


def test_so_many_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def do(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    at_once(range(20), do, 4)
    assert most == 4
    with pytest.raises(ZeroDivisionError):
        at_once([1, 0, 2], lambda each: print(1 // each), 2)  # noqa: T201


NOTHING = call("nothing")


def phase(fleet: Fleet, number: int, name: str, do: Call = NOTHING) -> HostPlan:
    step = Step(name=name, what="", why="", check=call("false"), do=do, confirm=NOTHING)
    host = fleet.nodes[number].host
    return HostPlan(host=host, steps=(replace(step, is_fatal=True),))


def test_a_host_may_have_several_plans_with_others_between_them(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 2)
    plans = [phase(fleet, n, name) for name in ("files", "etcd") for n in (0, 1)]
    assert fleet.install(plans) == ["changed", "changed"]
    assert fleet.watcher.said == [
        *("n1: 1 of 1: files", "n2: 1 of 1: files"),
        *("n1: 1 of 1: etcd", "n1: changed", "n2: 1 of 1: etcd", "n2: changed"),
    ]


def test_only_independent_plans_are_carried_out_at_the_same_time(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 7)
    alone, begun = tmp_path / "alone", tmp_path / "begun"
    begun.mkdir()
    by_itself = f'mkdir "{alone}" && sleep 0.2 && rmdir "{alone}" && [ -z "$(ls "{begun}")" ]'
    with_two_others = f"""
        touch "{begun}/$$"
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
          [ "$(ls "{begun}" | wc -l)" -lt 3 ] || exit 0
          sleep 0.5
        done
        exit 1
    """
    plans = [phase(fleet, n, "plane", call("eval", by_itself)) for n in (0, 1, 2, 1)]
    workers = [phase(fleet, n, "worker", call("eval", with_two_others)) for n in (3, 4, 5)]
    plans += [replace(plan, is_independent=True) for plan in workers]
    plans += [phase(fleet, 6, "plane", call("eval", f'[ "$(ls "{begun}" | wc -l)" -eq 3 ]'))]
    assert fleet.install(plans, parallel=3) == ["changed"] * 7


def test_a_failed_plan_stops_all_later_plans_and_tells_where_each_host_stopped(
    tmp_path: Path,
) -> None:
    fleet = Fleet(tmp_path, 3)
    plans = [phase(fleet, n, "files", call("false") if n == 1 else NOTHING) for n in (0, 1, 2)]
    plans += [phase(fleet, n, "etcd") for n in (0, 1, 2)]
    assert fleet.install(plans) == ["failed", "failed", "not-started"]
    assert [each.step for each in fleet.outcomes] == ["etcd", "files", ""]
    assert fleet.outcomes[0].reason == "the run stopped before this step"
    assert not any("etcd" in line for line in fleet.watcher.said)
    assert not any(node.lock.exists() for node in fleet.nodes)


def test_a_secret_reaches_its_step_and_no_log(one: Fleet, tmp_path: Path) -> None:
    (node,) = one.nodes
    got, there = tmp_path / "got", call("has_sha", str(tmp_path / "got"), sha_of(b"s3cret"))
    do = replace(call("eval", f'printf %s "$secret" >"{got}"'), secret="s3cret")
    step = Step(name="give", what="give", why="it is secret", check=there, do=do, confirm=there)
    notes: list[str] = []
    one.watcher.note = notes.append  # type: ignore[assignment,method-assign]
    plan = HostPlan(host=node.host, steps=(step,))
    assert one.install([plan]) == ["changed"]
    assert got.read_bytes() == b"s3cret"
    assert notes
    assert "s3cret" not in f"{notes} {one.watcher.said} {one.outcomes}"
    kept = [file for file in node.root.rglob("*") if file.is_file()]
    assert kept
    assert not [file for file in kept if b"s3cret" in file.read_bytes()]


def sha_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
