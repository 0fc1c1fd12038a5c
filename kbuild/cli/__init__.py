"""The command line: one module a command, one error boundary."""

import contextlib
import os
import signal
import sys
from typing import NoReturn

_SYSTEM = 80  # the exit code of NotWritable and NotEnoughMemory; their module is not loaded yet
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
    try:
        from kbuild.cli.app import app

        app()
    except OSError as error:  # while help or a usage error was printed, whose code it keeps
        code = getattr(error.__context__, "exit_code", _SYSTEM)
        _end("not-writable", f"standard output cannot be used: {error.strerror}", code)
    except (MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and "failed to map" not in str(error):
            raise
        _end("not-enough-memory", "there is not enough memory to load kbuild", _SYSTEM)
    finally:  # Python's own end has nothing to clean up either, but would show a traceback
        _drop_unwritten()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _end(kind: str, what: str, code: int) -> NoReturn:
    """Exit before or after the boundary, which has all other errors."""
    with contextlib.suppress(OSError):
        os.write(2, f"error[{kind}]: {what}\n".encode())
    sys.exit(code)


def _drop_unwritten() -> None:
    """Let what a stream cannot write go nowhere, or Python tries again at its end and exits 120."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _open(stream: int) -> None:
    """Open a standard stream that is closed, or some file would get its number and its text."""
    try:
        os.fstat(stream)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003
