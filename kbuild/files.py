"""Read files that somebody else may have put there: never a device or a pipe, never without end."""

import errno
import io
import os
import stat
from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def open_file(path: Path) -> io.BufferedReader:
    """Open a regular file for reading; links are followed.

    Opening a FIFO waits for a writer, and a device may never end, so neither is opened. Raises
    OSError, whose ``strerror`` says what is wrong: also for what is no regular file, and for a
    path that cannot be one.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a NUL in the name, or a character that the locale has not
        raise OSError(errno.EINVAL, "it is not a valid file name", str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes; links are followed.

    Raises OSError as ``open_file`` does, and for a file that is too large.
    """
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return content
