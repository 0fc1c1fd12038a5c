"""Find the files below paths: each once, no matter how often links lead to it."""

import errno
import grp
import os
import posixpath
import pwd
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from kbuild.base.files import read_head, reason_of
from kbuild.certs.model import Owner
from kbuild.certs.roles import known_file

MAX_SIZE = 1 << 20  # bytes; a bundle of 150 public CAs has 250 KiB
MAX_FILES = 100_000
EARLIER = ".kbuild-pki"  # where `kbuild pki` keeps what it has replaced; nobody uses it
# The kernel makes what is in them, and links in /proc lead to every file that a process has open.
OF_KERNEL = ("/dev", "/proc", "/sys")

Inode = tuple[int, int]


class Found(NamedTuple):
    """A regular file; ``named`` if the user asked for it by name."""

    path: str
    named: bool
    status: os.stat_result


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A path that could not be read, and why; ``kind`` is that of its finding.

    ``named`` also holds for folders, and for files that may be read by others only: what is in
    them is not known.
    """

    path: str
    named: bool
    reason: str
    kind: str = "unreadable"


class Files(Protocol):
    """Where files come from: the folders of this machine, or copies of another's files."""

    def below(self, paths: Iterable[Path]) -> Iterator[Found | Unread]:
        """Yield the files below paths, each once, or what keeps one from being read."""

    def file_at(self, path: str) -> Iterator[Found | Unread]:
        """Yield the file at a path that a kubeconfig names, or what keeps it from being read."""

    def name_at(self, path: str) -> str | None:
        """Return the name by which the file at a path is shown, None if it was not found."""

    def read(self, found: Found) -> bytes:
        """Return the content of a file of at most MAX_SIZE bytes; raises OSError."""

    def owner(self, found: Found) -> Owner:
        """Return who owns a file."""


