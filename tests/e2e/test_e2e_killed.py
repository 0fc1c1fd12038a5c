"""Runs that are killed or interrupted: nothing half-made stays, and the next run just works."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.command import Kbuild, at_stage, main_job
from tests.e2e.released import ARCHIVE_DOCKER, ARCHIVE_LOCAL, Releases, release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# Far enough into a stage to be at its work; the linker and the proof take longer.
SECONDS_INTO = {"source": 1.0, "build": 1.0, "prove": 1.0}


@pytest.mark.parametrize(
    ("way", "stage"),
    [
        (ARCHIVE_LOCAL, "source"),
        (ARCHIVE_LOCAL, "toolchain"),
        (ARCHIVE_LOCAL, "patch"),
        (ARCHIVE_LOCAL, "build"),
        (ARCHIVE_LOCAL, "prove"),
        (ARCHIVE_LOCAL, "release"),
        (ARCHIVE_DOCKER, "build"),
        (ARCHIVE_DOCKER, "prove"),
    ],
)
def test_killed_run_can_be_repeated(
    way: str,
    stage: str,
    kbuild: Kbuild,
    releases: Releases,
    left_in_engine: Callable[[], list[str]],
) -> None:
    expected = releases[way].binary.read_bytes()
    kbuild.forget_built()
    folder = kbuild.home / "out"
    killed = kbuild.start(*main_job(*releases.ways[way], "--output", folder))
    with at_stage(killed, stage):
        time.sleep(SECONDS_INTO.get(stage, 0.0))
    assert killed.returncode == -signal.SIGKILL
    assert not folder.exists()

    again = release(kbuild, folder, *releases.ways[way])

    assert again.binary.read_bytes() == expected
    assert kbuild.work_left == []
    assert left_in_engine() == []
    assert list(kbuild.home.glob(".*")) == []


@pytest.mark.parametrize("way", [ARCHIVE_LOCAL, ARCHIVE_DOCKER])
@pytest.mark.parametrize("stage", ["source", "build", "prove"])
def test_interrupted_run_leaves_nothing(
    way: str,
    stage: str,
    kbuild: Kbuild,
    releases: Releases,
    left_in_engine: Callable[[], list[str]],
) -> None:
    assert releases[way].binary.is_file()  # the cache is warm now
    kbuild.forget_built()
    interrupted = kbuild.start(*main_job(*releases.ways[way], "--output", kbuild.home / "out"))
    with at_stage(interrupted, stage):
        time.sleep(SECONDS_INTO[stage])
        os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        assert interrupted.wait(60) == 130
    assert kbuild.work_left == []
    assert left_in_engine() == []
    assert list(kbuild.home.iterdir()) == []
