"""Unpack tar archives that may be hostile.

Python has filters for that since 3.11.4 only, and Debian 12 has 3.11.2.
"""

import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path


class UnsafeMember(Exception):
    """A member that would be written or would point outside its folder; its text is the name."""


def unpack_all(tar: tarfile.TarFile, folder: Path) -> None:
    """Unpack everything into ``folder``.

    Owners are dropped, and files are readable and folders writable for us. Raises UnsafeMember.
    """
    # Where Python has filters, this says that ours is enough.
    tar.extraction_filter = lambda member, _folder: member
    tar.extractall(folder, members=checked(tar))


def checked(
    members: Iterable[tarfile.TarInfo],
) -> Iterator[tarfile.TarInfo]:
    """Yield every member that is safe to unpack, owned by us; see ``unpack_all``."""
    links: set[str] = set()
    for member in members:
        name = posixpath.normpath(member.name)
        # A sparse member of a few bytes can be a file of exabytes.
        if not _is_plain(member.name) or _passes_through(name, links) or member.issparse():
            raise UnsafeMember(member.name)
        if member.issym():
            # Seen from where the link stands, and never passed through by a later member.
            ends = posixpath.join(posixpath.dirname(name), member.linkname)
            if not (_is_inside(ends) and _climbs_first(member.linkname)):
                raise UnsafeMember(member.name)
            links.add(name)
        elif member.islnk():
            linked = posixpath.normpath(member.linkname)
            if not _is_plain(member.linkname) or _passes_through(linked, links):
                raise UnsafeMember(member.name)
        elif not member.isreg() and not member.isdir():
            raise UnsafeMember(member.name)
        member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
        member.mode = (member.mode & 0o755) | (0o700 if member.isdir() else 0o600)
        yield member


def _is_plain(path: str) -> bool:
    # A file system follows the links before a "..", where normpath only drops a name.
    return _is_inside(path) and ".." not in path.split("/")


def _climbs_first(path: str) -> bool:
    # The same: only above the link's own folder, where no link is, ".." means what it says.
    names = [name for name in path.split("/") if name not in ("", ".")]
    return names == sorted(names, key=lambda name: name != "..")


def _is_inside(path: str) -> bool:
    if path.startswith("/"):
        return False
    return posixpath.normpath(path).split("/")[0] != ".."


def _passes_through(name: str, links: set[str]) -> bool:
    parts = name.split("/")
    return any("/".join(parts[:length]) in links for length in range(1, len(parts) + 1))
