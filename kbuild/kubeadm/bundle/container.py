"""The file of a bundle: a tar of plain files, the first of which lists the others.

It is read by hand, not by tarfile: a bundle needs neither links nor directories, and of extended
headers only GNU's for the long names that some wheels have. So nothing else is interpreted, and no
name in it becomes a name on this machine.
"""

import contextlib
import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kbuild.base import tarblocks
from kbuild.base.errors import SourceError
from kbuild.base.files import open_file, reason_of
from kbuild.base.progress import Progress
from kbuild.kubeadm.bundle.errors import (
    BrokenBundle,
    BundleChecksumMismatch,
    BundleDamaged,
    BundleTooLarge,
    BundleUnreadable,
    MemberMissing,
    UnsafeBundle,
)

DOCUMENT = "bundle.json"
MAX_DOCUMENT = 1 << 20  # bytes
MAX_MEMBER = 2 << 30  # bytes; a Go archive has 150 MB, the largest layer of an image 250 MB
_LONGEST = 256  # characters of a name
_CHUNK = 1 << 20
# The folders are for those who unpack a bundle with tar. The version of a wheel may have an epoch,
# as in "foo-1!2.0-py3-none-any.whl".
_NAME = re.compile(r"(blobs/sha256/|wheels/)?[A-Za-z0-9][\w.+!-]{0,200}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a bundle lists of a member."""

    size: int
    sha256: str


def is_name(text: object) -> bool:
    """Return whether this can be the name of a member."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def write(
    file: BinaryIO, document: bytes, members: Mapping[str, Path], told: Callable[[int], None]
) -> None:
    """Write a bundle: the document, then the members in order. No time and no owner is in it.

    ``told`` is called with the number of bytes that are written.
    """
    file.writelines(tarblocks.of_text(DOCUMENT, document))
    for name, path in sorted(members.items()):
        for block in tarblocks.of_file(name, path):
            file.write(block)
            told(file.tell())
    file.write(tarblocks.END)


def looks_like_one(path: Path) -> bool:
    """Return whether a file begins as a bundle does; raises OSError."""
    with open_file(path) as file:
        return file.read(len(DOCUMENT) + 1) == f"{DOCUMENT}\0".encode()


class Container:
    """A bundle that is read once, from its beginning.

    Its methods raise BrokenBundle, UnsafeBundle, BundleTooLarge, BundleDamaged or MemberMissing.
    """

    def __init__(self, path: Path, file: BinaryIO, told: Callable[[int], None]) -> None:
        self._path, self._file, self._told = path, file, told
        self._digest, self._read_bytes = hashlib.sha256(), 0

    def document(self) -> bytes:
        """Return the list of the members."""
        head = self._next()
        if head is None or head[0] != DOCUMENT:
            raise BrokenBundle(path=self._path, reason=f"it does not begin with {DOCUMENT}")
        if head[1] > MAX_DOCUMENT:
            raise BundleTooLarge(path=self._path, member=DOCUMENT, limit=MAX_DOCUMENT)
        return b"".join(self._content(head[1]))

    def unpack(self, listed: Mapping[str, Listed], folder: Path) -> dict[str, Path]:
        """Write each member to a file in ``folder``, whose name is a number."""
        found: dict[str, Path] = {}
        while (head := self._next()) is not None:
            name, size = head
            if name not in listed or name in found:
                raise UnsafeBundle(path=self._path, member=name)
            if size > MAX_MEMBER:
                raise BundleTooLarge(path=self._path, member=name, limit=MAX_MEMBER)
            if size != listed[name].size:
                raise BrokenBundle(path=self._path, reason=f"{name} has not the listed size")
            found[name] = folder / str(len(found))
            digest = hashlib.sha256()
            with found[name].open("wb") as file:
                for block in self._content(size):
                    digest.update(block)
                    file.write(block)
            self._demand(name, digest.hexdigest(), listed[name].sha256)
        if missing := sorted(listed.keys() - found.keys()):
            raise MemberMissing(path=self._path, member=missing[0])
        return found

    def finish(self) -> None:
        """Read the rest, which must be zero."""
        is_padding = True
        while block := self._some(_CHUNK):
            is_padding = is_padding and block.count(0) == len(block)
        if not is_padding:
            raise BrokenBundle(path=self._path, reason="something follows its end")

    def sha256(self) -> str:
        """Return the sha256 of the file; what was not read yet is read for it."""
        while self._some(_CHUNK):
            pass
        return self._digest.hexdigest()

    def _demand(self, name: str, actual: str, expected: str) -> None:
        if actual != expected:
            raise BundleDamaged(path=self._path, member=name, actual=actual, expected=expected)

    def _next(self) -> tuple[str, int] | None:
        """Return name and size of the next member, None at the end."""
        member = self._head()
        if member is None:
            return None
        long_name = None
        if member.type == tarfile.GNUTYPE_LONGNAME and member.size <= _LONGEST:
            content = b"".join(self._content(member.size))
            long_name = content.removesuffix(b"\0").decode(errors="replace")
            member = self._head()
        if member is None:
            raise BrokenBundle(path=self._path, reason="it ends early")
        name = member.name if long_name is None else long_name
        if member.type != tarfile.REGTYPE or not is_name(name):
            raise UnsafeBundle(path=self._path, member=name)
        return name, member.size

    def _head(self) -> tarfile.TarInfo | None:
        block = self._some(tarblocks.BLOCK)
        if block == bytes(tarblocks.BLOCK):
            return None
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise BrokenBundle(path=self._path, reason="it ends early, or is no tar") from error
        if member.size < 0:  # as an old format of tar can say
            raise BrokenBundle(path=self._path, reason="the size of a member is negative")
        return member

    def _content(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            block = self._read(min(left, _CHUNK))
            left -= len(block)
            yield block
        self._read(len(tarblocks.padding(size)))

    def _read(self, size: int) -> bytes:
        block = self._some(size)
        if len(block) != size:
            raise BrokenBundle(path=self._path, reason="it ends early")
        return block

    def _some(self, size: int) -> bytes:
        """Read and hash at most ``size`` bytes. Only what is read here is ever used."""
        block = self._file.read(size)
        self._digest.update(block)
        self._read_bytes += len(block)
        self._told(self._read_bytes)
        return block


@contextlib.contextmanager
def opened(path: Path, demanded: str | None, progress: Progress) -> Iterator[Container]:
    """Open a bundle that is read in the block, and must have the ``demanded`` sha256, if any.

    The bytes that are hashed are those that are read: a second reading could give others. So what
    was read may be used only after the block. Raises BundleUnreadable, BrokenBundle or
    BundleChecksumMismatch.
    """
    try:
        file = open_file(path)
    except OSError as error:
        raise BundleUnreadable(path=path, reason=reason_of(error)) from error
    with file:
        size = os.fstat(file.fileno()).st_size
        container = Container(
            path, file, lambda done: progress.advance("read the bundle", done, size, "bytes")
        )
        try:
            yield container
        except SourceError:  # another file may also be broken, but that it is another is the cause
            _demand_sum(path, container, demanded)
            raise
        _demand_sum(path, container, demanded)


def _demand_sum(path: Path, container: Container, demanded: str | None) -> None:
    if demanded is not None and (actual := container.sha256()) != demanded:
        raise BundleChecksumMismatch(path=path, actual=actual, expected=demanded)
