"""Prepare the next piece of work while this one is being worked on."""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from kbuild.base.progress import Progress

_PATIENCE = 5.0  # seconds, for a thread that has been told to stop

Job = TypeVar("Job")
Made = TypeVar("Made")


class Stopped(Exception):
    """Nobody waits any more for what is being prepared."""


class Aside:
    """The progress of what nobody waits for yet: its facts with its name, and no bars."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self.stopped = self.is_waited_for = False

    def stage(self, _title: str) -> None:
        """Begin a stage, which is not shown."""
        self._check()

    def say(self, text: str) -> None:
        """Tell one fact."""
        self._check()
        self._progress.say(f"{self._name}: {text}")

    def advance(self, what: str, done: int, total: int | None) -> None:
        """Tell how far a long step is, if somebody waits for it."""
        self._check()
        if self.is_waited_for:
            self._progress.advance(what, done, total)

    def detail(self, text: str) -> None:
        """Tell a line that only --verbose shows."""
        self._check()
        self._progress.detail(f"{self._name}: {text}")

    def _check(self) -> None:
        if self.stopped:
            raise Stopped


def prepared(
    jobs: Sequence[Job],
    prepare: Callable[[Job, Progress], Made],
    progress: Progress,
    stop: Callable[[], None],
) -> contextlib.AbstractContextManager[Iterator[Made]]:
    """Give what ``prepare`` makes of each job; one is prepared while the one before is in use.

    When the block ends early, ``stop`` is to end what the preparation waits for.
    """
    return contextlib.closing(_prepared(jobs, prepare, progress, stop))


class _Thread(Generic[Made]):
    def __init__(
        self, job: Job, prepare: Callable[[Job, Progress], Made], progress: Progress
    ) -> None:
        self.aside, self._made = Aside(progress, str(job)), Future[Made]()
        # A daemon: a download that has stalled must not keep kbuild from ending.
        self._thread = threading.Thread(target=self._run, args=(job, prepare), daemon=True)
        self._thread.start()

    def result(self) -> Made:
        self.aside.is_waited_for = True
        return self._made.result()

    def end(self, stop: Callable[[], None]) -> None:
        self.aside.stopped = True
        if self._thread.is_alive():
            stop()
            self._thread.join(_PATIENCE)

    def _run(self, job: Job, prepare: Callable[[Job, Progress], Made]) -> None:
        try:
            self._made.set_result(prepare(job, self.aside))
        except BaseException as error:
            self._made.set_exception(error)


def _prepared(
    jobs: Sequence[Job],
    prepare: Callable[[Job, Progress], Made],
    progress: Progress,
    stop: Callable[[], None],
) -> Generator[Made, None, None]:
    thread: _Thread[Made] | None = None
    try:
        for job, following in zip(jobs, [*jobs[1:], None], strict=True):
            made = thread.result() if thread is not None else prepare(job, progress)
            thread = _Thread(following, prepare, progress) if following is not None else None
            yield made
    finally:
        if thread is not None:
            thread.end(stop)
