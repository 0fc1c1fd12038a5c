"""Write the files of a run: all of them or none, with what they replace kept.

Below the output, ``.kbuild-pki`` holds the lock, the journal of a run that replaces files, and in
``generations`` one directory for each run with the files that it replaced. Keys of CAs in another
directory are kept in the same way there. New files are written beside their places. The journal
lists them once all are complete and what they replace is kept; then each is moved to its place, and
what is to be removed is removed. A run that was killed before has changed nothing, and the next one
removes what it left. After that the next one finishes the moves, also where the output was moved or
copied meanwhile: the journal names files as they are below the output and the directories of keys.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kbuild.base.disk import beside, disk_errors, is_beside, remove
from kbuild.base.files import BROKEN, read_file, reason_of, sha256
from kbuild.base.strictjson import load_json
from kbuild.base.values import compact
from kbuild.base.workspace import uninterrupted
from kbuild.certs.api import EARLIER
from kbuild.pki.errors import BadCertificateFile, BadPkiFile, NotReplaceable, PkiBusy

PRIVATE, PUBLIC = 0o600, 0o644
MANIFEST = "kbuild-pki.json"
_JOURNAL, _LOCK, _GENERATIONS, _PART = "journal.json", "lock", "generations", ".part"
_WIDTH = 4  # of an entry of the journal
_MAX_FILE = 1 << 20  # bytes
_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS of linux/fs.h, where a long has 64 bits
_FIXED = 0x10 | 0x20  # FS_IMMUTABLE_FL and FS_APPEND_FL
_OCTAL = re.compile(r"\\([0-7]{3})")  # of blanks and the like in mountinfo
_MAX_JOURNAL = 64 << 20  # bytes; 10,000 nodes have a tenth


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to be written, or to be removed if ``content`` is None.

    ``keeps`` tells whether what it replaces is kept, which also stands elsewhere otherwise.
    """

    path: Path
    content: bytes | None
    mode: int
    keeps: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A file to which another is moved, or which is removed if ``digest`` is empty.

    ``place`` is a link if the file that it leads to is replaced. ``staged`` is the name of the new
    file beside its place, and ``digest`` its sha256.
    """

    place: Path
    staged: str = ""
    digest: str = ""

    @property
    def target(self) -> Path:
        """Return the file that changes: where a link leads, and the link stays."""
        is_link = self.digest and self.place.is_symlink()
        return Path(os.path.realpath(self.place)) if is_link else self.place

    def move(self) -> None:
        """Move the new file to its place; raises OSError."""
        target = self.target
        target.with_name(self.staged).replace(target)


@contextlib.contextmanager
def locked(output: Path, others: Collection[Path] = ()) -> Iterator[bool]:
    """Hold the lock of an output, and finish or remove what a killed run has left there.

    ``others`` are more directories in which it may have left something. Yields whether such a run
    was finished. Raises PkiBusy, NotWritable or DiskFull, and BadPkiFile if it cannot be finished.
    """
    with disk_errors(output):
        state = output / EARLIER
        output.mkdir(parents=True, exist_ok=True)
        state.mkdir(mode=0o700, exist_ok=True)
        try:
            lock = FileLock(state / _LOCK).acquire(blocking=False)
        except Timeout:
            raise PkiBusy(path=output) from None
        with lock:
            yield _recover(output, others)


def commit(output: Path, files: Iterable[File], now: datetime, others: Iterable[Path] = ()) -> None:
    """Write and remove files, and keep what was there.

    What is in the directories ``others`` is kept there, and all else in the output. The caller
    holds the lock. Raises NotReplaceable, NotWritable or DiskFull, and then no file has changed.
    """
    wanted = list(files)
    changes: list[_Change] = []
    roots = _roots(output, others)
    with disk_errors(output):
        mounted = mount_points()
        try:
            for file in wanted:
                change = _change(file)
                _demand_replaceable(change.target, mounted)
                if file.content is not None:
                    change.target.parent.mkdir(parents=True, exist_ok=True)
                changes.append(change)
                if file.content is not None:
                    _write(change, file.content, file.mode)
            staged = [each.target.with_name(each.staged) for each in changes if each.digest]
            for path in staged:  # after all are written, which is quicker
                _sync(path)
            kept = [each.target for each, file in zip(changes, wanted, strict=True) if file.keeps]
            _keep(roots, kept, now)
            _write_journal(roots, changes)
        except BaseException:
            with uninterrupted():
                _take_back(roots, changes)
            raise
        with uninterrupted():
            _finish(output, changes, [each for each in changes if each.digest])


def content_of(path: Path) -> bytes:
    """Return the content of a file, empty if there is none; raises BadCertificateFile."""
    try:
        return read_file(path, _MAX_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise BadCertificateFile(path=path, reason=reason_of(error)) from error


def is_unfinished(output: Path) -> bool | None:
    """Tell whether a run was killed while it replaced files; None if the journal is not readable.

    Who may read the certificates need not be allowed to read what kbuild keeps.
    """
    try:
        (output / EARLIER / _JOURNAL).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return None
    return True


def _roots(output: Path, others: Iterable[Path]) -> list[Path]:
    """Return the directories that the journal knows by their numbers."""
    return [output, *sorted(others)]


def _nearest(roots: list[Path], path: Path) -> int:
    """Return the number of the nearest root of a file, and that of the output if it has none."""
    around = [number for number, root in enumerate(roots) if path.is_relative_to(root)]
    return max(around, key=lambda number: len(roots[number].parts), default=0)


def _change(file: File) -> _Change:
    if file.content is None:
        return _Change(place=file.path)
    digest = hashlib.sha256(file.content).hexdigest()
    change = _Change(place=file.path, digest=digest)
    return replace(change, staged=beside(change.target, "new").name)


def _write(change: _Change, content: bytes, mode: int) -> None:
    target = change.target
    staged = target.with_name(change.staged)
    with contextlib.suppress(FileNotFoundError):
        before = target.stat()
        if mode == PRIVATE:  # a group that may read a key, such as that of etcd, still may
            mode |= stat.S_IMODE(before.st_mode) & stat.S_IRGRP
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        with contextlib.suppress(FileNotFoundError):
            before = target.stat()
            now = os.fstat(descriptor)
            if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
                os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, mode)


def _take_back(roots: list[Path], changes: list[_Change]) -> None:
    """Remove what a run that failed has written; the journal first, which names the rest."""
    (roots[0] / EARLIER / _JOURNAL).unlink(missing_ok=True)
    for each in changes:
        if each.digest:
            each.target.with_name(each.staged).unlink(missing_ok=True)
    for root in roots:
        _remove_parts(root)


def _keep(roots: list[Path], targets: Iterable[Path], now: datetime) -> None:
    """Link what is to be replaced into new generations, which appear complete.

    The nearest root keeps a file, and the first one what is in none of them.
    """
    found: dict[Path, list[Path]] = {}
    for path in targets:
        if path.exists():
            found.setdefault(roots[_nearest(roots, path)], []).append(path)
    for root, present in found.items():
        _keep_in(root, present, now)


def _keep_in(root: Path, present: list[Path], now: datetime) -> None:
    generations = root / EARLIER / _GENERATIONS
    generations.parent.mkdir(mode=0o700, exist_ok=True)
    generations.mkdir(mode=0o700, exist_ok=True)
    name, number = compact(now), 1
    while (generations / name).exists():
        number += 1
        name = f"{compact(now)}-{number}"
    part = generations / f"{name}{_PART}"
    for path in present:
        inside = path.is_relative_to(root)
        kept = part / (path.relative_to(root) if inside else Path("elsewhere", *path.parts[1:]))
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            kept.hardlink_to(path)
        except OSError:  # another file system, or one without hard links
            shutil.copy2(path, kept)
    part.rename(generations / name)


def _write_journal(roots: list[Path], changes: Iterable[_Change]) -> None:
    """Write what changes: the number of a root, the place below it, the new file, its sha256."""
    document = []
    for each in changes:
        number = _nearest(roots, each.place)
        root, place = roots[number], each.place
        is_below = place.is_relative_to(root)
        name = str(place.relative_to(root)) if is_below else os.path.relpath(place, root)
        document.append([number, name, each.staged, each.digest])
    journal = roots[0] / EARLIER / _JOURNAL
    new = journal.with_suffix(_PART)
    with new.open("w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(journal)
    _sync(journal.parent)


def _read_journal(output: Path, others: Iterable[Path]) -> list[_Change]:
    """Return what a killed run was to change; raises BadPkiFile."""
    journal = output / EARLIER / _JOURNAL
    roots = dict(enumerate(_roots(output, others)))
    try:
        document = load_json(read_file(journal, _MAX_JOURNAL))
        if not isinstance(document, list):
            message = "it is not a list"
            raise TypeError(message)
        return [_entry(roots, each) for each in document]
    except (*BROKEN, OSError) as error:
        raise _unusable(output, reason_of(error)) from error


def _entry(roots: dict[int, Path], entry: list[Any]) -> _Change:
    number, place, staged, digest = entry if len(entry) == _WIDTH else (None, "", "", None)
    is_staged = "/" not in staged and is_beside(staged)
    if "\0" in place + staged or not isinstance(digest, str) or is_staged is not bool(digest):
        message = "a value in it is not one that kbuild writes"
        raise ValueError(message)
    if number not in roots:
        message = "it names a directory of keys, and ca-keys of the plan does not"
        raise ValueError(message)
    path = roots[number] / place
    if place.startswith(".."):  # as relpath() means it, which follows no links
        path = Path(os.path.abspath(path))  # noqa: PTH100
    return _Change(place=path, staged=staged, digest=digest)


def _unusable(output: Path, reason: str) -> BadPkiFile:
    hint = (
        "an earlier run was killed while it replaced files, and kbuild cannot finish it. Put the"
        f" missing files back if you moved any. Else copy {output}, move the journal elsewhere, and"
        f" run `kbuild pki plan`: {EARLIER}/{_GENERATIONS} has the files that were replaced, and"
        " those named .kbuild-new- are the new ones, which the next run removes"
    )
    return BadPkiFile(path=output / EARLIER / _JOURNAL, reason=reason, hint=hint)


def _finish(output: Path, changes: Iterable[_Change], moves: Iterable[_Change]) -> None:
    """Make the moves, which are those of the changes that are still to be made, and remove."""
    for each in moves:
        with _telling(each.target):
            each.move()
    folders = set()
    for each in changes:
        if not each.digest:
            with _telling(each.place):
                each.place.unlink(missing_ok=True)
        folders.add(each.target.parent)
    for folder in folders:
        if folder.is_dir():  # else there was nothing to be removed
            _sync(folder)
    (output / EARLIER / _JOURNAL).unlink()


def _demand_replaceable(path: Path, mounted: Collection[str]) -> None:
    """Check what would stop a run between two files; raises NotReplaceable."""
    reason = ""
    if os.path.abspath(path) in mounted:  # noqa: PTH100  # follows no links
        reason = "it is a mount point"
    elif _is_fixed(path):
        reason = "it is immutable, as `lsattr` shows"
    if reason:
        raise NotReplaceable(path=path, reason=reason, changed="nothing was changed")


def _is_fixed(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8))
    except OSError:  # a file system without such attributes
        return False
    finally:
        os.close(descriptor)
    return bool(int.from_bytes(found[:4], sys.byteorder) & _FIXED)


def mount_points() -> set[str]:
    """Return where something is mounted, empty if that cannot be told."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return set()
    return {_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), each.split(" ")[4]) for each in lines}


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Tell which file stopped a run that had begun to replace files."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EPERM):
            raise
        changed = "the next `kbuild pki issue` finishes what this run began"
        reason = reason_of(error)
        raise NotReplaceable(path=path, reason=reason, changed=changed) from error


