"""Cache and work folders, locks, and folders that appear complete.

A cache (by default ``~/.cache/kbuild``) is a folder that kbuild made:

    CACHEDIR.TAG  marks it for kbuild and backup programs
    v1/           the content, in the layout of this kbuild version
      git/        object stores, one per source
      go/         unpacked Go toolchains
      gocache/    the Go build cache of the local builder
      built/      binaries of earlier runs
      logs/       what the last compile of each tag said
      volumes/    one empty file a Go cache of the docker builder, as old as its last use
      locks/      one file a shared thing
      work/       one folder a run, gone when the run ends

kbuild removes files from a cache without asking, so it refuses any other folder that is not empty.
Only ``content`` knows where the content is; ``Workspace.cache`` is its result.

A run holds the lock of its work folder. If the run is killed, the kernel releases the lock, and the
next run removes the work folder.

Binaries are built from the cache content, and kept binaries are released. So everybody who can
write to a cache can decide what kbuild releases. Only the user who runs kbuild and root may write
to it: kbuild creates its folders with mode 0700. It refuses a cache that others can write to, or
can replace because they can write to a folder above it.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import stat
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from kbuild.base.errors import (
    CacheInUse,
    DiskFull,
    KbuildError,
    NotACache,
    NotWritable,
    UnsafeCache,
)
from kbuild.base.files import open_file, read_file

_FOLDERS = ("git", "go", "gocache", "built", "logs", "volumes", "locks", "work")
_CONTENT = "v1"  # another number for another layout
_TAG_NAME = "CACHEDIR.TAG"
# The first line is defined by https://bford.info/cachedir/, the second names the owner.
_MARK = b"""Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache of kbuild. All of it can be deleted.
"""
_TAG = _MARK + b"# See https://bford.info/cachedir/ for the meaning of this file.\n"
_TAG_LIMIT = 4096
_ALONE = "alone"
_cleanups: list[None] = []
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_RUN = re.compile(r"run-[0-9a-f]{12}", re.ASCII)
_BESIDE = r"kbuild-(new|old)-[0-9a-f]{12}"
_MAX_LINKS = 40  # as many as the kernel follows
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_REFUSED = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EEXIST, errno.EISDIR, errno.EIO, errno.EBUSY, errno.EFBIG),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The folders of one run: ``cache`` is the content of the cache, ``work`` belongs to the run.

    ``run_id`` marks everything that belongs to this run, such as containers.
    """

    cache: Path
    work: Path
    run_id: str

    def part(self, name: str) -> "Workspace":
        """Return a copy with a new work folder inside this one."""
        work = self.work / name
        work.mkdir()
        return replace(self, work=work)


def content(cache: Path) -> Path:
    """Return the folder that holds the content of a cache; ``cache`` is the folder of its tag.

    Raises NotWritable.
    """
    return resolved(cache) / _CONTENT


def resolved(path: Path) -> Path:
    """Return the absolute path without links; raises NotWritable if there is none."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop, or no current folder
        if isinstance(error, OSError) and _is_about_current_folder(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise NotWritable(path=path, reason=reason) from error


@contextlib.contextmanager
def open_workspace(cache: Path) -> Iterator[Workspace]:
    """Create a work folder for the block, and remove the work folders of dead runs.

    Raises NotACache, UnsafeCache, NotWritable or DiskFull.
    """
    with disk_errors(cache):
        shared_folder = _make_cache(cache)
        sweep(shared_folder)
    with disk_errors(cache), work_folder(shared_folder) as work:
        yield Workspace(cache=shared_folder, work=work, run_id=work.name)


@contextlib.contextmanager
def work_folder(shared_folder: Path, *, is_alone: bool = False) -> Iterator[Path]:
    """Make a work folder that is gone when the block ends; if we are killed, it is swept.

    The caller tells whether it is alone at the cache; otherwise this waits for a process that is.
    """
    work = shared_folder / "work" / f"run-{uuid.uuid4().hex[:12]}"
    lock = _run_lock(shared_folder, work.name)
    turn = contextlib.nullcontext() if is_alone else FileLock(_lock_path(shared_folder, _ALONE))
    try:
        lock.acquire()  # before the folder exists, or a sweep might take it for a dead run's
        with turn:  # the folder tells `alone` that a run has begun
            work.mkdir()
        yield work
    finally:
        with uninterrupted():
            remove(work)
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Protect a cleanup from all signals: see kbuild.cli.boundary."""
    _cleanups.append(None)
    try:
        yield
    finally:
        _cleanups.pop()


