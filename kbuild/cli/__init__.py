"""The command line: one module a command, one error boundary."""

import os
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Run kbuild."""
    # Until a command has begun there is nothing to clean up, so a signal may just end kbuild. One
    # that is ignored stays so: a shell or nohup has decided that.
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for stream in range(3):
        _open(stream)
    from kbuild.cli.app import app

    try:
        app()
    finally:  # Python's own end has nothing to clean up either, but would show a traceback
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _open(stream: int) -> None:
    """Open a standard stream that is closed, or some file would get its number and its text."""
    try:
        os.fstat(stream)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003
