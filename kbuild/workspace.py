"""Cache and work folders, locks, and make-then-move.

Everything below one cache root (``~/.cache/kbuild`` unless told otherwise):

    git/     object stores, one a source
    trees/   what kubeadm is built from, a tar a tag
    go/      unpacked Go toolchains
    gocache/ the Go build cache of the local builder
    built/   binaries of earlier runs
    logs/    what the last compile of each tag said
    locks/   one file a shared thing
    work/    one folder a run, gone when the run ends

A work folder is alive while its lock is held. A run that was killed lets go of the lock, so the
next run removes what it left.

Binaries are built from what is in the cache, and kept binaries are released. So whoever can write
to it decides what kbuild releases. Only the user who runs kbuild and root may write to it: kbuild
makes its folders with mode 0700 and refuses a cache that others can write to.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from kbuild.errors import CacheInUse, DiskFull, NotWritable, UnsafeCache

_FOLDERS = ("git", "trees", "go", "gocache", "built", "logs", "locks", "work")
_ALONE = "alone"
_REFUSED = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EEXIST, errno.EISDIR, errno.EIO),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The folders of one run: ``cache`` is shared, ``work`` is this run's own.

    ``run_id`` marks what belongs to this run, containers included.
    """

    cache: Path
    work: Path
    run_id: str

    def part(self, name: str) -> "Workspace":
        """Return the same with a new work folder inside this one."""
        work = self.work / name
        work.mkdir()
        return replace(self, work=work)


@contextlib.contextmanager
def open_workspace(cache: Path) -> Iterator[Workspace]:
    """Make a work folder that is gone when the block ends, and sweep those of dead runs.

    Raises UnsafeCache, NotWritable or DiskFull.
    """
    cache = cache.absolute()  # a relative path may begin with a dash
    with disk_errors(cache):
        _make_cache(cache)
        sweep(cache)
        work = cache / "work" / f"run-{uuid.uuid4().hex[:12]}"
        lock = _run_lock(cache, work.name)
        lock.acquire()  # before the folder exists, or a sweep might take it for a dead run's
        with FileLock(_lock_path(cache, _ALONE)):
            pass  # who had it was to be alone
    try:
        with disk_errors(cache):
            work.mkdir()
            yield Workspace(cache=cache, work=work, run_id=work.name)
    finally:
        remove(work)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Be the only one at the cache: runs that begin wait.

    Raises CacheInUse, UnsafeCache, NotWritable or DiskFull.
    """
    with disk_errors(cache):
        _make_cache(cache)
        with only_one(cache, _ALONE, CacheInUse(path=cache)):
            sweep(cache)
            if any((cache / "work").iterdir()):
                raise CacheInUse(path=cache)
            yield


def sweep(cache: Path) -> None:
    """Remove the work folders of runs that are dead."""
    for work in (cache / "work").iterdir():
        if not is_alive(cache, work.name):
            remove(work)
            Path(_run_lock(cache, work.name).lock_file).unlink(missing_ok=True)


def is_alive(cache: Path, run_id: str) -> bool:
    """Tell whether the run of that name still holds its lock."""
    try:
        with _run_lock(cache, run_id).acquire(blocking=False):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def shared(workspace: Workspace, name: str) -> Iterator[None]:
    """Hold the lock of a shared thing, waiting for other runs to let go of it."""
    with FileLock(_lock_path(workspace.cache, name)):
        yield


@contextlib.contextmanager
def only_one(cache: Path, name: str, busy: Exception) -> Iterator[None]:
    """Hold the lock of ``name``, or raise ``busy`` at once if another run holds it."""
    try:
        lock = FileLock(_lock_path(cache, name)).acquire(blocking=False)
    except Timeout:
        raise busy from None
    with lock:
        yield


@contextlib.contextmanager
def make_then_move(target: Path) -> Iterator[Path]:
    """Give a new folder beside ``target`` that becomes ``target`` when the block ends well.

    The caller holds the lock of ``target``. Whatever a killed run left beside it is removed
    first; an existing ``target`` is replaced.
    """
    prefix = f".{target.name}.kbuild-"
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f"{prefix}*"):
            remove(left)
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        made.chmod(0o777 & ~_umask())
        try:
            yield made
            if target.exists():
                old = made.with_name(f"{made.name}-old")
                target.rename(old)
                made.rename(target)
                remove(old)
            else:
                made.rename(target)
        except BaseException:
            remove(made)
            raise


def _make_cache(cache: Path) -> None:
    """Make the folders of a cache that are missing, and refuse a cache that others can write to."""
    for path in (cache, *(cache / name for name in _FOLDERS)):
        try:
            # Not with parents=True alone: the mode is that of the last folder only.
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        except (FileNotFoundError, FileExistsError) as error:  # below /proc, or below a file
            raise NotWritable(path=path, reason=error.strerror) from error
        # In a folder with the sticky bit, such as /tmp, nobody can replace what another user has;
        # one of the cache's own folders must not get entries of others either.
        if (reason := _why_unsafe(path, sticky_is_safe=path == cache)) is not None:
            raise UnsafeCache(path=path, reason=reason, cache=cache)


def _why_unsafe(path: Path, *, sticky_is_safe: bool) -> str | None:
    status = path.stat()
    if others := {status.st_uid, path.lstat().st_uid} - {0, os.geteuid()}:
        return f"it belongs to another user, whose id is {others.pop()}"
    if status.st_mode & 0o022 and not (sticky_is_safe and status.st_mode & stat.S_ISVTX):
        return f"others can write to it, its mode is {stat.S_IMODE(status.st_mode):04o}"
    return None


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an error of ours, wherever in the block it shows."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # Of a copy or a rename the second name is what was to be written.
            raise DiskFull(path=error.filename2 or error.filename or path) from error
        if error.errno in _REFUSED:
            place = error.filename or path
            raise NotWritable(path=place, reason=os.strerror(error.errno)) from error
        if error.errno == errno.ENOENT and error.filename is None:  # only os.getcwd names none
            raise NotWritable(path="the current folder", reason="it was removed") from error
        raise


def remove(path: Path) -> None:
    """Remove a folder or file, read-only folders inside it included; absence is fine."""

    def unlock(function: object, name: str, _error: object) -> None:
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
            # Whoever may write to a folder can nest folders deeper than Python follows; rm can.
            subprocess.run(["rm", "-rf", "--", path.absolute()], check=False, capture_output=True)
            if path.exists():
                raise
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key(text: str) -> str:
    """Return a short name for ``text`` that is fit for a file."""
    # Bytes of a path that the locale cannot read are surrogates; every locale gives the same bytes.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _lock_path(cache: Path, name: str) -> Path:
    return cache / "locks" / f"{name}.lock"


def _run_lock(cache: Path, run_id: str) -> FileLock:
    return FileLock(_lock_path(cache, run_id))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