def _to_move(output: Path, changes: Iterable[_Change]) -> list[_Change]:
    """Return which moves are still to be made, after checking that each one can be.

    Raises BadPkiFile.
    """
    found = []
    for each in changes:
        target = each.target
        if not each.digest:
            continue
        if _is(output, target.with_name(each.staged), each.digest):
            found.append(each)
        elif not _is(output, target, each.digest):
            raise _unusable(output, f"neither {target} nor {each.staged} is as it was written")
    return found


def _is(output: Path, path: Path, digest: str) -> bool:
    try:
        return sha256(path) == digest
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unusable(output, f"{path}: {reason_of(error)}") from error


def _recover(output: Path, others: Collection[Path]) -> bool:
    if is_unfinished(output):
        changes = _read_journal(output, others)
        _finish(output, changes, _to_move(output, changes))
        return True
    for root in (output, *others):
        _remove_parts(root)
    folders = [Path(folder) for folder, _, _ in os.walk(output)]
    for folder in (*folders, *(each for each in others if each.is_dir())):
        if EARLIER in folder.parts:
            continue
        for path in folder.iterdir():
            if is_beside(path.name) and path.is_file():
                path.unlink(missing_ok=True)
    return False


def _remove_parts(output: Path) -> None:
    state = output / EARLIER
    (state / _JOURNAL).with_suffix(_PART).unlink(missing_ok=True)
    for part in (state / _GENERATIONS).glob(f"*{_PART}"):
        remove(part)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
