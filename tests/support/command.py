"""Runs kbuild's command line in this process: a real one needs half a second to start."""

import contextlib
import functools
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import typer.main

from kbuild.base import network
from kbuild.cli.main import SIGNALS, main

Done = subprocess.CompletedProcess[str]
_command_of = functools.cache(typer.main.get_command)


def run_here(*words: object, cwd: Path | None = None, **environment: str) -> Done:
    """Run a command to its end, as the installed program does, and return what it printed.

    The caller's KBUILD_ and XDG_ variables are removed. The cache is that of ``HOME``:
    kbuild found its default when it was imported, for another home. What a signal, a closed stream
    or a limit of the system does to kbuild needs a process.
    """
    command = ["kbuild", *map(str, words)]
    out, err = _stream(), _stream()
    code: object = 0
    # A process makes the options of a group once, which takes as long as most tests.
    once = patch("typer.main.get_command", _command_of)
    with _own_state(command, cwd, environment), _streams(out, err), once:
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int), code
    return Done(command, code, _text(out), _text(err))


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without what kbuild reads of it, and with more."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("KBUILD_", "XDG_"))}
    return clean | more


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _streams(out: io.TextIOWrapper, err: io.TextIOWrapper) -> Iterator[None]:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


@contextlib.contextmanager
def _own_state(command: list[str], cwd: Path | None, environment: dict[str, str]) -> Iterator[None]:
    """Give a command arguments, a folder and an environment, and take back all that it changes."""
    arguments, before, timeout = sys.argv, dict(os.environ), network.stall_timeout
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    home = Path(environment.get("HOME", before["HOME"]))
    wanted = clean_environment(**{"KBUILD_CACHE_DIR": str(home / ".cache/kbuild"), **environment})
    try:
        sys.argv = command
        os.environ.clear()
        os.environ.update(wanted)
        with contextlib.chdir(cwd or "."):
            yield
    finally:
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        network.stall_timeout = timeout