def is_cleaning_up() -> bool:
    """Return whether a cleanup is running that no signal may interrupt."""
    return bool(_cleanups)


@contextlib.contextmanager
def alone(cache: Path) -> Iterator[Path]:
    """Use the cache exclusively, and return its content; new runs wait.

    Raises CacheInUse, NotACache, UnsafeCache, NotWritable or DiskFull.
    """
    with disk_errors(cache):
        shared_folder = _make_cache(cache)
        try:
            lock = FileLock(_lock_path(shared_folder, _ALONE)).acquire(blocking=False)
        except Timeout:
            raise CacheInUse(path=cache) from None
        with lock:
            sweep(shared_folder)
            if any(_work_folders(shared_folder)):
                raise CacheInUse(path=cache)
            yield shared_folder


def why_refused(cache: Path) -> KbuildError | None:
    """Return the error with which a run would refuse this cache, or None if it would use it."""
    try:
        with disk_errors(cache):
            _check_cache(cache)
    except KbuildError as error:
        return error
    return None


def sweep(cache: Path) -> None:
    """Remove the work folders of dead runs."""
    for work in _work_folders(cache):
        if not is_alive(cache, work.name):
            remove(work)
            Path(_run_lock(cache, work.name).lock_file).unlink(missing_ok=True)


def is_alive(cache: Path, run_id: str) -> bool:
    """Return whether the run with this id still holds its lock."""
    try:
        with _run_lock(cache, run_id).acquire(blocking=False):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def shared(workspace: Workspace, name: str) -> Iterator[None]:
    """Hold the lock of something shared; waits until other runs release it."""
    with FileLock(_lock_path(workspace.cache, name)):
        yield


@contextlib.contextmanager
def make_then_move(target: Path) -> Iterator[Path]:
    """Create a folder next to ``target`` that becomes ``target`` when the block succeeds.

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
    """Tell whether a name is one that ``beside`` gives, for whatever target."""
    return re.fullmatch(rf"\..+\.{_BESIDE}", name, re.DOTALL) is not None


def recover(target: Path) -> None:
    """Clean up next to ``target`` after a killed run; the caller holds the lock of ``target``.

    What the run was about to replace is restored. Everything else that it left is removed.
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
    """Exchange two folders atomically; False if the file system or the C library cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    return rename is not None and rename(*names, _RENAME_EXCHANGE) == 0


def _make_cache(cache: Path) -> Path:
    """Create the missing parts of a cache, and return its content.

    Raises NotACache if kbuild did not make it, and UnsafeCache if others can write to it.
    """
    _check_cache(cache)
    shared_folder = content(cache)
    root = shared_folder.parent
    missing = [parent for parent in reversed(root.parents) if not parent.exists()]
    folders = (shared_folder, *(shared_folder / name for name in _FOLDERS))
    try:
        for path in (*missing, root):  # with parents=True, only the last one would get the mode
            path.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(_read_tag(root)):
            _write_tag(root)
        for path in folders:
            path.mkdir(mode=0o700, exist_ok=True)
    except (FileNotFoundError, FileExistsError) as error:  # below /proc, or below a file
        raise NotWritable(path=error.filename, reason=error.strerror) from error
    _check_cache(cache)
    return shared_folder


def _check_cache(cache: Path) -> None:
    """Raise NotACache or UnsafeCache unless the existing parts of a cache can be used."""
    shared_folder = content(cache)
    root = shared_folder.parent
    if root.exists() and not root.is_dir():
        raise NotWritable(path=cache, reason=os.strerror(errno.ENOTDIR))
    for path, status in _path_parts(cache):
        # In a folder with the sticky bit, such as /tmp, nobody can replace files of other users.
        if (reason := _why_unsafe(status, sticky_is_safe=True)) is not None:
            raise UnsafeCache(path=path, reason=reason, command=f"chmod go-w {path}")
    if not root.exists():
        return
    names = {entry.name for entry in root.iterdir()}
    tag = _read_tag(root)
    is_begun = tag is not None and _TAG.startswith(tag) and names <= {_TAG_NAME}
    if not (is_begun or _is_ours(tag)):
        if {"locks", "work"} <= names <= {*_FOLDERS, "trees"}:  # these two always existed
            reason = "it has the layout of an earlier kbuild"
            hint = f"name another with --cache-dir, or, if it was a cache: rm -rf {root}"
        else:
            reason = "it is not empty, and it has no CACHEDIR.TAG of kbuild"
            hint = "name a new or an empty folder with --cache-dir"
        raise NotACache(path=root, reason=reason, hint=hint)
    for path in (shared_folder, *(shared_folder / name for name in _FOLDERS)):
        if not os.path.lexists(path):
            continue
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            hint = "delete it, and kbuild makes the folder again"
            raise NotACache(path=path, reason="it is a link or a file, not a folder", hint=hint)
        if (reason := _why_unsafe(status, sticky_is_safe=False)) is not None:
            raise UnsafeCache(path=path, reason=reason, command=f"chmod -R go-w {root}")


def _path_parts(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each existing folder and link that is part of resolving ``path``."""
    here, names, links = Path("/"), [*reversed(path.absolute().parts[1:])], 0
    yield here, here.lstat()
    while names:
        name = names.pop()
        step = here.parent if name == ".." else here / name
        try:
            status = step.lstat()
        except FileNotFoundError:
            here = step
            continue
        yield step, status
        if not stat.S_ISLNK(status.st_mode):
            here = step
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = step.readlink()
        if target.is_absolute():
            here = Path("/")
        names += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def _why_unsafe(status: os.stat_result, *, sticky_is_safe: bool) -> str | None:
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to another user, whose id is {status.st_uid}"
    is_link = stat.S_ISLNK(status.st_mode)  # a link has no mode of its own
    is_safe = is_link or (sticky_is_safe and status.st_mode & stat.S_ISVTX)
    if status.st_mode & 0o022 and not is_safe:
        return f"others can write to it, its mode is {stat.S_IMODE(status.st_mode):04o}"
    return None


