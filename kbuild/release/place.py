"""Put a release in its place: locks, what may be replaced, and how it appears.

An output that does not exist appears by one rename, and an earlier release is exchanged for the new
one. An empty directory that exists is filled instead: it may be the current directory or a mount
point, which nothing can be renamed to. The files are made in a directory inside it and moved up one
by one, the provenance last, so that what a killed run leaves is no release to ``kbuild check``, and
the next run can tell which files are its own.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from kbuild.base.disk import (
    beside,
    disk_errors,
    is_beside,
    make_then_move,
    recover,
    remove,
    resolved,
)
from kbuild.base.errors import BadSetting, NotWritable, OutputExists, OutputNotReplaceable
from kbuild.base.files import read_file, reason_of
from kbuild.base.workspace import Workspace
from kbuild.release.errors import BadProvenance, OutputBusy
from kbuild.release.files import MAX_DOCUMENT
from kbuild.release.names import PROVENANCE, SIGNATURES, SUM_SUFFIX, SUMS
from kbuild.release.provenance import read_provenance
from kbuild.release.recorded import artifacts
from kbuild.release.sums import read_sums

_FILLING = ".kbuild-new-"  # with 12 hex digits: the directory inside an output that is being filled
_MOUNT_ID = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)
_NO_FILE_BESIDE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
_TRIES = 100  # to lock a file that another run is removing


@contextlib.contextmanager
def locked(folder: Path, workspace: Workspace) -> Iterator[None]:
    """Lock an output for this run, under any name and with any cache.

    What a killed run left is cleaned up, and a release that it was about to replace is restored.

    Raises BadSetting for an output that is in the cache or holds it, OutputBusy or NotWritable.
    """
    place = resolved(folder)
    with disk_errors(folder), contextlib.ExitStack() as locks:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise NotWritable(path=folder, reason="it is a link or a file, not a directory")
        _demand_apart(folder, place, workspace)
        if place.is_dir():
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            locks.callback(os.close, descriptor)
            _lock(descriptor, folder)
        try:
            _lock_beside(place, folder, locks)
        except OSError as error:
            if error.errno not in _NO_FILE_BESIDE:
                raise
            # Nothing can be renamed there either, but an existing directory can be filled.
            if not place.is_dir():
                raise NotWritable(path=folder, reason=reason_of(error)) from error
        else:
            recover(place)
        if place.is_dir():
            _take_back(place)
        yield


def demand_writable(folder: Path) -> None:
    """Raise NotWritable or DiskFull unless a release can be made in or beside this directory."""
    place = resolved(folder)
    probe = _inside(place) if _is_empty(place) else beside(place, "new")
    with disk_errors(place.parent):  # an attempt: permissions do not apply to root
        probe.mkdir()
        probe.rmdir()


def demand_replaceable(folder: Path) -> None:
    """Raise OutputNotReplaceable unless the directory contains a release and nothing else.

    Its files are those in SHA256SUMS and the provenance, and their ``.sha256`` files. The current
    directory, the home directory, a directory above one of these, and mount points are refused.
    """
    place = resolved(folder)
    if (reason := _why_immovable(place) or why_no_release(place)) is not None:
        raise OutputNotReplaceable(path=folder, reason=reason)


@contextlib.contextmanager
def new_release(folder: Path, *, force: bool) -> Iterator[Path]:
    """Create a directory that becomes the release when the block succeeds.

    The caller has locked the output. Files that appeared there in the meantime are not replaced.

    Raises OutputExists, OutputNotReplaceable, NotWritable or DiskFull.
    """
    place = resolved(folder)
    if _is_empty(place):
        with disk_errors(folder), _filled(place) as made:
            yield made
        return
    with make_then_move(place) as made:
        yield made
        if os.path.lexists(place) and not _is_empty(place):
            if not force:
                raise OutputExists(path=folder)
            demand_replaceable(folder)


def why_no_release(folder: Path) -> str | None:
    """Return why a directory is not exactly a release, by its file names, or None."""
    if not os.path.lexists(folder / PROVENANCE):
        return f"it has no {PROVENANCE}"
    try:
        names = _names_of(folder)
        sums = read_sums(read_file(folder / SUMS["sha256"], MAX_DOCUMENT)).keys()
    except BadProvenance as error:
        return error.happened
    except OSError as error:
        return f"{SUMS['sha256']} cannot be read: {error.strerror}"
    except ValueError as error:
        return f"{SUMS['sha256']} cannot be read: {error}"
    beside_them = {*SUMS.values(), *(f"{name}{SUM_SUFFIX}" for name in sums)}
    if sums | beside_them != names:
        return f"{SUMS['sha256']} and {PROVENANCE} name different files"
    strays = _strays(folder, names | {*SIGNATURES})
    wrong = [f"it contains {name}, which does not belong to a release" for name in strays]
    wrong += [f"it lacks {name}" for name in sorted(names) if not (folder / name).exists()]
    return wrong[0] if wrong else None


def _demand_apart(folder: Path, place: Path, workspace: Workspace) -> None:
    cache = workspace.cache.parent
    if workspace.work in place.parents:
        return  # the output of a rebuild
    above, above_cache = _identities(place), _identities(cache)
    if above_cache[0] in above:
        reason = f"it is inside the cache {cache}"
    elif above[0] in above_cache:
        reason = f"the cache {cache} is inside it"
    else:
        return
    hint = "give another --output or another --cache-dir"
    raise BadSetting(name="--output", value=str(folder), reason=reason, hint=hint)


def _identities(path: Path) -> list[tuple[int, int] | None]:
    """Return device and inode of a directory and its parents; None if one does not exist."""
    return [_identity(each) for each in (path, *path.parents)]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:  # another run may have just removed its empty parent directories
        return None
    return status.st_dev, status.st_ino


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputBusy(path=folder) from None
    except OSError as error:  # some network file systems have no locks
        reason = f"it cannot be locked: {error.strerror}"
        raise NotWritable(path=folder, reason=reason) from error


def _lock_beside(place: Path, folder: Path, locks: contextlib.ExitStack) -> None:
    """Make and lock a file beside the output; it and its new parents are removed in the end."""
    path = place.with_name(f".{place.name}.kbuild.lock")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for _ in range(_TRIES):
        try:
            for parent in reversed(path.parents):
                if not parent.exists():
                    parent.mkdir(exist_ok=True)
                    locks.callback(_remove_empty, parent)
            descriptor = os.open(path, flags, 0o600)
        except (FileNotFoundError, FileExistsError):
            continue  # another run has just removed a parent, or nothing can be made below /proc
        locks.callback(os.close, descriptor)
        _lock(descriptor, folder)
        status = os.fstat(descriptor)
        if _identity(path) == (status.st_dev, status.st_ino):  # else it was removed
            locks.callback(path.unlink, missing_ok=True)
            return
    raise NotWritable(path=place.parent, reason="no directory can be made in it")


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def _filled(place: Path) -> Iterator[Path]:
    """Create a directory inside an empty one; at the end its entries move up, the provenance last.

    It exists until all entries have moved: see ``_take_back``.
    """
    made, moved = _inside(place), []
    made.mkdir()
    try:
        yield made
        if {entry.name for entry in place.iterdir()} != {made.name}:
            raise OutputExists(path=place)
        last = (SUMS["sha256"], PROVENANCE)
        for entry in sorted(made.iterdir(), key=lambda e: (e.name in last, e.name == PROVENANCE)):
            moved.append(place / entry.name)
            entry.rename(moved[-1])
        made.rmdir()
    except BaseException:
        for path in moved:
            remove(path)
        remove(made)
        raise
    with contextlib.suppress(PermissionError):  # kbuild check would refuse it
        place.chmod(place.stat().st_mode & ~0o022)


def is_unfinished(name: str) -> bool:
    """Return whether a name is that of an unfinished release, of a running or killed run."""
    return is_beside(name) or _names_filling(name)


def _take_back(place: Path) -> None:
    """Remove what a killed run made in a directory, if that is certain."""
    for made in [entry for entry in place.iterdir() if _is_filling(entry)]:
        beside_it = {entry.name for entry in place.iterdir()} - {made.name}
        if beside_it and any(made.iterdir()):
            # The provenance moves last, so it names the other files.
            try:
                names = _names_of(made)
            except BadProvenance:
                continue
            if {*_strays(place, names)} != {made.name}:
                continue
            for name in beside_it:
                remove(place / name)
        remove(made)  # if it is empty, all entries have moved


def _inside(place: Path) -> Path:
    return place / f"{_FILLING}{uuid.uuid4().hex[:12]}"


def _is_filling(path: Path) -> bool:
    return _names_filling(path.name) and path.is_dir() and not path.is_symlink()


def _names_filling(name: str) -> bool:
    return re.fullmatch(rf"{re.escape(_FILLING)}[0-9a-f]{{12}}", name) is not None


def _is_empty(place: Path) -> bool:
    return place.is_dir() and not any(place.iterdir())


def _why_immovable(place: Path) -> str | None:
    for what, there in (("the current directory", "."), ("your home directory", "~")):
        with contextlib.suppress(OSError, RuntimeError):  # there may be none
            if _identities(place)[0] in _identities(Path(there).expanduser().resolve()):
                return f"it is {what}, or holds it"
    if _mount_id(place) != _mount_id(place.parent):
        return "it is a mount point"
    return None


def _mount_id(folder: Path) -> str | None:
    """Return the mount of a directory; device numbers do not distinguish bind mounts."""
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        found = _MOUNT_ID.search(Path(f"/proc/self/fdinfo/{descriptor}").read_text())
    finally:
        os.close(descriptor)
    return found and found[1]


def _names_of(folder: Path) -> set[str]:
    """Return the names of all files of a release except signatures; raises BadProvenance."""
    listed = {*artifacts(read_provenance(folder / PROVENANCE).asked), PROVENANCE}
    return {*listed, *SUMS.values(), *(f"{name}{SUM_SUFFIX}" for name in listed)}


def _strays(folder: Path, names: set[str]) -> Iterator[str]:
    """Yield the entries that are neither files with these names nor their directories."""
    folders = {parent for name in names for parent in PurePosixPath(name).parents}
    for parent in sorted(folders):
        if not (folder / parent).is_dir():
            continue
        for entry in sorted((folder / parent).iterdir()):
            name, mode = parent / entry.name, entry.lstat().st_mode
            is_file = stat.S_ISREG(mode) and str(name) in names
            if not is_file and not (stat.S_ISDIR(mode) and name in folders):
                yield str(name)
