"""Write one file for other programs: it appears whole, and nothing that is not ours is replaced."""

import contextlib
import os
import stat
import time
from pathlib import Path

from kbuild.base.disk import beside, disk_errors, is_beside
from kbuild.base.errors import NotWritable
from kbuild.base.files import read_head, reason_of

_READ_AND_WRITE = 0o666
_HEAD = 1024  # bytes in which the mark must be
_ABANDONED = 3600.0  # seconds after which no run is still writing its file


def write_report(path: Path, content: bytes, *, mark: bytes, mode: int | None = None) -> None:
    """Write a file under a temporary name next to ``path``, then rename it to ``path``.

    An existing file is replaced only if it is a regular file that is empty or has ``mark`` in its
    first 1024 bytes: so a mistyped path destroys neither a certificate nor a device. Without a
    ``mode``, which is independent of the umask, it keeps who may read and write it, if it belongs
    to this user. Raises NotWritable or DiskFull; then ``path`` is unchanged.
    """
    try:
        path.parent.stat()
    except FileNotFoundError as error:
        reason = f"{path.parent} is not there: make that directory first"
        raise NotWritable(path=path, reason=reason) from error
    except OSError:  # what is written tells
        pass
    try:
        with disk_errors(path):
            mode_before = _demand_ours(path, mark)
            _remove_abandoned(path)
            _write_then_rename(path, content, mode_before if mode is None else mode)
    except FileNotFoundError as error:
        raise NotWritable(path=path, reason=reason_of(error)) from error


def _demand_ours(path: Path, mark: bytes) -> int | None:
    """Check that a file may be replaced; return its mode, None if this user has none there."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        reason = "it exists and is not a regular file"
        raise NotWritable(path=path, reason=reason)
    if status.st_size and mark not in read_head(path, _HEAD):
        raise NotWritable(
            path=path,
            reason="it exists, and this option did not write it: remove it if nobody needs it",
        )
    return status.st_mode & _READ_AND_WRITE if status.st_uid == os.geteuid() else None


def _remove_abandoned(path: Path) -> None:
    """Remove what killed runs left next to ``path``."""
    with contextlib.suppress(PermissionError):  # such a directory may still be written to
        for left in path.parent.iterdir():
            if is_beside(left.name) and left.name.startswith(f".{path.name}.kbuild-new-"):
                with contextlib.suppress(FileNotFoundError):  # another run removed it
                    status = left.lstat()
                    if stat.S_ISREG(status.st_mode) and _age(status) > _ABANDONED:
                        left.unlink()


def _age(status: os.stat_result) -> float:
    return time.time() - status.st_mtime


def _write_then_rename(path: Path, content: bytes, mode: int | None) -> None:
    new = beside(path, "new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a crash of the machine could leave an empty file
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
