"""Write the files of a run: all of them or none, with what they replace kept.

Below the output, ``.kbuild-pki`` holds the lock, the journal of a run that replaces files, and in
``generations`` one directory for each run with the files that it replaced. Keys of CAs in another
directory are kept in the same way there. New files are written beside their places. The journal
lists them once all are complete and what they replace is kept; then each is moved to its place, and
what is to be removed is removed. A run that was killed before has changed nothing, and the next one
removes what it left. After that the next one finishes the moves.
"""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kbuild.base.disk import beside, disk_errors, is_beside, remove
from kbuild.base.files import read_file, reason_of
from kbuild.base.values import compact
from kbuild.base.workspace import uninterrupted
from kbuild.certs.api import EARLIER
from kbuild.pki.errors import BadCertificateFile, PkiBusy

PRIVATE, PUBLIC = 0o600, 0o644
MANIFEST = "kbuild-pki.json"
_JOURNAL, _LOCK, _GENERATIONS, _PART = "journal.json", "lock", "generations", ".part"
_MAX_FILE = 1 << 20  # bytes
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


@contextlib.contextmanager
def locked(output: Path, others: Collection[Path] = ()) -> Iterator[bool]:
    """Hold the lock of an output, and finish or remove what a killed run has left there.

    ``others`` are more directories in which it may have left something. Yields whether such a run
    was finished. Raises PkiBusy, NotWritable or DiskFull.
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
    holds the lock. Raises NotWritable or DiskFull, and then no file has changed.
    """
    moves: list[tuple[Path, Path]] = []
    wanted = [
        replace(each, path=_real(each.path)) if each.content is not None else each for each in files
    ]
    removed = [each.path for each in wanted if each.content is None]
    roots = [*others, output]
    with disk_errors(output):
        try:
            for file in wanted:
                if file.content is not None:
                    file.path.parent.mkdir(parents=True, exist_ok=True)
                    moves.append((beside(file.path, "new"), file.path))
                    _write(moves[-1][0], file.path, file.content, file.mode)
            for staged, _ in moves:  # after all are written, which is quicker
                _sync(staged)
            _keep(roots, [file.path for file in wanted if file.keeps], now)
            _write_journal(output, moves, removed)
        except BaseException:
            with uninterrupted():
                for staged, _ in moves:
                    staged.unlink(missing_ok=True)
                for root in roots:
                    _remove_parts(root)
            raise
        with uninterrupted():
            _finish(output, moves, removed)


def content_of(path: Path) -> bytes:
    """Return the content of a file, empty if there is none; raises BadCertificateFile."""
    try:
        return read_file(path, _MAX_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise BadCertificateFile(path=path, reason=reason_of(error)) from error


def is_unfinished(output: Path) -> bool:
    """Tell whether a run was killed while it replaced files."""
    return (output / EARLIER / _JOURNAL).exists()


def _real(path: Path) -> Path:
    """Return where a link leads: the file is replaced, and the link stays."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _write(staged: Path, target: Path, content: bytes, mode: int) -> None:
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


def _keep(roots: list[Path], targets: Iterable[Path], now: datetime) -> None:
    """Link what is to be replaced into new generations, which appear complete.

    The nearest root keeps a file, and the last one what is in none of them.
    """
    found: dict[Path, list[Path]] = {}
    for path in targets:
        if path.exists():
            around = [each for each in roots if path.is_relative_to(each)]
            root = max(around, key=lambda each: len(each.parts), default=roots[-1])
            found.setdefault(root, []).append(path)
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


def _write_journal(output: Path, moves: list[tuple[Path, Path]], removed: list[Path]) -> None:
    """Write what is to be moved where; what is to be removed is moved to no place."""
    document = [[str(staged.absolute()), str(target.absolute())] for staged, target in moves]
    document += [[str(path.absolute()), ""] for path in removed]
    journal = output / EARLIER / _JOURNAL
    new = journal.with_suffix(_PART)
    with new.open("w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(journal)
    _sync(journal.parent)


def _finish(output: Path, moves: Iterable[tuple[Path, Path]], removed: Iterable[Path]) -> None:
    folders = set()
    for staged, target in moves:
        with contextlib.suppress(FileNotFoundError):  # moved before a kill
            staged.replace(target)
        folders.add(target.parent)
    for path in removed:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in folders:
        _sync(folder)
    (output / EARLIER / _JOURNAL).unlink()


def _recover(output: Path, others: Collection[Path]) -> bool:
    journal = output / EARLIER / _JOURNAL
    if journal.exists():
        moves = json.loads(read_file(journal, _MAX_JOURNAL))
        _finish(
            output,
            [(Path(staged), Path(target)) for staged, target in moves if target],
            [Path(path) for path, target in moves if not target],
        )
        return True
    for root in (output, *others):
        _remove_parts(root)
    folders = [Path(folder) for folder, _, _ in os.walk(output)]
    for folder in (*folders, *(each for each in others if each.is_dir())):
        if EARLIER in folder.parts:
            continue
        for path in folder.iterdir():
            if is_beside(path.name):
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
