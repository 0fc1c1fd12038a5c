"""Read the files of a release once, so that all checks see the same content.

A file that is opened again by its name may be another file. So each file is opened once, through
the descriptor of its directory and without following links, and all checks use these bytes and
digests. Binaries are kept in memory, because reading their build info needs all of them, and their
size is limited. Of packages only the digests are kept.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kbuild.base.errors import NotWritable
from kbuild.base.files import reason_of
from kbuild.release.errors import NotARelease
from kbuild.release.names import PROVENANCE, SUM_SUFFIX, SUMS

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_BLOCK = 1024 * 1024
_KIB, _MIB = 1024, 1024 * 1024
# Several times the size in any release: a stripped kubeadm has up to 80 MB, its SBOM 1 MB.
MAX_BINARY, MAX_DOCUMENT, MAX_SUM = 256 * _MIB, 4 * _MIB, _KIB
MAX_NAMES = 10_000  # in a directory of releases
_MAX_TOTAL = 1024 * _MIB
_MAX_ENTRIES, _MAX_DEPTH = 500, 8
_PACKAGES = (".deb", ".rpm")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX

Place = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem of a file; ``kind`` is missing, extra, different or unsafe."""

    file: str
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.file}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFile:
    """A file: its digests by algorithm, and its content, which is empty for a package."""

    content: bytes
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFiles:
    """The files of a directory.

    ``unreadable`` are entries that are not files, or too large; then nothing else is checked.
    ``unsafe`` are modes and owners that let others change the release. ``places`` are the
    device and inode of each entry.
    """

    folder: Path
    files: Mapping[str, ReadFile]
    unreadable: tuple[Problem, ...]
    unsafe: tuple[Problem, ...]
    places: frozenset[Place]

    def content(self, name: str) -> bytes | None:
        """Return the content of a file, or None if it is missing."""
        found = self.files.get(name)
        return None if found is None else found.content


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    """Open a directory, also through a link, and yield its descriptor.

    Raises NotARelease, or NotWritable if it cannot be read.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise NotWritable(path=folder, reason=reason_of(error)) from error
    except OSError as error:
        raise NotARelease(path=folder, reason=reason_of(error)) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_entry(name: str, parent: int) -> Iterator[int]:
    """Open an entry of a directory, and yield its descriptor; raises OSError, also for a link."""
    descriptor = os.open(name, _FLAGS, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def looks_like_release(descriptor: int) -> bool:
    """Return whether a directory looks like a release."""
    return not {PROVENANCE, SUMS["sha256"]}.isdisjoint(names_in(descriptor))


def names_in(descriptor: int, limit: int = MAX_NAMES) -> list[str]:
    """Return the names in a directory, sorted, up to ``limit``."""
    with os.scandir(descriptor) as entries:
        return sorted(entry.name for entry, _ in zip(entries, range(limit), strict=False))


def read_files(folder: Path, descriptor: int) -> ReleaseFiles:
    """Read all files below a directory; ``folder`` is its name for messages.

    Raises NotWritable for a file without read permission.
    """
    reader = _Reader(folder)
    reader.read_folder(descriptor, "")
    return ReleaseFiles(
        folder=folder,
        files=reader.files,
        unreadable=tuple(reader.unreadable),
        unsafe=tuple(reader.unsafe),
        places=frozenset(reader.places),
    )


def unsafe_mode(name: str, status: os.stat_result) -> Iterator[Problem]:
    """Yield the problems of an entry's mode and owner: others could change or misuse it."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS_WRITE:
        what = f"its mode is {mode:04o}: the group or others can write to it (chmod go-w)"
        yield Problem(file=name, kind="unsafe", what=what)
    if mode & _SPECIAL and not stat.S_ISDIR(status.st_mode):
        what = f"its mode is {mode:04o}: setuid, setgid or sticky"
        yield Problem(file=name, kind="unsafe", what=what)
    if status.st_uid not in (0, os.geteuid()):
        what = f"its owner is the user {status.st_uid}, neither you nor root"
        yield Problem(file=name, kind="unsafe", what=what)


@dataclass(slots=True)
class _Reader:
    folder: Path
    files: dict[str, ReadFile] = field(default_factory=dict)
    unreadable: list[Problem] = field(default_factory=list)
    unsafe: list[Problem] = field(default_factory=list)
    places: set[Place] = field(default_factory=set)
    entries: int = 0
    total: int = 0

    def read_folder(self, descriptor: int, prefix: str) -> None:
        status = os.fstat(descriptor)
        self._note(prefix.rstrip("/") or ".", status)
        names = names_in(descriptor, _MAX_ENTRIES + 1)
        if not names:
            self._refuse(prefix.rstrip("/") or ".", "extra", "it is an empty directory")
        for name in names:
            self.entries += 1
            if self.entries > _MAX_ENTRIES or prefix.count("/") > _MAX_DEPTH:
                what = f"it holds more than {_MAX_ENTRIES} entries, or {_MAX_DEPTH} levels"
                self._refuse(prefix.rstrip("/") or ".", "different", what)
                return
            self._read_entry(descriptor, name, prefix + name)

    def _read_entry(self, parent: int, name: str, path: str) -> None:
        try:
            with open_entry(name, parent) as descriptor:
                status = os.fstat(descriptor)
                if stat.S_ISDIR(status.st_mode):
                    self.read_folder(descriptor, f"{path}/")
                elif stat.S_ISREG(status.st_mode):
                    self._note(path, status)
                    self._read_file(descriptor, path)
                else:
                    self._refuse(path, "different", "it is not a file")
        except PermissionError as error:
            raise NotWritable(path=self.folder / path, reason=reason_of(error)) from error
        except OSError as error:
            self._refuse(path, "different", f"it cannot be read as a file: {error.strerror}")

    def _read_file(self, descriptor: int, path: str) -> None:
        limit = _limit(path)
        digests = {algorithm: hashlib.new(algorithm) for algorithm in SUMS}
        size, blocks = 0, []
        while block := os.read(descriptor, _BLOCK):
            size += len(block)
            self.total += len(block)
            if size > limit or self.total > _MAX_TOTAL:
                what = f"it is larger than {min(limit, _MAX_TOTAL)} bytes, or the release is"
                self._refuse(path, "different", what)
                return
            for each in digests.values():
                each.update(block)
            if not path.endswith(_PACKAGES):
                blocks.append(block)
        hexes = {algorithm: each.hexdigest() for algorithm, each in digests.items()}
        self.files[path] = ReadFile(content=b"".join(blocks), digests=hexes)

    def _note(self, path: str, status: os.stat_result) -> None:
        self.places.add((status.st_dev, status.st_ino))
        self.unsafe += unsafe_mode(path, status)

    def _refuse(self, path: str, kind: str, what: str) -> None:
        self.unreadable.append(Problem(file=path, kind=kind, what=what))


def _limit(path: str) -> int:
    if path.endswith(SUM_SUFFIX):
        return MAX_SUM
    is_program = path.startswith("kubeadm-linux-") or path.endswith("/kubeadm")
    return MAX_BINARY if is_program or path.endswith(_PACKAGES) else MAX_DOCUMENT
