"""Copies of the files of another machine, without what is secret in them."""

import errno
import os
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kbuild.certs.model import Owner
from kbuild.certs.walk import Found, Unread, is_dated


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A file of another machine: where it stands, whose it is, and what it holds.

    ``inode`` is the same for all names of one file. ``size`` is that of the file in bytes.
    ``content`` has ``WITHHELD PRIVATE KEY`` blocks of PEM in the place of private keys. ``problem``
    says why the file could not be read there, and is empty if it could.
    """

    path: str
    inode: str
    is_link: bool
    owner: Owner
    size: int
    content: bytes
    problem: str = ""


class Copies:
    """Copies as a source of files; see walk.Files."""

    def __init__(self, copies: Iterable[Copy]) -> None:
        self._copies = {posixpath.normpath(copy.path): copy for copy in copies}
        names = defaultdict[str, list[Copy]](list)
        for copy in self._copies.values():
            names[copy.inode].append(copy)
        self._shown = {inode: min(same, key=_best_first) for inode, same in names.items()}

    def below(self, paths: Iterable[Path]) -> Iterator[Found | Unread]:
        """Yield each file by one of its names; a path below which there is none is no problem."""
        named = set(map(str, paths))
        for copy in sorted(self._shown.values(), key=lambda each: each.path):
            yield _found(copy, named=copy.path in named)

    def file_at(self, path: str) -> Iterator[Found | Unread]:
        """Yield the file at a path if no other name of it was yielded."""
        copy = self._copies.get(posixpath.normpath(path))
        if copy is None:
            yield Unread(path=path, named=True, reason="it was not among what was read")

    def name_at(self, path: str) -> str | None:
        """Return the name by which the file at a path is shown, None if it was not copied."""
        copy = self._copies.get(posixpath.normpath(path))
        return self._shown[copy.inode].path if copy else None

    def read(self, found: Found) -> bytes:
        """Return what was copied of a file; raises OSError if it could not be read there."""
        copy = self._copies[posixpath.normpath(found.path)]
        if copy.problem:
            raise OSError(errno.EACCES, copy.problem, found.path)
        return copy.content

    def owner(self, found: Found) -> Owner:
        """Return who owns a file, as its machine names its users."""
        return self._copies[posixpath.normpath(found.path)].owner


def _found(copy: Copy, *, named: bool) -> Found:
    status = os.stat_result((copy.owner.mode, 0, 0, 1, 0, 0, copy.size, 0, 0, 0))
    return Found(path=copy.path, named=named, status=status)


def _best_first(copy: Copy) -> tuple[bool, bool, str]:
    """Sort the names of a file as walk.Walk prefers them."""
    return is_dated(copy.path), not copy.is_link, copy.path
