"""Carry out a plan: lock, then each host's steps, with a journal on the node."""

import gzip
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

from kbuild.base.words import counted
from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed, values_of
from kbuild.nodes.errors import HostsLocked
from kbuild.nodes.model import HostPlan, Outcome, Step, call
from kbuild.nodes.survey import at_once

# A run of another machine that has touched nothing for this long, in seconds, has ended.
_ABANDONED = 900
_AGAIN = "run the same command again: it goes on where this run stopped"


class Watcher(Protocol):
    """Learns what happens on each host."""

    def step(self, host: str, step: Step, number: int, of: int) -> None:
        """Report that a step begins."""

    def sent(self, host: str, done: int, total: int) -> None:
        """Report how many bytes have arrived."""

    def ended(self, outcome: Outcome) -> None:
        """Report what became of a host."""

    def note(self, text: str) -> None:
        """Record one line for the log of this run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: its name, how many hosts at a time, and how many may fail before it stops.

    ``take_over`` removes the lock of another run, whoever has it.
    """

    name: str
    parallel: int
    max_fail: int
    take_over: bool = False


@dataclass(slots=True, kw_only=True)
class _Progress:
    run: Run
    watcher: Watcher
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def is_stopped(self) -> bool:
        failed = sum(each.state in ("failed", "undone") for each in self.outcomes.values())
        return failed > self.run.max_fail


def carry_out(
    plans: Sequence[HostPlan], connections: Mapping[str, Connection], run: Run, watcher: Watcher
) -> tuple[Outcome, ...]:
    """Carry out plans, the first host alone, then several at a time; return what became of each.

    Raises HostsLocked before anything is changed.
    """
    progress = _Progress(run=run, watcher=watcher)
    busy = [plan for plan in plans if plan.steps]
    for plan in plans:
        if not plan.steps:
            progress.outcomes[plan.host.name] = Outcome(host=plan.host.name, state="unchanged")
    with_lock = [connections[plan.host.name] for plan in busy]
    try:
        at_once(with_lock, lambda connection: _lock(connection, run, watcher), run.parallel)
        for batch in (busy[:1], busy[1:]):
            at_once(batch, lambda plan: _host(plan, connections, progress), run.parallel)
    finally:
        at_once(with_lock, lambda connection: _unlock(connection, run), run.parallel)
    return tuple(progress.outcomes[plan.host.name] for plan in plans)


def _host(plan: HostPlan, connections: Mapping[str, Connection], progress: _Progress) -> None:
    name = plan.host.name
    if progress.is_stopped:
        outcome = Outcome(host=name, state="not-started", todo=_AGAIN)
    else:
        outcome = _steps(plan, connections[name], progress)
    progress.outcomes[name] = outcome
    progress.watcher.ended(outcome)


def _steps(plan: HostPlan, connection: Connection, progress: _Progress) -> Outcome:
    name, run, watcher = plan.host.name, progress.run, progress.watcher
    for number, step in enumerate(plan.steps, 1):
        watcher.step(name, step, number, len(plan.steps))
        watcher.note(f"{name} {step.name}: {step.do}")
        try:
            _do(step, connection, run, watcher)
        except ConnectionFailed as error:
            reason = f"the connection was lost: {error}"
            return Outcome(host=name, state="failed", step=step.name, reason=reason, todo=_AGAIN)
        except CallFailed as error:
            watcher.note(f"{name} {step.name}: failed: {error}")
            return _undo(plan.steps[:number], connection, str(error), watcher)
    return Outcome(host=name, state="changed")


def _do(step: Step, connection: Connection, run: Run, watcher: Watcher) -> None:
    if _is_done(step, connection):
        return
    if step.upload:
        content = _content(step.upload.file, is_compressed=step.upload.is_compressed)
        name = connection.host.name
        connection.send(content, step.upload.to, lambda done, of: watcher.sent(name, done, of))
    connection.call(call("apply", run.name, step.name, str(step.do), str(step.confirm)))


def _is_done(step: Step, connection: Connection) -> bool:
    try:
        connection.call(step.check)
    except CallFailed:
        return False
    return True


def _undo(steps: Sequence[Step], connection: Connection, reason: str, watcher: Watcher) -> Outcome:
    """Take back the steps of a host whose last one failed, the last first."""
    name, failed = connection.host.name, steps[-1].name
    for step in reversed(steps):
        if step.undo is None:
            continue
        watcher.note(f"{name} {step.name}: {step.undo}")
        try:
            connection.call(step.undo)
        except (CallFailed, ConnectionFailed) as error:
            why = f"{reason}; and it could not be taken back: {step.name}: {error}"
            return Outcome(host=name, state="failed", step=failed, reason=why, todo=_AGAIN)
    return Outcome(host=name, state="undone", step=failed, reason=reason, todo=_AGAIN)


@cache
def _content(file: Path, *, is_compressed: bool) -> bytes:
    content = file.read_bytes()
    # The same bytes in each run, so that a later run can go on with an upload.
    return gzip.compress(content, compresslevel=4, mtime=0) if is_compressed else content


def _lock(connection: Connection, run: Run, watcher: Watcher) -> None:
    take = call("take_lock", run.name, _owner())
    try:
        connection.call(take)
    except CallFailed as error:
        values = values_of(error.output)
        other = next(iter(values.get("run", ())), "")
        owner = next(iter(values.get("owner", ())), "") or "of which nothing is known"
        age = int(next(iter(values.get("age", ())), 0))
        is_running = "step" in values
        if not other and not values:
            raise
        host = connection.host.name
        if is_running or not (run.take_over or _has_ended(owner, age)):
            since = f"{owner}, last active {counted(age, 'second')} ago"
            raise HostsLocked(host=host, owner=since) from error
        watcher.note(f"{host}: the lock of {other} ({owner}) is removed: that run has ended")
        connection.call(call("break_lock", other))
        connection.call(take)


def _unlock(connection: Connection, run: Run) -> None:
    try:
        connection.call(call("release_lock", run.name))
    except (CallFailed, ConnectionFailed):
        return  # the next run sees that this one has ended


def _owner() -> str:
    """Describe this process: `USER@MACHINE PID START`, where START is the time that it began."""
    user = os.environ.get("SUDO_USER") or os.environ.get("USER") or str(os.getuid())
    return f"{user}@{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def _has_ended(owner: str, age: int) -> bool:
    """Tell whether the run that has a lock can no longer be going on."""
    match owner.split():
        case [who, pid, began] if who.endswith(f"@{socket.gethostname()}") and pid.isdigit():
            return _started(int(pid)) != began
        case _:
            return age > _ABANDONED


def _started(pid: int) -> str:
    """Return when a process of this machine began, in ticks since the boot, or an empty text."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "none"
    return stat.rpartition(")")[2].split()[19]


def run_name() -> str:
    """Return the name of a new run, which begins with its time in UTC."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{now}-{os.getpid()}"
