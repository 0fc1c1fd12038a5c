"""Unpack tar archives that may be hostile.

Python has filters for this since 3.11.4, but Debian 12 has 3.11.2.
"""

import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

# A member has a few headers before it: long names, and the records of pax. A path has at most 4096
# bytes on Linux. The headers of git archive and of GNU tar are smaller than 4 KiB.
_LARGEST_HEADER = 16 << 10
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class UnsafeMember(Exception):
    """A member that leads out of the directory; the text of the error is its name."""


class _Member(tarfile.TarInfo):
    """A member whose extended headers are small.

    tarfile reads such a header as a whole before it yields the member, and until Python 3.11.9 it
    takes quadratic time for some of them (CVE-2024-6232).
    """

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        """Read what follows a header; tarfile itself says that subclasses may override this."""
        if self.type in _EXTENDED and not 0 <= self.size <= _LARGEST_HEADER:
            message = f"it has an extended header of more than {_LARGEST_HEADER} bytes"
            raise tarfile.ReadError(message)
        try:
            member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        except tarfile.HeaderError as error:  # which would be taken for the end of the archive
            raise tarfile.ReadError(str(error)) from error
        return member


def open_tar(path: Path) -> tarfile.TarFile:
    """Open a tar that is not compressed; raises OSError or tarfile.TarError, also when it is read.

    The caller still has to check the members: see ``checked``.
    """
    return tarfile.open(path, "r:", tarinfo=_Member)


def unpack_all(tar: tarfile.TarFile, folder: Path) -> None:
    """Unpack everything into ``folder``.

    Everything belongs to the current user, who can read all files and write to all directories.
    Raises UnsafeMember.
    """
    # If Python has filters, disable its own: ``checked`` replaces it.
    tar.extraction_filter = lambda member, _folder: member
    tar.extractall(folder, members=checked(tar))


def checked(
    members: Iterable[tarfile.TarInfo],
) -> Iterator[tarfile.TarInfo]:
    """Yield each member with its owner and mode set; raises UnsafeMember. See ``unpack_all``."""
    links: set[str] = set()
    for member in members:
        name = posixpath.normpath(member.name)
        # A sparse member of a few bytes can expand to exabytes, and after one of a negative size
        # tarfile reads the same members again, without end.
        has_no_size = member.issparse() or member.size < 0
        if not _is_plain(member.name) or _passes_through(name, links) or has_no_size:
            raise UnsafeMember(member.name)
        if member.issym():
            # Relative to the directory of the link. No later member may go through the link.
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
    # A file system resolves links before ".."; normpath only removes a name.
    return _is_inside(path) and ".." not in path.split("/")


def _climbs_first(path: str) -> bool:
    # Only a leading ".." is reliable, because the parent directories of the link are not links.
    names = [name for name in path.split("/") if name not in ("", ".")]
    return names == sorted(names, key=lambda name: name != "..")


def _is_inside(path: str) -> bool:
    if path.startswith("/"):
        return False
    return posixpath.normpath(path).split("/")[0] != ".."


def _passes_through(name: str, links: set[str]) -> bool:
    parts = name.split("/")
    return any("/".join(parts[:length]) in links for length in range(1, len(parts) + 1))