@dataclass(slots=True)
class Walk:
    """A walk through folders; ``names`` tells by which name each file is shown.

    ``exclude`` are patterns of fnmatch for what is passed over in folders: for a name, or with a
    slash in it for a path as it is shown.
    """

    exclude: tuple[str, ...] = ()
    names: dict[Inode, str] = field(default_factory=dict)
    _folders: set[Inode] = field(default_factory=set)
    _dated: dict[Inode, Found] = field(default_factory=dict)
    _is_full: bool = False

    def below(self, paths: Iterable[Path]) -> Iterator[Found | Unread]:
        """Yield the files below paths, or what keeps one from being read.

        Links are followed. In a folder they come first: a link such as kubelet-client-current.pem
        says which file is in use, so its name is the one that is shown. Any other name of a file
        is shown rather than a dated one, of a certificate that kubelet has probably replaced.
        """
        # A file that is named is told of by its name, though a folder that is named may hold it.
        for path in sorted(map(str, paths), key=_files_first):
            yield from self.at(path)
        while self._dated:
            inode, found = self._dated.popitem()
            if inode not in self.names:
                self.names[inode] = found.path
                yield found

    def file_at(self, path: str) -> Iterator[Found | Unread]:
        """Yield the file at a path that a kubeconfig names, or what keeps it from being read."""
        try:
            status = os.stat(path)  # noqa: PTH116  # of a text
        except (OSError, ValueError) as error:
            yield Unread(path=path, named=True, reason=reason_of(error))
            return
        if stat.S_ISREG(status.st_mode):
            yield from self._file(path, status, named=True, is_dated_last=False)
        else:
            reason = "it is not a regular file"
            yield Unread(path=path, named=True, reason=reason)

    def name_at(self, path: str) -> str | None:
        """Return the name by which the file at a path is shown, None if it was not found."""
        try:
            status = os.stat(path)  # noqa: PTH116  # of a text
        except (OSError, ValueError):
            return None
        return self.names.get((status.st_dev, status.st_ino))

    def read(self, found: Found) -> bytes:
        """Return the content of a file of at most MAX_SIZE bytes; raises OSError.

        Whatever has taken its place since, no FIFO or device is opened and no more is read.
        """
        size = min(found.status.st_size, MAX_SIZE)
        return read_head(found.path, size + 1)[:MAX_SIZE]

    def owner(self, found: Found) -> Owner:
        """Return who owns a file, as this machine names its users."""
        status = found.status
        return _owner(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))

    def at(self, path: str) -> Iterator[Found | Unread]:
        """Yield the files at a path that the user names."""
        try:
            status = os.stat(path)  # noqa: PTH116  # of a text, as all here
        except (OSError, ValueError) as error:
            yield Unread(path=path, named=True, reason=reason_of(error))
            return
        if not stat.S_ISDIR(status.st_mode):
            yield from self._file(path, status, named=True)
            return
        waiting = [path] if self._is_new_folder(status) else []
        while waiting:
            folder = waiting.pop()
            inner: list[str] = []
            yield from self._in_folder(folder, inner)
            waiting += reversed(inner)

    def _in_folder(self, folder: str, inner: list[str]) -> Iterator[Found | Unread]:
        try:
            with os.scandir(folder) as listing:
                entries = list(islice(listing, MAX_FILES))
                is_cut = next(listing, None) is not None
        except OSError as error:
            yield Unread(path=folder, named=True, reason=reason_of(error))
            return
        if is_cut:
            yield _too_many(folder)
        linked: list[tuple[str, os.stat_result]] = []
        for entry in sorted(entries, key=_links_first):
            is_passed_over = entry.name == EARLIER or entry.path in OF_KERNEL
            if is_passed_over or self._is_excluded(entry):
                continue
            try:
                status = entry.stat()
            except OSError as error:  # a link that leads nowhere, or in a circle
                is_there = not is_gone(error)
                yield Unread(path=entry.path, named=is_there, reason=reason_of(error))
                continue
            if not stat.S_ISDIR(status.st_mode):
                yield from self._file(entry.path, status, named=False)
            elif entry.is_symlink():
                linked.append((entry.path, status))
            elif self._is_new_folder(status):
                inner.append(entry.path)
        # Folders before links to folders, so that each is shown by its own name.
        inner += [path for path, status in linked if self._is_new_folder(status)]

    def _file(
        self, path: str, status: os.stat_result, *, named: bool, is_dated_last: bool = True
    ) -> Iterator[Found | Unread]:
        inode = (status.st_dev, status.st_ino)
        if inode in self.names or self._is_full:
            return
        if len(self.names) + len(self._dated) >= MAX_FILES:
            self._is_full = True
            yield _too_many(path)
            return
        if stat.S_ISREG(status.st_mode):
            found = Found(path=path, named=named, status=status)
            if is_dated_last and is_dated(path):
                self._dated.setdefault(inode, found)
                return
            self.names[inode] = path
            yield found
            return
        self.names[inode] = path
        if named:
            yield Unread(path=path, named=True, reason="it is not a regular file")

    def _is_excluded(self, entry: "os.DirEntry[str]") -> bool:
        return bool(self.exclude) and any(
            fnmatchcase(entry.path if "/" in pattern else entry.name, pattern)
            for pattern in self.exclude
        )

    def _is_new_folder(self, status: os.stat_result) -> bool:
        inode = (status.st_dev, status.st_ino)
        is_new = inode not in self._folders
        self._folders.add(inode)
        return is_new


def is_dated(path: str) -> bool:
    """Tell whether a name is that of a certificate that kubelet replaces by a later one."""
    file = known_file(path)
    return file is not None and file.state == "superseded"


def is_gone(error: OSError) -> bool:
    """Tell whether an error says that there is no file: it was removed, or a link is broken."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def _too_many(path: str) -> Unread:
    reason = f"only the first {MAX_FILES} files were read"
    return Unread(path=path, named=True, reason=reason, kind="too-many-files")


def _files_first(path: str) -> tuple[bool, bool]:
    """Sort paths that the user names: links to files, files, directories."""
    is_folder = posixpath.isdir(path)
    return is_folder, not is_folder and not posixpath.islink(path)


def _links_first(entry: "os.DirEntry[str]") -> tuple[bool, str]:
    return not entry.is_symlink(), entry.name


@cache
def _owner(user: int, group: int, mode: int) -> Owner:
    return Owner(user=_user(user), group=_group(group), mode=mode)


@cache
def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@cache
def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
