"""What runs now, how far it is and how long it takes: bars on a terminal, rare lines elsewhere."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from kbuild.base.progress import Unit

BEAT = 60.0  # seconds without a line, after which a pipe gets one: CI ends jobs that print nothing
MEANINGFUL = 3.0  # seconds after which an estimate is shown
_LEAST_PART = 0.02  # of all, for an estimate
_MB = 1e6
_MINUTE, _HOUR = 60, 3600
_TENS = 10  # seconds from which an estimate is rounded to tens
_BAR = 12  # columns
_NARROW = 60  # columns, below which a bar would take the place of what it is about


@dataclass(slots=True)
class Step:
    """Something that runs: how far it is, and since when, as ``time.monotonic`` counts."""

    what: str
    done: int = 0
    total: int | None = None
    unit: Unit = ""
    began: float = field(default_factory=time.monotonic)
    counted: float | None = None  # when nothing was done yet for the last time
    moved: float | None = None  # when it got further for the last time

    def move(self, done: int, total: int | None, unit: Unit) -> None:
        """Note how far it is; if it is less far than before, it was begun again."""
        now = time.monotonic()
        if done < self.done:
            self.began = now
        if done == 0:
            self.counted = now
        if done != self.done:
            self.moved = now
        self.done, self.total, self.unit = done, total, unit

    def figures(self, *, is_short: bool = False) -> str:
        """Return how far it is, for how long it runs, and about how long it still takes."""
        left, about = self._left(), "~{}" if is_short else "about {} left"
        texts = (
            _count(self.done, self.total, self.unit),
            duration(time.monotonic() - self.began),
            "" if left is None else about.format(_rounded(left)),
        )
        return ", ".join(text for text in texts if text)

    def _left(self) -> float | None:
        """Return about how many seconds are left, None if nothing has moved for longer than that.

        The wait for the first byte or the first package tells nothing about the others.
        """
        now = time.monotonic()
        left = _left(self.done, self.total, now - (self.counted or self.began))
        still = now - (self.moved or now)
        return None if left is None or still > max(left, MEANINGFUL) else left


def duration(seconds: float) -> str:
    """Return a time as people say it: 9s, 2m 5s, 1h 2m."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE}s"
    return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE}m"


def _rounded(seconds: float) -> str:
    """Return an estimate without more figures than are true of it."""
    if seconds >= _MINUTE:
        return duration(round(seconds / _MINUTE) * _MINUTE).removesuffix(" 0s")
    return duration(max(1, seconds if seconds < _TENS else round(seconds, -1))).removesuffix(" 0s")


def _left(done: int, total: int | None, seconds: float) -> float | None:
    """Return about how many seconds are left, None while that would be a guess."""
    if total is None or not total * _LEAST_PART <= done < total or not done:
        return None
    return seconds * (total - done) / done if seconds >= MEANINGFUL else None


def _count(done: int, total: int | None, unit: Unit) -> str:
    if unit == "bytes":
        size = f"{done / _MB:.1f}"
        return f"{size} MB" if total is None else f"{size} of {total / _MB:.1f} MB"
    if total is None:
        return str(done) if done else ""  # what has no count, only a time
    return f"{done} of {total}"


class Bars:
    """A bar for each step on a terminal, drawn several times a second; for one thread at a time."""

    def __init__(self, console: Console) -> None:
        is_narrow = console.width < _NARROW
        self._progress = Progress(
            # Only the name of a step is cut in a narrow terminal: rich shrinks what may wrap.
            _What(table_column=Column()),
            *([] if is_narrow else [BarColumn(bar_width=_BAR)]),
            _Figures(is_short=is_narrow),
            console=console,
            transient=True,
        )
        self._steps: dict[str, tuple[Step, TaskID]] = {}

    def show(self, key: str, what: str, done: int, total: int | None, unit: Unit) -> None:
        """Show a step; what has the same key takes its place."""
        if key in self._steps and self._steps[key][0].what != what:
            self._remove(key)
        if key not in self._steps:
            step = Step(what)
            self._steps[key] = step, self._progress.add_task(what, total=total, step=step)
        step, number = self._steps[key]
        step.move(done, total, unit)
        self._progress.update(number, completed=done, total=total)
        self._progress.start()  # it draws at once, and does nothing if it was started

    def leave(self, key: str) -> None:
        """Remove the bar of a step."""
        if key in self._steps:
            self._remove(key)
            self._progress.refresh()  # so that the next message is not followed by this bar

    def stop(self) -> None:
        """Remove all bars."""
        for key in list(self._steps):
            self._remove(key)
        self._progress.stop()

    def _remove(self, key: str) -> None:
        _, number = self._steps.pop(key)
        self._progress.remove_task(number)


class _What(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"    {task.description}", no_wrap=True, overflow="ellipsis")


class _Figures(ProgressColumn):
    def __init__(self, *, is_short: bool) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._is_short = is_short

    def render(self, task: Task) -> Text:
        return Text(task.fields["step"].figures(is_short=self._is_short), no_wrap=True)


class Beats:
    """A line about the steps whenever a pipe got none for a minute."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._steps: dict[str, Step] = {}
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._due = time.monotonic() + BEAT
        self._thread: threading.Thread | None = None

    def heard(self) -> None:
        """Note that the pipe got a line."""
        self._due = time.monotonic() + BEAT

    def show(self, key: str, what: str, done: int, total: int | None, unit: Unit) -> None:
        """Note how far a step is; what has the same key takes its place."""
        with self._lock:
            if key not in self._steps or self._steps[key].what != what:
                self._steps[key] = Step(what)
            self._steps[key].move(done, total, unit)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()

    def leave(self, key: str) -> None:
        """Forget a step."""
        with self._lock:
            self._steps.pop(key, None)

    def stop(self) -> None:
        """Say nothing more."""
        with self._lock:
            self._steps.clear()
            self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(max(0.0, self._due - time.monotonic())):
            with self._lock:
                if time.monotonic() < self._due or self._stopped.is_set():
                    continue
                # The one that has run longest: of several hosts, it is the one that waits.
                step = min(self._steps.values(), key=lambda each: each.began, default=None)
                if step is not None:
                    with suppress(MemoryError):  # the thread of the command tells
                        self._say(f"{step.what}: {step.figures()}")
                self.heard()
