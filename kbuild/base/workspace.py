"""The cache, the work directories of runs in it, and their locks.

A cache (by default ``~/.cache/kbuild``) is a directory that kbuild made:

    CACHEDIR.TAG  marks it for kbuild and backup programs
    v1/           the content, in the layout of this kbuild version
      git/        object stores, one per source
      go/         unpacked Go toolchains
      gocache/    the Go build cache of the local builder
      built/      binaries of earlier runs
      logs/       the output of the last compile of each tag
      volumes/    one empty file for each Go build cache in the engine; its time is the last use
      locks/      one file for each lock
      work/       one directory for each run, removed when the run ends

kbuild removes files from a cache without asking, so it refuses any other directory that is not
empty. ``content`` returns ``v1``; ``Workspace.cache`` is this directory.

A run holds the lock of its work directory. If the run is killed, the kernel releases the lock, and
the next run removes the work directory.

Binaries are built from the cache content, and kept binaries are released. So everybody who can
write to a cache can decide what kbuild releases. Only the user who runs kbuild and root may write
to it: kbuild creates its directories with mode 0700. It refuses a cache that others can write to,
or can replace because they can write to a directory above it.
"""

import contextlib
import errno
import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from kbuild.base.disk import disk_errors, remove, resolved
from kbuild.base.errors import CacheInUse, KbuildError, NotACache, NotWritable, UnsafeCache
from kbuild.base.files import read_file, reason_of

_FOLDERS = ("git", "go", "gocache", "built", "logs", "volumes", "locks", "work")
_CONTENT = "v1"  # another number for another layout
_TAG_NAME = "CACHEDIR.TAG"
# The first line is defined by https://bford.info/cachedir/, the second names the owner. Existing
# caches contain this text, so it cannot change.
_MARK = b"""Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache of kbuild. All of it can be deleted.
"""
_TAG = _MARK + b"# See https://bford.info/cachedir/ for the meaning of this file.\n"
_TAG_LIMIT = 4096
_ALONE = "alone"
_cleanups: list[None] = []
_unfinished: list[None] = []
_delayed: list[None] = []
_RUN = re.compile(r"run-[0-9a-f]{12}", re.ASCII)
_MAX_LINKS = 40  # as many as the kernel follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The directories of one run.

    ``cache`` is the content of the cache, ``work`` belongs to the run. ``run_id`` marks everything
    that belongs to the run, such as containers.
    """

    cache: Path
    work: Path
    run_id: str

    def part(self, name: str) -> "Workspace":
        """Return a copy with a new work directory inside this one."""
        work = self.work / name
        work.mkdir()
        return replace(self, work=work)


def content(cache: Path) -> Path:
    """Return the directory with the content of a cache; ``cache`` is the directory with its tag.

    Raises NotWritable.
    """
    return resolved(cache) / _CONTENT


@contextlib.contextmanager
def open_workspace(cache: Path) -> Iterator[Workspace]:
    """Create a work directory for the block, and remove the work directories of dead runs.

    Raises NotACache, UnsafeCache, NotWritable or DiskFull.
    """
    with disk_errors(cache):
        content_directory = _make_cache(cache)
        sweep(content_directory)
    with disk_errors(cache), work_folder(content_directory) as work:
        yield Workspace(cache=content_directory, work=work, run_id=work.name)


@contextlib.contextmanager
def work_folder(content_directory: Path, *, is_alone: bool = False) -> Iterator[Path]:
    """Make a work directory for the block; ``sweep`` removes it if this run is killed.

    With ``is_alone``, the caller uses the cache exclusively. Otherwise this waits for a process
    that does.
    """
    work = content_directory / "work" / f"run-{uuid.uuid4().hex[:12]}"
    lock = _run_lock(content_directory, work.name)
    turn = contextlib.nullcontext() if is_alone else FileLock(_lock_path(content_directory, _ALONE))
    try:
        lock.acquire()  # before the directory exists, so that no sweep removes it
        with turn:  # the directory shows `alone` that a run has begun
            work.mkdir()
        yield work
    finally:
        with uninterrupted():
            remove(work)
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Protect a cleanup from all signals; see kbuild.cli.boundary."""
    _cleanups.append(None)
    try:
        yield
    finally:
        _cleanups.pop()


@contextlib.contextmanager
def finished() -> Iterator[None]:
    """Finish the block before a signal interrupts the command.

    For requests that a server finishes even if nobody waits for its answer.
    """
    _unfinished.append(None)
    try:
        yield
    finally:
        _unfinished.pop()
        if _delayed and not _unfinished:
            _delayed.clear()
            raise KeyboardInterrupt


