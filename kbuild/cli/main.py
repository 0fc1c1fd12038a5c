"""The entry point: signals, standard streams, and errors outside the error boundary."""

import contextlib
import gc
import io
import os
import signal
import sys
from typing import NoReturn

_SYSTEM = 80  # exit code of NotWritable and NotEnoughMemory, whose module is not loaded yet
# New values, between two looks for garbage: nearly all values stay until the end, and looking takes
# a tenth of the time to start, and of that for many certificates.
_BETWEEN_COLLECTIONS = 200_000
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Run kbuild."""
    gc.set_threshold(_BETWEEN_COLLECTIONS)
    # Before a command begins there is nothing to clean up, so a signal may end kbuild at once. A
    # signal that a shell or nohup ignores stays ignored.
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for stream in range(3):
        _open(stream)
    _buffer_output()
    try:
        from kbuild.cli.app import app

        app()
    except OSError as error:  # while help was printed; the exit code stays that of the help
        code = getattr(error.__context__, "exit_code", _SYSTEM)
        _end("not-writable", f"standard output cannot be used: {error.strerror}", code)
    except (MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and "failed to map" not in str(error):
            raise
        _end("not-enough-memory", "there is not enough memory to load kbuild", _SYSTEM)
    finally:  # nothing is left to clean up, and a signal at Python's exit would show a traceback
        _drop_unwritten()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _end(kind: str, what: str, code: int) -> NoReturn:
    """Print an error that occurs outside the error boundary, and exit."""
    with contextlib.suppress(OSError):
        os.write(2, f"error[{kind}]: {what}\n".encode())
    sys.exit(code)


def _drop_unwritten() -> None:
    """Discard unwritten output; otherwise Python tries again at its exit, and exits with 120."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _buffer_output() -> None:
    """Give standard output a buffer, which it lacks with PYTHONUNBUFFERED.

    Without one, Python silently drops the rest of a text that a pipe or a disk takes in part.
    """
    if isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase):
        encoding, errors = sys.stdout.encoding, sys.stdout.errors
        sys.stdout = open(1, "w", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115


def _open(stream: int) -> None:
    """Open a closed standard stream; otherwise some file would get its number and its output."""
    try:
        os.fstat(stream)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003
