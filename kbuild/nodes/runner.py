"""Carry out a plan: lock, then each host's steps, with a journal on the node."""

import gzip
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Protocol, TypeVar

from kbuild.base.files import reason_of
from kbuild.base.values import compact
from kbuild.nodes.connection import (
    CallFailed,
    Connection,
    ConnectionFailed,
    TimedOut,
    values_of,
)
from kbuild.nodes.errors import HostsLocked
from kbuild.nodes.locks import raise_locked, release_lock, take_lock
from kbuild.nodes.model import Call, HostPlan, Outcome, Proof, Step, call
from kbuild.nodes.survey import at_once

_REPAIR = "remove the cause, then run the same command again"
_AGAIN = "run the same command again: it goes on where this run stopped"


T = TypeVar("T")


class Watcher(Protocol):
    """Learns what happens on each host."""

    def step(self, host: str, step: Step, number: int, of: int) -> None:
        """Report that a step begins."""

    def sent(self, host: str, done: int, total: int) -> None:
        """Report how many bytes have arrived."""

    def ended(self, outcome: Outcome) -> None:
        """Report what became of a host."""

    def tell(self, text: str) -> None:
        """Show one line, and record it."""

    def note(self, text: str) -> None:
        """Record one line for the log of this run."""


# Looks for a proof on a host; raises CallFailed, or ConnectionFailed.
Prove = Callable[[Connection, Proof], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: its name, how many hosts at a time, and how many may fail before it stops.

    ``take_over`` removes the lock of another run, whoever has it. ``locks_all`` locks also hosts
    where nothing is to be done: the locks of all control planes are the lock of a cluster.
    """

    name: str
    parallel: int
    max_fail: int
    take_over: bool = False
    locks_all: bool = False


class _Interrupted(Exception):
    """The user wants this run to stop."""


@dataclass(slots=True, kw_only=True)
class _Progress:
    run: Run
    watcher: Watcher
    prove: Prove
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    last: Mapping[str, HostPlan] = field(default_factory=dict)  # of the plans of each host
    is_interrupted: bool = False

    @property
    def is_stopped(self) -> bool:
        failed = sum(each.state in ("failed", "undone") for each in list(self.outcomes.values()))
        return self.is_interrupted or failed > self.run.max_fail

    def interrupt(self) -> None:
        self.is_interrupted = True

    def end(self, outcome: Outcome, plan: HostPlan | None = None) -> None:
        self.outcomes[outcome.host] = outcome
        if outcome.state != "changed" or self.last[outcome.host] is plan:
            self.watcher.ended(outcome)

    def lock(self, connection: Connection) -> None:
        take_lock(
            connection, self.run.name, self.watcher.tell, self.go_on, by_force=self.run.take_over
        )

    def go_on(self) -> None:
        if self.is_interrupted:
            raise _Interrupted


def _no_proofs(_connection: Connection, proof: Proof) -> None:
    raise AssertionError(proof)


def carry_out(
    plans: Sequence[HostPlan],
    connections: Mapping[str, Connection],
    run: Run,
    watcher: Watcher,
    prove: Prove = _no_proofs,
) -> tuple[Outcome, ...]:
    """Carry out plans in their order, and return what became of each host.

    The first plan is carried out alone, and so is each that is not independent. The others that
    follow each other are carried out several at a time. A host may have several plans, of which
    only the last may be independent.
    Raises HostsLocked before anything is changed. An interrupted run ends the steps that go on,
    and gives the locks back.
    """
    progress = _Progress(run=run, watcher=watcher, prove=prove)
    busy = [plan for plan in plans if plan.steps]
    progress.last = {plan.host.name: plan for plan in busy}
    names = tuple(dict.fromkeys(plan.host.name for plan in plans))
    for name in names:
        if name not in progress.last:
            progress.outcomes[name] = Outcome(host=name, state="unchanged")
    locked = names if run.locks_all and busy else progress.last
    with_lock = [connections[name] for name in locked]
    try:
        lock_hosts(with_lock, progress)
        for batch in _batches(busy):
            _at_once(batch, lambda plan: _host(plan, connections, progress), progress)
    finally:
        at_once(
            with_lock, lambda each: release_lock(each, run.name), run.parallel, progress.interrupt
        )
    return tuple(progress.outcomes[name] for name in names)


def _batches(plans: Sequence[HostPlan]) -> Iterator[list[HostPlan]]:
    """Yield plans that may be carried out at the same time."""
    yield from ([plan] for plan in plans[:1])
    for is_independent, batch in groupby(plans[1:], lambda plan: plan.is_independent):
        together = list(batch)
        yield from [together] if is_independent else ([plan] for plan in together)


def _at_once(items: Sequence[T], do: Callable[[T], None], progress: _Progress) -> None:
    at_once(items, do, progress.run.parallel, progress.interrupt)


def _host(plan: HostPlan, connections: Mapping[str, Connection], progress: _Progress) -> None:
    name = plan.host.name
    before = progress.outcomes.get(name)
    if before is not None and before.state != "changed":  # it could not be locked, or has failed
        return
    if not progress.is_stopped:
        progress.end(_steps(plan, connections[name], progress), plan)
    elif before is None:
        progress.end(Outcome(host=name, state="not-started", todo=_AGAIN), plan)
    else:
        reason, step = "the run stopped before this step", plan.steps[0].name
        outcome = Outcome(host=name, state="failed", step=step, reason=reason, todo=_AGAIN)
        progress.end(outcome, plan)


def _steps(plan: HostPlan, connection: Connection, progress: _Progress) -> Outcome:
    name, watcher = plan.host.name, progress.watcher
    for number, step in enumerate(plan.steps, 1):

        def stopped(reason: str, at: str = step.name) -> Outcome:
            return Outcome(host=name, state="failed", step=at, reason=reason, todo=_AGAIN)

        try:
            progress.go_on()
            watcher.step(name, step, number, len(plan.steps))
            watcher.note(f"{name} {step.name}: {step.do}")
            _do(step, connection, progress)
        except _Interrupted:
            return stopped("it was interrupted")
        except TimedOut as error:
            return stopped(f"{error}; it may still be going on there")
        except ConnectionFailed as error:
            return stopped(f"the connection was lost: {error}")
        except CallFailed as error:
            watcher.note(f"{name} {step.name}: failed: {error}")
            if step.is_fatal:
                return stopped(str(error))
            return _undo(plan.steps[:number], connection, str(error), progress)
    return Outcome(host=name, state="changed")


def _do(step: Step, connection: Connection, progress: _Progress) -> None:
    if step.upload and not _is_done(step, connection):
        content = _content(step.upload.file, step.upload.sha256, zip_it=step.upload.is_compressed)

        def told(done: int, of: int) -> None:
            progress.go_on()
            progress.watcher.sent(connection.host.name, done, of)

        connection.send(content, step.upload.to, told)
    words = (str(step.check), str(step.do), str(step.confirm))
    apply = call("apply", progress.run.name, step.name, *words, library=step.do.library)
    _with_lock(connection, replace(apply, secret=step.do.secret), progress)
    _prove(step.proofs, connection, progress)


def _prove(proofs: Sequence[Proof], connection: Connection, progress: _Progress) -> None:
    for proof in proofs:
        progress.watcher.note(f"{connection.host.name}: looking for: {proof}")
        progress.prove(connection, proof)


def _with_lock(connection: Connection, function: Call, progress: _Progress) -> None:
    """Call a function that needs the lock, which a restart of the host takes away."""
    try:
        connection.call(function)
    except CallFailed as error:
        if values_of(error.output).get("lock") != ["none"]:
            raise
        progress.watcher.tell(f"{connection.host.name}: the lock was gone, and is taken again")
        progress.lock(connection)
        connection.call(function)


def _is_done(step: Step, connection: Connection) -> bool:
    try:
        connection.call(step.check)
    except CallFailed:
        return False
    return True


def _undo(
    steps: Sequence[Step], connection: Connection, reason: str, progress: _Progress
) -> Outcome:
    """Take back the steps of a host whose last one failed, the last first."""
    name, failed = connection.host.name, steps[-1].name
    kept: dict[str, str] = {}
    for step in reversed(steps):
        if step.undo is None:
            continue
        progress.watcher.note(f"{name} {step.name}: {step.undo}")
        try:
            words, library = (progress.run.name, step.name, str(step.undo)), step.undo.library
            _with_lock(connection, call("take_back", *words, library=library), progress)
            _prove(step.regained, connection, progress)
        except (CallFailed, ConnectionFailed, HostsLocked) as error:
            kept[step.name] = f"the step {step.name} could not be undone: {error}"
    if kept:
        why = "; ".join((reason, *kept.values()))
        return Outcome(
            host=name, state="failed", step=failed, reason=why, todo=_REPAIR, kept=tuple(kept)
        )
    return Outcome(host=name, state="undone", step=failed, reason=reason, todo=_REPAIR)


@cache
def _content(file: Path, sha256: str, *, zip_it: bool) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        message = f"{file} cannot be read: {reason_of(error)}; nothing was sent"
        raise CallFailed(message, "") from error
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        message = f"{file} has changed since the release was checked; nothing was sent"
        raise CallFailed(message, "")
    # The same bytes in each run, so that a later run can go on with an upload.
    return gzip.compress(content, compresslevel=4, mtime=0) if zip_it else content


def lock_hosts(connections: Sequence[Connection], progress: _Progress) -> None:
    """Lock all hosts; raises HostsLocked, which names all that others have locked.

    A host that cannot be locked for another reason has failed.
    """
    locked: list[HostsLocked] = []

    def lock(connection: Connection) -> None:
        try:
            progress.go_on()
            progress.lock(connection)
        except HostsLocked as error:
            locked.append(error)
        except (CallFailed, ConnectionFailed) as error:
            name = connection.host.name
            outcome = Outcome(
                host=name, state="undone", step="lock", reason=str(error), todo=_REPAIR
            )
            progress.end(outcome)

    _at_once(connections, lock, progress)
    raise_locked(locked)


def run_name() -> str:
    """Return the name of a new run, which begins with its time in UTC."""
    return f"{compact(datetime.now(UTC))}-{secrets.token_hex(4)}"