def interrupt() -> bool:
    """Interrupt the command now, or when ``finished`` allows it.

    Return False if nothing more can be interrupted.
    """
    if _cleanups or _delayed:
        return False
    if not _unfinished:
        raise KeyboardInterrupt
    _delayed.append(None)
    return True


@contextlib.contextmanager
def alone(cache: Path) -> Iterator[Path]:
    """Use the cache exclusively, and return its content; new runs wait.

    Raises CacheInUse, NotACache, UnsafeCache, NotWritable or DiskFull.
    """
    with disk_errors(cache):
        content_directory = _make_cache(cache)
        try:
            lock = FileLock(_lock_path(content_directory, _ALONE)).acquire(blocking=False)
        except Timeout:
            raise CacheInUse(path=cache) from None
        with lock:
            sweep(content_directory)
            if any(_work_folders(content_directory)):
                raise CacheInUse(path=cache)
            yield content_directory


def why_refused(cache: Path) -> KbuildError | None:
    """Return the error with which a run would refuse this cache, or None."""
    try:
        with disk_errors(cache):
            _check_cache(cache)
    except KbuildError as error:
        return error
    return None


def sweep(cache: Path) -> None:
    """Remove the work directories of dead runs."""
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
    """Hold a lock that all runs with this cache share; waits until others release it."""
    with FileLock(_lock_path(workspace.cache, name)):
        yield


def _make_cache(cache: Path) -> Path:
    """Create the missing parts of a cache, and return its content.

    Raises NotACache if kbuild did not make it, and UnsafeCache if others can write to it.
    """
    _check_cache(cache)
    content_directory = content(cache)
    root = content_directory.parent
    missing = [parent for parent in reversed(root.parents) if not parent.exists()]
    folders = (content_directory, *(content_directory / name for name in _FOLDERS))
    try:
        for path in (*missing, root):  # with parents=True, only the last one would get the mode
            path.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(_read_tag(root)):
            _write_tag(root)
        for path in folders:
            path.mkdir(mode=0o700, exist_ok=True)
    except (FileNotFoundError, FileExistsError) as error:  # below /proc, or below a file
        raise NotWritable(path=error.filename, reason=reason_of(error)) from error
    _check_cache(cache)
    return content_directory


def _check_cache(cache: Path) -> None:
    """Raise NotACache or UnsafeCache unless the existing parts of a cache can be used."""
    content_directory = content(cache)
    root = content_directory.parent
    if root.exists() and not root.is_dir():
        raise NotWritable(path=cache, reason=os.strerror(errno.ENOTDIR))
    for path, status in _path_parts(cache):
        # In a directory with the sticky bit, such as /tmp, nobody can replace files of other users.
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
            hint = f"choose another with --cache-dir, or, if it was a cache: rm -rf {root}"
        else:
            reason = "it is not empty, and has no CACHEDIR.TAG of kbuild"
            hint = "choose a new or an empty directory with --cache-dir"
        raise NotACache(path=root, reason=reason, hint=hint)
    for path in (content_directory, *(content_directory / name for name in _FOLDERS)):
        if not os.path.lexists(path):
            continue
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            hint = "delete it; kbuild makes the directory again"
            raise NotACache(path=path, reason="it is a link or a file, not a directory", hint=hint)
        if (reason := _why_unsafe(status, sticky_is_safe=False)) is not None:
            raise UnsafeCache(path=path, reason=reason, command=f"chmod -R go-w {root}")


def _path_parts(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each existing directory and link on the way to ``path``."""
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
        return f"it belongs to another user, with the id {status.st_uid}"
    is_link = stat.S_ISLNK(status.st_mode)  # a link has no mode of its own
    is_safe = is_link or (sticky_is_safe and status.st_mode & stat.S_ISVTX)
    if status.st_mode & 0o022 and not is_safe:
        return f"others can write to it: its mode is {stat.S_IMODE(status.st_mode):04o}"
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
    # Two runs may do this at the same time: both write the same bytes, and neither truncates.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(root / _TAG_NAME, flags, 0o644), "wb") as file:
        file.write(_TAG)


def _work_folders(cache: Path) -> list[Path]:
    return [path for path in (cache / "work").iterdir() if _RUN.fullmatch(path.name)]


def key(text: str) -> str:
    """Return a short file name for ``text``."""
    # The locale's undecodable bytes are surrogates; surrogateescape restores them in every locale.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _lock_path(cache: Path, name: str) -> Path:
    return cache / "locks" / f"{name}.lock"


def _run_lock(cache: Path, run_id: str) -> FileLock:
    return FileLock(_lock_path(cache, run_id))
