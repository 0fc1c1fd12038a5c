"""Runs that are killed at a certain rename, to see what they leave."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path


def killed_at_rename(number: int, do: Callable[[Path], object], path: Path) -> bool:
    """Call ``do`` in a process that dies just before its rename of this number.

    Tell whether it did. If it made fewer renames, it has ended well.
    """
    process = multiprocessing.get_context("fork").Process(target=_do, args=(number, do, path))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _do(number: int, do: Callable[[Path], object], path: Path) -> None:
    real, count = os.rename, 0

    def rename(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.rename = rename  # type: ignore[assignment]
    do(path)
