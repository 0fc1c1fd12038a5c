"""Read files that somebody else may have put there: never a device or a pipe, never without end.

And say what is wrong with what is in them.
"""

import errno
import io
import json
import os
import stat
import tomllib
from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

# What parsing a document, and looking at what it holds, can raise.
BROKEN = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_WORDS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (UnicodeError, "it is not UTF-8 text"),
    (json.JSONDecodeError, "it is not JSON ({})"),
    (tomllib.TOMLDecodeError, "it is not TOML ({})"),
    (RecursionError, "it is nested too deep"),
    (KeyError, "it has no {}"),
    ((TypeError, AttributeError, LookupError), "a value in it is not of the right type ({})"),
    (ArithmeticError, "a value in it is out of range ({})"),
)


def open_file(path: Path) -> io.BufferedReader:
    """Open a regular file to read it; links are followed.

    Opening a FIFO waits for a writer, and a device may never end, so neither is opened. Raises
    OSError, whose ``strerror`` says what is wrong: also for what is no regular file, and for a path
    that cannot be one.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a NUL in the name, or a character that the locale has not
        raise OSError(errno.EINVAL, "it is not a valid file name", str(path)) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        reason = "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file"
        raise OSError(errno.EINVAL, reason, str(path))
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes.

    Raises OSError as ``open_file`` does, also for a file that is too large.
    """
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return content


def demand_plain_yaml(text: str | bytes, depth: int) -> None:
    """Raise ValueError for YAML that has aliases, or more than ``depth`` levels.

    A few aliases can stand for gigabytes, and the parser takes the square of the depth.
    """
    import yaml  # slow to import, and most documents are of another kind

    level = 0
    for event in yaml.parse(text, yaml.BaseLoader):
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or level > depth:
            message = f"it has YAML aliases, or more than {depth} levels"
            raise ValueError(message)


def reason_of(error: Exception) -> str:
    """Return what is wrong with a document, from what reading or parsing it has raised.

    The words of a library follow where they tell more, such as the line.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ValueError) and "int_max_str_digits" in str(error):
        return "it has a number with too many digits"
    words = next((words for kinds, words in _WORDS if isinstance(error, kinds)), "{}")
    return words.format(error) or type(error).__name__
