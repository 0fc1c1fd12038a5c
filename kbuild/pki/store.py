"""Write the files of a run: all of them or none, with what they replace kept.

Below the output, ``.kbuild-pki`` holds the lock, the journal of a run that replaces files, and in
``generations`` one directory for each run with the files that it replaced. New files are written
beside their places. The journal lists them once all are complete and what they replace is kept;
then each is moved to its place. A run that was killed before has changed nothing, and the next one
removes what it left. After that the next one finishes the moves.
"""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kbuild.base.disk import beside, disk_errors, is_beside, remove
from kbuild.base.files import read_file
from kbuild.base.values import compact
from kbuild.base.workspace import uninterrupted
from kbuild.certs.api import EARLIER
from kbuild.pki.errors import PkiBusy

PRIVATE, PUBLIC = 0o600, 0o644
MANIFEST = "kbuild-pki.json"
_JOURNAL, _LOCK, _GENERATIONS, _PART = "journal.json", "lock", "generations", ".part"
_MAX_JOURNAL = 64 << 20  # bytes; 10,000 nodes have a tenth


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to be written."""

    path: Path
    content: bytes
    mode: int


@contextlib.contextmanager
def locked(output: Path, others: Iterable[Path] = ()) -> Iterator[bool]:
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


def commit(output: Path, files: Iterable[File], now: datetime) -> Path | None:
    """Write files, and return the directory that keeps what they replace, None if nothing.

    The caller holds the lock. Raises NotWritable or DiskFull, and then no file has changed.
    """
    wanted = [File(path=_real(f.path), content=f.content, mode=f.mode) for f in files]
    moves: list[tuple[Path, Path]] = []
    with disk_errors(output):
        try:
            for file in wanted:
                file.path.parent.mkdir(parents=True, exist_ok=True)
                staged = beside(file.path, "new")
                moves.append((staged, file.path))
                _write(staged, file)
            for staged, _ in moves:  # after all are written, which is quicker
                _sync(staged)
            kept = _keep(output, [file.path for file in wanted], now)
            _write_journal(output, moves)
        except BaseException:
            with uninterrupted():
                for staged, _ in moves:
                    staged.unlink(missing_ok=True)
                _remove_parts(output)
            raise
        with uninterrupted():
            _finish(output, moves)
    return kept


def is_unfinished(output: Path) -> bool:
    """Tell whether a run was killed while it replaced files."""
    return (output / EARLIER / _JOURNAL).exists()


def _real(path: Path) -> Path:
    """Return where a link leads: the file is replaced, and the link stays."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _write(staged: Path, file: File) -> None:
    mode = file.mode
    with contextlib.suppress(FileNotFoundError):
        before = file.path.stat()
        if mode == PRIVATE:  # a group that may read a key, such as that of etcd, still may
            mode |= stat.S_IMODE(before.st_mode) & stat.S_IRGRP
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(file.content)
        opened.flush()
        with contextlib.suppress(FileNotFoundError):
            before = file.path.stat()
            now = os.fstat(descriptor)
            if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
                os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, mode)


def _keep(output: Path, targets: list[Path], now: datetime) -> Path | None:
    """Link what is to be replaced into a new generation, which appears complete."""
    present = [path for path in targets if path.exists()]
    if not present:
        return None
    generations = output / EARLIER / _GENERATIONS
    generations.mkdir(mode=0o700, exist_ok=True)
    name, number = compact(now), 1
    while (generations / name).exists():
        number += 1
        name = f"{compact(now)}-{number}"
    part = generations / f"{name}{_PART}"
    for path in present:
        inside = path.is_relative_to(output)
        kept = part / (path.relative_to(output) if inside else Path("elsewhere", *path.parts[1:]))
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            kept.hardlink_to(path)
        except OSError:  # another file system, or one without hard links
            shutil.copy2(path, kept)
    part.rename(generations / name)
    return generations / name


def _write_journal(output: Path, moves: list[tuple[Path, Path]]) -> None:
    document = [[str(staged.absolute()), str(target.absolute())] for staged, target in moves]
    journal = output / EARLIER / _JOURNAL
    new = journal.with_suffix(_PART)
    with new.open("w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(journal)
    _sync(journal.parent)


def _finish(output: Path, moves: Iterable[tuple[Path, Path]]) -> None:
    folders = set()
    for staged, target in moves:
        with contextlib.suppress(FileNotFoundError):  # moved before a kill
            staged.replace(target)
        folders.add(target.parent)
    for folder in folders:
        _sync(folder)
    (output / EARLIER / _JOURNAL).unlink()


def _recover(output: Path, others: Iterable[Path]) -> bool:
    journal = output / EARLIER / _JOURNAL
    if journal.exists():
        moves = json.loads(read_file(journal, _MAX_JOURNAL))
        _finish(output, [(Path(staged), Path(target)) for staged, target in moves])
        return True
    _remove_parts(output)
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
