"""Runs kbuild's command line on a terminal."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence

from tests.support.command import clean_environment

_KBUILD = (sys.executable, "-c", "from kbuild.cli.main import main; main()")


def on_terminal(*words: object, width: int, **environment: str) -> str:
    """Run kbuild on a terminal of this width, and return the results that it shows."""
    return _on_terminal(words, width, environment, shows_results=True)


def progress_on_terminal(*words: object, width: int, **environment: str) -> str:
    """Run kbuild on a terminal of this width, and return the progress that it shows."""
    return _on_terminal(words, width, environment, shows_results=False)


def _on_terminal(
    words: Sequence[object], width: int, environment: Mapping[str, str], *, shows_results: bool
) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen(
        [*_KBUILD, *map(str, words)],
        stdin=theirs,
        stdout=theirs if shows_results else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if shows_results else theirs,
        env=clean_environment(TERM="xterm", **environment),
    )
    os.close(theirs)
    shown = bytearray()
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert process.wait() == 0
    return shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux: nobody has the other end open any more
        return b""
