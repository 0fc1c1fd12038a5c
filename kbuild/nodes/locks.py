"""The lock of a host: one run at a time, and a run that has ended is no obstacle."""

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kbuild.base.words import counted
from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed, first_of, values_of
from kbuild.nodes.errors import HostsLocked
from kbuild.nodes.model import call
from kbuild.nodes.survey import at_once

# A run of another machine that has touched nothing for this long, in seconds, has ended.
ABANDONED = 900
_LOCKING = 60  # seconds that a function for locks may take
_WAIT = 60  # seconds to wait for a step of a run that has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class _Other:
    """The run that has a lock; ``age`` is in seconds since it did something."""

    run: str
    owner: str
    age: int
    is_in_step: bool


def take_lock(
    connection: Connection,
    run: str,
    note: Callable[[str], None],
    go_on: Callable[[], None],
    *,
    by_force: bool,
) -> None:
    """Take the lock of a host, also from a run that has ended; raises HostsLocked.

    ``by_force`` takes it from any run, but never while a step of it goes on there; such a step of a
    run that has ended is awaited. ``go_on`` raises if the user does not want to wait any more.
    """
    other = _idle(connection, lambda: _taken_by(connection, run), note, go_on, by_force=by_force)
    if other is not None:
        host = connection.host.name
        note(f"{host}: the lock of the run {other.run} ({other.owner}) is removed: it has ended")
        connection.call(call("take_over", run, this_process(), other.run), timeout=_LOCKING)


def demand_idle(
    connections: Iterable[Connection],
    parallel: int,
    note: Callable[[str], None],
    *,
    by_force: bool,
) -> None:
    """See that no other run goes on, and wait for steps of runs that have ended.

    Raises HostsLocked. Whoever asks hosts before that may find a component that just restarts. A
    host that cannot be asked is left to those who ask it next.
    """
    locked: list[HostsLocked] = []

    def look(connection: Connection) -> None:
        try:
            _idle(connection, lambda: _other_at(connection), note, lambda: None, by_force=by_force)
        except HostsLocked as error:
            locked.append(error)
        except (CallFailed, ConnectionFailed):
            return

    at_once(connections, look, parallel)
    raise_locked(locked)


def raise_locked(locked: Sequence[HostsLocked]) -> None:
    """Raise one error that names all hosts that others have locked, if there are any."""
    if locked:
        first, *others = sorted(locked, key=lambda error: error.host)
        more = "\n".join(each.happened for each in others)
        raise HostsLocked(host=first.host, owner=first.owner, details=more)


def _idle(
    connection: Connection,
    ask: Callable[[], _Other | None],
    note: Callable[[str], None],
    go_on: Callable[[], None],
    *,
    by_force: bool,
) -> _Other | None:
    """Return the run that has ended but still has a lock, once no step of it goes on."""
    host = connection.host.name
    for second in range(_WAIT):
        other = ask()
        if other is None:
            return None
        if not (by_force or _has_ended(other)):
            since = f"{other.owner}, last active {counted(other.age, 'second')} ago"
            raise HostsLocked(host=host, owner=since)
        if not other.is_in_step:
            return other
        if second == 0:
            note(f"{host}: waiting for a step of the run {other.run}, which has ended")
        go_on()
        time.sleep(1)
    raise HostsLocked(host=host, owner="a step of a run that has ended still goes on there")


def release_lock(connection: Connection, run: str) -> None:
    """Give a lock back, if this run has it and the host can be reached."""
    try:
        connection.call(call("release_lock", run), timeout=_LOCKING)
    except (CallFailed, ConnectionFailed):
        return  # the next run sees that this one has ended


def _taken_by(connection: Connection, run: str) -> _Other | None:
    """Take the lock, or return who has it."""
    try:
        connection.call(call("take_lock", run, this_process()), timeout=_LOCKING)
    except CallFailed as error:
        other = _other_of(error.output)
        if other is None:
            raise
        return other
    return None


def _other_at(connection: Connection) -> _Other | None:
    return _other_of(connection.call(call("who_has_the_lock"), timeout=_LOCKING))


def _other_of(output: str) -> _Other | None:
    values = values_of(output)
    if "age" not in values:
        return None
    age = first_of(values, "age")
    return _Other(
        run=first_of(values, "run"),
        owner=first_of(values, "owner") or "a run of which nothing is known",
        age=int(age) if age.isdecimal() else 0,
        is_in_step="step" in values,
    )


def this_process() -> str:
    """Describe this process: `USER@MACHINE PID START BOOT`, where START is the time it began."""
    user = os.environ.get("SUDO_USER") or os.environ.get("USER") or str(os.getuid())
    words = (f"{user}@{socket.gethostname()}", str(os.getpid()), _started(os.getpid()), _boot())
    return " ".join("".join(c if c.isprintable() else "?" for c in word) for word in words)


def _has_ended(other: _Other) -> bool:
    """Tell whether the run that has a lock can no longer be going on."""
    match other.owner.split(" "):
        case [*_, pid, began, boot] if boot == _boot() != "" and pid.isdecimal():
            return _started(int(pid)) != began
        case _:
            return other.age > ABANDONED


@cache
def _boot() -> str:
    """Return what tells apart the process IDs of machines and containers, whose names may agree."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot[:13]}/{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process of this machine began, in ticks since the boot, or `none`."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "none"
    return stat.rpartition(")")[2].split()[19]