def _read_tag(root: Path) -> bytes | None:
    """Return the content of a tag: empty if there is none, None if it cannot be read."""
    tag = root / _TAG_NAME
    try:
        return None if tag.is_symlink() else read_file(tag, _TAG_LIMIT)
    except FileNotFoundError:
        return b""
    except OSError:
        return None


def _is_ours(tag: bytes | None) -> bool:
    return tag is not None and tag.startswith(_MARK)


def _write_tag(root: Path) -> None:
    # Two runs may do this at the same time: neither truncates, and both write the same bytes.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(root / _TAG_NAME, flags, 0o644), "wb") as file:
        file.write(_TAG)


def _work_folders(cache: Path) -> list[Path]:
    return [path for path in (cache / "work").iterdir() if _RUN.fullmatch(path.name)]


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors about a full or read-only disk in the block into kbuild's own errors."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            # For a copy or a rename, the second name is the file to write.
            raise DiskFull(path=error.filename2 or error.filename or path) from error
        if error.errno in _REFUSED:
            place = error.filename or path
            raise NotWritable(path=place, reason=os.strerror(error.errno)) from error
        if _is_about_current_folder(error):
            raise NotWritable(path="the current folder", reason="it was removed") from error
        if error.errno == errno.ENOENT and error.filename is None:  # from tempfile
            raise NotWritable(path="the temporary folder", reason=error.strerror) from error
        raise


def _is_about_current_folder(error: OSError) -> bool:
    if error.errno != errno.ENOENT or error.filename is not None:
        return False
    try:
        os.getcwd()  # noqa: PTH109  # Path.cwd is the same
    except FileNotFoundError:
        return True
    return False


def remove(path: Path) -> None:
    """Remove a folder or file if it exists, with read-only folders inside it."""

    def unlock(function: object, name: str, _error: object) -> None:
        if Path(name) != path:  # do not change the mode of the folder above ``path``
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
            # Folders can be nested deeper than Python can follow, but not deeper than rm can.
            subprocess.run(["rm", "-rf", "--", path.absolute()], check=False, capture_output=True)
            if path.exists():
                raise
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the sha256 of a regular file as 64 hex digits; raises OSError."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key(text: str) -> str:
    """Return a short file name for ``text``."""
    # Bytes that the locale cannot decode are surrogates; this gives the same bytes in every locale.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _lock_path(cache: Path, name: str) -> Path:
    return cache / "locks" / f"{name}.lock"


def _run_lock(cache: Path, run_id: str) -> FileLock:
    return FileLock(_lock_path(cache, run_id))
