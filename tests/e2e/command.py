"""Runs kbuild as users do: the installed command, in a folder of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

KBUILD = Path(sys.executable).with_name("kbuild")
VERSION = "v1.20.2"
NEXT_VERSION = "v1.20.9"  # the same, but for a line; the repository alone has it
GO_VERSION = "1.15.15"
COMMIT = "faecb196815e248d3ecfb03c680a4507229c2a56"  # of v1.20.2, as its own archive names it
BUILD_DATE = "2026-01-02T03:04:05Z"
YEARS = ("--ca-years", "100", "--leaf-years", "100")


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Kbuild:
    """kbuild with a cache, run in ``home``, where no settings file is.

    ``inside`` has words to put before the command, such as those of a network namespace.
    """

    home: Path
    cache: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    inside: tuple[str, ...] = ()

    def __call__(self, *args: str | Path, **environment: str) -> Done:
        """Run it to its end."""
        process = self.start(*args, **environment)
        try:
            stdout, stderr = process.communicate()
        finally:
            kill(process)
        return Done(process.returncode, stdout, stderr)

    def start(self, *args: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start it in a process group of its own, as a shell does."""
        return subprocess.Popen(
            (*self.inside, KBUILD, *args),
            cwd=self.home,
            env=self._environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def kubeadm(self, *args: str | Path, **environment: str) -> Done:
        """Run the main job for v1.20.2, 100/100 years and Debian's Go, and these options."""
        return self(*main_job(*args), **environment)

    def forget_built(self) -> None:
        """Make the next run compile, however often this was built before."""
        shutil.rmtree(self.cache / "v1/built", ignore_errors=True)

    @property
    def work_left(self) -> list[Path]:
        """Return what runs have left in the cache's work folder."""
        return sorted((self.cache / "v1/work").glob("*"))

    def _environment(self) -> dict[str, str]:
        mine = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("KBUILD_") and name != "SOURCE_DATE_EPOCH"
        }
        theirs = {"KBUILD_CACHE_DIR": str(self.cache), "XDG_CONFIG_HOME": str(self.home / "config")}
        return mine | theirs | dict(self.environment)


def main_job(*args: str | Path) -> tuple[str | Path, ...]:
    """Return the words of the main job; a later option of the same name wins."""
    fixed = ("--version", VERSION, *YEARS, "--go-version", GO_VERSION, "--build-date", BUILD_DATE)
    return ("kubeadm", *fixed, *args)


@contextlib.contextmanager
def at_stage(process: subprocess.Popen[str], stage: str) -> Iterator[None]:
    """Wait until a running kbuild says that it begins ``stage``.

    What it says later is read and dropped, so that it never waits for us. If it still runs when
    the block ends, it is killed.
    """
    if process.stderr is None:
        msg = "its stderr is not ours to read"
        raise ValueError(msg)
    rest = threading.Thread(target=process.stderr.read)
    try:
        _read_until(process.stderr, f"==> {stage}")
        rest.start()
        yield
    finally:
        kill(process)
        if rest.is_alive():
            rest.join()
        process.communicate()


def _read_until(stream: IO[str], start: str) -> None:
    said: list[str] = []
    for line in stream:
        said.append(line)
        if line.startswith(start):
            return
    msg = f"it never said {start!r}:\n{''.join(said)}"
    raise AssertionError(msg)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill it and all its children at once, so that none can tidy up."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
