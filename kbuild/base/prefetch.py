"""Prepare the next job while the current one runs."""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from kbuild.base.progress import Progress, Unit

_JOIN_TIMEOUT = 5.0  # seconds, for a thread that was asked to stop

Job = TypeVar("Job")
Made = TypeVar("Made")


class Stopped(Exception):
    """The result of the preparation is no longer needed."""


class BackgroundProgress:
    """The progress of a job in the background: messages with the name of the job, no bars."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self.stopped = self.is_awaited = False

    def stage(self, _title: str) -> None:
        """Ignore the stage: the foreground shows its own."""
        self._check()

    def say(self, text: str) -> None:
        """Report one message."""
        self._check()
        self._progress.say(f"{self._name}: {text}")

    def advance(self, what: str, done: int, total: int | None, unit: Unit = "") -> None:
        """Report the progress of a long step, if the user waits for the job."""
        self._check()
        if self.is_awaited:
            self._progress.advance(f"{self._name}: {what}", done, total, unit)

    def detail(self, text: str) -> None:
        """Report a line that only --verbose shows."""
        self._check()
        self._progress.detail(f"{self._name}: {text}")

    def wait(self) -> None:
        """Show the progress from now on, because the user waits for the job."""
        self.is_awaited = True
        self._progress.advance(f"{self._name}: inputs", 0, None)

    def _check(self) -> None:
        if self.stopped:
            raise Stopped


def prepared(
    jobs: Sequence[Job],
    prepare: Callable[[Job, Progress], Made],
    progress: Progress,
    stop: Callable[[], None],
) -> contextlib.AbstractContextManager[Iterator[Made]]:
    """Return the result of ``prepare`` for each job; the next job is prepared in the background.

    If the block ends early, ``stop`` is called and must end what the preparation waits for.
    """
    return contextlib.closing(_prepared(jobs, prepare, progress, stop))


class _Thread(Generic[Made]):
    def __init__(
        self, job: Job, prepare: Callable[[Job, Progress], Made], progress: Progress
    ) -> None:
        self.progress, self._made = BackgroundProgress(progress, str(job)), Future[Made]()
        # A daemon thread, because a stalled download must not keep kbuild from ending.
        self._thread = threading.Thread(target=self._run, args=(job, prepare), daemon=True)
        self._thread.start()

    def result(self) -> Made:
        self.progress.wait()
        return self._made.result()

    def end(self, stop: Callable[[], None]) -> None:
        self.progress.stopped = True
        if self._thread.is_alive():
            stop()
            self._thread.join(_JOIN_TIMEOUT)

    def _run(self, job: Job, prepare: Callable[[Job, Progress], Made]) -> None:
        try:
            self._made.set_result(prepare(job, self.progress))
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
