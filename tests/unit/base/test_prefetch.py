import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from kbuild.base.prefetch import prepared
from kbuild.base.progress import Progress
from tests.support.recorder import Recorder


class Preparation:
    """Prepares numbers, as slowly as its gate opens."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.gate = threading.Event()
        self.stopped = 0
        self.ended: list[str] = []

    def __call__(self, job: int, progress: Progress) -> str:
        self.begun.append(job)
        progress.advance("fetch", 1, 2)
        progress.say(f"preparing {job}")
        try:
            if job > 1:
                assert self.gate.wait(10)
            progress.detail("nearly")
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        if job == 13:
            raise LookupError(job)
        return f"made {job}"

    def stop(self) -> None:
        self.stopped += 1
        self.gate.set()


def run(
    jobs: list[int], preparation: Preparation, recorder: Recorder
) -> AbstractContextManager[Iterator[str]]:
    return prepared(jobs, preparation, recorder, preparation.stop)


def wait_until(condition: object, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_next_is_prepared_while_one_is_in_use() -> None:
    preparation, recorder = Preparation(), Recorder()
    with run([1, 2, 3], preparation, recorder) as trees:
        assert next(trees) == "made 1"
        wait_until(lambda: preparation.begun == [1, 2])
        preparation.gate.set()
        assert list(trees) == ["made 2", "made 3"]
    assert preparation.stopped == 0
    assert recorder.said == ["preparing 1", "2: preparing 2", "3: preparing 3"]


def test_only_one_is_prepared_ahead() -> None:
    preparation = Preparation()
    preparation.gate.set()
    with run([1, 2, 3], preparation, Recorder()) as trees:
        next(trees)
        wait_until(lambda: len(preparation.begun) == 2)
        time.sleep(0.05)
        assert preparation.begun == [1, 2]


def test_what_goes_wrong_ahead_is_told_when_its_turn_comes() -> None:
    preparation = Preparation()
    preparation.gate.set()
    with run([1, 13], preparation, Recorder()) as trees:
        assert next(trees) == "made 1"
        with pytest.raises(LookupError):
            next(trees)


def test_an_early_end_stops_what_is_being_prepared() -> None:
    preparation = Preparation()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), run([1, 2], preparation, Recorder()) as trees:
        next(trees)
        wait_until(lambda: preparation.begun == [1, 2])
        raise KeyboardInterrupt
    assert preparation.stopped == 1
    assert preparation.ended == ["Stopped"]
    assert time.monotonic() - began < 30


def test_one_job_needs_no_thread() -> None:
    before = threading.active_count()
    with run([1], Preparation(), Recorder()) as trees:
        assert next(trees) == "made 1"
        assert threading.active_count() == before
