"""Read untrusted files: only regular ones, up to a size limit. Describe what is wrong with them."""

import errno
import hashlib
import io
import json
import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

# Errors of parsing a document and of reading values from it.
BROKEN = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_REASONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (UnicodeError, "it is not UTF-8 text"),
    (json.JSONDecodeError, "it is not JSON ({})"),
    (tomllib.TOMLDecodeError, "it is not TOML ({})"),
    (RecursionError, "it is nested too deep"),
    (KeyError, "it has no {}"),
    ((TypeError, AttributeError, LookupError), "a value in it is not of the right type ({})"),
    (ArithmeticError, "a value in it is out of range ({})"),
)


def open_file(path: Path | str) -> io.BufferedReader:
    """Open a regular file for reading; links are followed.

    Opening a FIFO waits for a writer, and a device may never end, so neither is opened. Raises
    OSError, also for a file that is not regular and for an invalid path; ``strerror`` is the
    reason.
    """
    return os.fdopen(_open(path), "rb")


def _open(path: Path | str) -> int:
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a NUL in the name, or a character that the locale lacks
        raise OSError(errno.EINVAL, "it is not a valid file name", str(path)) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        reason = "it is a directory" if stat.S_ISDIR(mode) else "it is not a regular file"
        raise OSError(errno.EINVAL, reason, str(path))
    return descriptor


def read_file(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes.

    Raises OSError as ``open_file`` does, also for a file that is too large.
    """
    content = read_head(path, limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return content


def read_head(path: Path | str, most: int) -> bytes:
    """Return the first bytes of a regular file, ``most`` or fewer; raises OSError."""
    descriptor = _open(path)  # a file object would take twice as long for a small file
    try:
        content = part = os.read(descriptor, most)
        while part and len(content) < most:
            part = os.read(descriptor, most - len(content))
            content += part
    except BlockingIOError as error:  # a file of /proc may have nothing yet
        raise OSError(error.errno, "it has no content to read now", str(path)) from error
    finally:
        os.close(descriptor)
    return content


def sha256(path: Path) -> str:
    """Return the sha256 of a regular file as 64 hex digits; raises OSError."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def demand_plain_yaml(text: str | bytes, depth: int) -> None:
    """Raise ValueError for YAML that has aliases, or more than ``depth`` levels."""
    for _ in plain_yaml_events(text, depth):
        pass


def plain_yaml_events(
    text: str | bytes, depth: int, loader: type[Any] | None = None
) -> Iterator[Any]:
    """Yield the parser's events of YAML; raises ValueError as ``demand_plain_yaml`` does.

    A few aliases can expand to gigabytes, and the parser takes quadratic time in the depth.
    """
    import yaml  # slow to import, and most documents are not YAML

    level = 0
    for event in yaml.parse(text, loader or yaml.BaseLoader):
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or level > depth:
            message = f"it has YAML aliases, or more than {depth} levels"
            raise ValueError(message)
        yield event


def reason_of(error: Exception) -> str:
    """Return the reason why a document could not be read or parsed, for a message.

    The text of a library is included if it adds details, such as the line.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ValueError) and "int_max_str_digits" in str(error):
        return "it has a number with too many digits"
    reason = next((text for kinds, text in _REASONS if isinstance(error, kinds)), "{}")
    return reason.format(error) or type(error).__name__
