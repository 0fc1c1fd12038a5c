"""Change files on the disk: directories that appear complete, removal, and the errors of a disk.

A directory is made next to its place and then moved there, so that nobody sees a part of it. After
a kill at any moment, ``recover`` finishes or undoes the move.
"""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from kbuild.base.errors import DiskFull, NotWritable
from kbuild.base.files import reason_of

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EEXIST, errno.EISDIR, errno.EIO, errno.EBUSY, errno.EFBIG),
)
_BESIDE = r"kbuild-(new|old)-[0-9a-f]{12}"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextlib.contextmanager
def make_then_move(target: Path) -> Iterator[Path]:
    """Create a directory next to ``target`` that becomes ``target`` when the block succeeds.

    The caller holds the lock of ``target``. First, ``recover`` cleans up after a killed run. An
    existing ``target`` is replaced, and stays if that fails.
    """
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
        made = beside(target, "new")
        made.mkdir()
        try:
            yield made
            _move(made, target)
        except BaseException:
            remove(made)
            raise


def beside(target: Path, kind: Literal["new", "old"]) -> Path:
    """Return an unused name next to ``target``, for its new or its old content."""
    return target.with_name(f".{target.name}.kbuild-{kind}-{uuid.uuid4().hex[:12]}")


def is_beside(name: str) -> bool:
    """Return whether ``beside`` makes such a name, for any target."""
    return re.fullmatch(rf"\..+\.{_BESIDE}", name, re.DOTALL) is not None


def recover(target: Path) -> None:
    """Clean up next to ``target`` after a killed run; the caller holds the lock of ``target``.

    The content that the run was about to replace is restored. Everything else is removed.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{_BESIDE}")
    if not target.parent.is_dir():
        return
    for left in sorted(target.parent.iterdir()):
        found = pattern.fullmatch(left.name)
        if found is None or left.is_symlink() or not left.is_dir():
            continue
        is_free = not os.path.lexists(target) or _is_empty(target)
        if found[1] == "old" and is_free:
            left.rename(target)
        else:
            remove(left)


def remove(path: Path) -> None:
    """Remove a directory or file if it exists, even with read-only directories in it."""

    def unlock(function: object, name: str, _error: object) -> None:
        if Path(name) != path:  # do not change the mode of the parent of ``path``
            Path(name).parent.chmod(0o700)
        if function is os.scandir or function is os.open:
            Path(name).chmod(0o700)
            shutil.rmtree(name)
        elif Path(name).is_dir():
            Path(name).rmdir()
        else:
            Path(name).unlink(missing_ok=True)

    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path, onerror=unlock)
        except (RecursionError, OSError):
            # Directories can be nested too deep for Python, but not for rm.
            subprocess.run(["rm", "-rf", "--", path.absolute()], check=False, capture_output=True)
            if path.exists():
                raise
    else:
        path.unlink(missing_ok=True)


def resolved(path: Path) -> Path:
    """Return the absolute path without links; raises NotWritable if it cannot be resolved."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop, or no current directory
        if isinstance(error, OSError) and _is_about_current_directory(error):
            raise
        # Until Python 3.13, a loop is a RuntimeError.
        is_loop = isinstance(error, RuntimeError)
        reason = os.strerror(errno.ELOOP) if is_loop else reason_of(error)
        raise NotWritable(path=path, reason=reason) from error


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise kbuild's own errors for a full or read-only disk in the block."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            # For a copy or a rename, the second name is the file to write.
            raise DiskFull(path=error.filename2 or error.filename or path) from error
        if error.errno in _REFUSED or (error.errno and _is_refused(error, path)):
            place = Path(os.fsdecode(error.filename or path))
            place = path if is_beside(place.name) else place
            raise NotWritable(path=place, reason=os.strerror(error.errno)) from error
        if _is_about_current_directory(error):
            raise NotWritable(path="the current directory", reason="it was removed") from error
        if error.errno == errno.ENOENT and error.filename is None:  # from tempfile
            raise NotWritable(path="the temporary directory", reason=reason_of(error)) from error
        raise


def _is_refused(error: OSError, path: Path) -> bool:
    """Tell whether the error is about ``path``, a directory above it, or a file beside it.

    A file system may refuse these with any error: in /proc, where nothing can be made, with ENOENT.
    """
    if not isinstance(error.filename, str) or not path.name:  # the current directory is no place
        return False
    parent = os.path.realpath(Path(error.filename).parent)
    return Path(parent) in Path(os.path.realpath(path)).parents


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _move(made: Path, target: Path) -> None:
    """Move ``made`` to ``target``. If that fails, ``target`` is unchanged."""
    if not os.path.lexists(target):
        made.rename(target)
    elif _exchange(made, target):
        remove(made)  # the old content after the exchange
    else:
        old = beside(target, "old")
        try:
            target.rename(old)
            made.rename(target)
        except BaseException:
            if old.exists() and not os.path.lexists(target):
                old.rename(target)
            raise
        remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two directories atomically; False if the file system or the C library cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    return rename is not None and rename(*names, _RENAME_EXCHANGE) == 0


def _is_about_current_directory(error: OSError) -> bool:
    if error.errno != errno.ENOENT or error.filename is not None:
        return False
    try:
        os.getcwd()  # noqa: PTH109  # Path.cwd is the same
    except FileNotFoundError:
        return True
    return False
