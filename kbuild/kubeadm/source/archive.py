"""Read a source archive, and find its tag and commit in the tree.

``git archive`` fills in the export-subst lines of hack/lib/version.sh: the commit, and the tag if
there is one. This is only a claim of the archive; ``compare`` verifies it. Upstream's
kubernetes-src.tar.gz has no top directory; GitHub's and Debian's have.

An archive is decompressed into the work directory first, within limits of size and ratio: a few
bytes can stand for terabytes, and a tar that is a plain file can be read where it is needed.
"""

import bz2
import contextlib
import errno
import gzip
import hashlib
import lzma
import os
import posixpath
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from kbuild.base import network
from kbuild.base.addresses import shown
from kbuild.base.errors import NotKubernetes, SourceUnreachable
from kbuild.base.files import open_file
from kbuild.base.progress import Progress
from kbuild.base.unpack import UnsafeMember, checked, open_tar
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import SourceFile, SourceTree, Tag
from kbuild.kubeadm.source import closure
from kbuild.kubeadm.source.errors import BrokenArchive, SourceChecksumMismatch, UnsafeArchive
from kbuild.kubeadm.source.tree import write_tree
from kbuild.kubeadm.source.versions import is_tag

ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_VERSION_FILE = PurePosixPath("hack/lib/version.sh")
_COMMIT = re.compile(r"KUBE_GIT_COMMIT='([0-9a-f]{40})'")
_TAG = re.compile(r"if \[\[ '[^']*\btag: (v[^ ,']+)[^']*' =~")
# tarfile does not catch the errors of its parts for impossible names, numbers and links.
_DAMAGE = (
    *(tarfile.TarError, EOFError, zlib.error, lzma.LZMAError),
    *(LookupError, ValueError, OverflowError),
)
# gzip and bz2 have no errno for damaged data; the others come from members with clashing names.
_IMPOSSIBLE = (
    *(None, errno.EEXIST, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR),
)
_CHUNK = 1 << 20
_STEP = 2000  # members between two progress messages
# v1.20.2 has 22,700 members and 233 MB, 7 times its .tar.gz, and no file above 3 MB.
MAX_MEMBERS = 200_000
MAX_BYTES = 2 << 30
_MAX_RATIO, _RATIO_FROM = 100, 64 << 20
_MAX_FILE = 64 << 20
_XZ_MEMORY = 256 << 20  # xz -9 takes 65 MiB


@dataclass(frozen=True, slots=True)
class Archive:
    """A source archive: its decompressed tar in the work directory, and its own sha256."""

    source: str
    tar: Path
    sha256: str


def is_archive(source: str) -> bool:
    """Return whether a source is an archive: a file, or an address with the ending of one."""
    if "://" in source:
        return urlsplit(source).path.endswith(ENDINGS)
    path, is_folder, is_there = Path(source), False, False
    with contextlib.suppress(OSError):  # for example a name that is too long
        is_folder, is_there = path.is_dir(), path.exists()
    # A name with a colon that is no file is git's host:path.
    return not is_folder and (is_there or (source.endswith(ENDINGS) and ":" not in source))


def obtain(
    source: str,
    demanded: str | None,
    workspace: Workspace,
    progress: Progress,
    stored: Path | None = None,
) -> Archive:
    """Download an archive if it is an address, and decompress it; once in each run.

    ``demanded`` is the required sha256, if any. ``stored`` is the archive, if it is here already.
    Raises SourceUnreachable,
    SourceChecksumMismatch or BrokenArchive.
    """
    tar, written = workspace.work / "archive.tar", workspace.work / "archive.sha256"
    if not written.exists():
        with _opened(source, stored, workspace, progress) as file, _reading(source):
            written.write_text(_decompress(file, tar, progress))
    actual = written.read_text()
    if demanded not in (None, actual):
        raise SourceChecksumMismatch(source=shown(source), actual=actual, expected=demanded)
    return Archive(source, tar, actual)


def identify(archive: Archive) -> Tag:
    """Return the tag and commit that an archive claims, reading as little as possible.

    Raises BrokenArchive or NotKubernetes.
    """
    with _reading(archive.source), open_tar(archive.tar) as tar:
        for member in _members(tar):
            name = PurePosixPath(member.name)
            if name.match(str(_VERSION_FILE)) and len(name.parts) <= len(_VERSION_FILE.parts) + 1:
                return _identity(_content(tar, member), archive.source)
    raise NotKubernetes(source=shown(archive.source), reason=f"it has no {_VERSION_FILE}")


def unpack(archive: Archive, target: Path, *, demanded: bool, progress: Progress) -> SourceTree:
    """Return the files of kubeadm's closure in an archive.

    What kbuild itself reads is written into ``target``. ``demanded`` tells whether the user
    demanded its sha256. Raises BrokenArchive, UnsafeArchive or NotKubernetes.
    """
    with _reading(archive.source), open_tar(archive.tar) as tar:
        tag, files = _closure(tar, archive.source, progress)
        tree = write_tree(files, tag, target, shown(archive.source), "archive-claim")
    return replace(tree, sha256=archive.sha256, sha256_demanded=demanded)


@contextlib.contextmanager
def _opened(
    source: str, stored: Path | None, workspace: Workspace, progress: Progress
) -> Iterator[BinaryIO]:
    path = stored or kept_at(source, workspace.work)
    if stored is None and "://" in source:
        try:
            network.download(source, path, "download", progress)
        except network.DownloadFailed as error:
            raise SourceUnreachable(source=shown(source), details=shown(str(error))) from error
    try:
        file = open_file(path)
    except OSError as error:
        raise SourceUnreachable(source=source, details=str(error.strerror)) from error
    with file:
        yield file


def kept_at(source: str, work: Path) -> Path:
    """Return where an archive is that was obtained with this work directory."""
    return work / "source-archive" if "://" in source else Path(source)


class _Digested:
    """A file that is read once, with its size and sha256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size, self._sha256 = file, 0, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self.size += len(block)
        self._sha256.update(block)
        return block

    def sha256(self) -> str:
        while self.read(_CHUNK):  # what follows the compressed data
            pass
        return self._sha256.hexdigest()


def _decompress(file: BinaryIO, target: Path, progress: Progress) -> str:
    """Decompress an archive to ``target``, and return the sha256 of the archive itself."""
    magic = file.read(6)
    file.seek(0)
    packed, size_of_all = _Digested(file), os.fstat(file.fileno()).st_size
    with target.open("wb") as plain:
        for block in _blocks(packed, magic):
            size = plain.tell() + len(block)
            if size > max(_RATIO_FROM, _MAX_RATIO * packed.size):
                msg = f"it unpacks to more than {_MAX_RATIO} times its size"
                raise ValueError(msg)
            if size > MAX_BYTES:
                msg = f"it holds more than {MAX_BYTES} bytes"
                raise ValueError(msg)
            plain.write(block)
            progress.advance("decompress the source", packed.size, size_of_all, "bytes")
    return packed.sha256()


def _blocks(packed: _Digested, magic: bytes) -> Iterator[bytes]:
    file: Any = packed  # these readers need only the method `read`
    if magic.startswith(b"\x1f\x8b"):
        file = gzip.GzipFile(fileobj=file, mode="rb")
    elif magic.startswith(b"BZh"):
        file = bz2.BZ2File(file)
    elif magic.startswith(b"\xfd7zXZ\0"):
        return _xz_blocks(packed)
    return iter(lambda: file.read(_CHUNK), b"")


def _xz_blocks(packed: _Digested) -> Iterator[bytes]:
    # LZMAFile has no memory limit, and a header may require 4 GiB.
    rest = packed.read(_CHUNK)
    while rest:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        while not stream.eof:
            if block := stream.decompress(rest, _CHUNK):
                yield block
            rest = packed.read(_CHUNK) if stream.needs_input else b""
            if stream.needs_input and not rest:
                raise EOFError
        rest = stream.unused_data.lstrip(b"\0")  # streams may have zeros between them
        while not rest and (more := packed.read(_CHUNK)):
            rest = more.lstrip(b"\0")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar):
        if count > MAX_MEMBERS:
            msg = f"it has more than {MAX_MEMBERS} members"
            raise ValueError(msg)
        yield member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.issym():
        return member.linkname.encode(errors="surrogateescape")
    file = tar.extractfile(member)
    if file is None:
        msg = f"{member.name} is not a file"
        raise ValueError(msg)
    content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        msg = f"{member.name} is larger than {_MAX_FILE} bytes"
        raise ValueError(msg)
    return content


def _closure(
    tar: tarfile.TarFile, source: str, progress: Progress
) -> tuple[Tag, dict[str, SourceFile]]:
    members = {}
    for count, member in enumerate(checked(_members(tar))):
        if count and count % _STEP == 0:
            progress.advance("unpack the source", count, None)
        if not member.isdir():
            members[posixpath.normpath(member.name)] = member
    progress.advance("read the files of kubeadm", 0, None)
    top = _top(members, source)
    members = {n.removeprefix(top): each for n, each in members.items() if n.startswith(top)}
    if not any(name.startswith("cmd/kubeadm/") for name in members):
        raise NotKubernetes(source=shown(source), reason="it has no cmd/kubeadm")
    total = 0

    def read(names: Collection[str]) -> dict[str, bytes]:
        nonlocal total
        contents = {name: _content(tar, members[name]) for name in names}
        total += sum(map(len, contents.values()))  # many names may be links to the same file
        if total > MAX_BYTES:
            msg = f"it holds more than {MAX_BYTES} bytes"
            raise ValueError(msg)
        return contents

    tag = _identity(read([str(_VERSION_FILE)])[str(_VERSION_FILE)], source)
    modes = {name: closure.LINK if m.issym() else m.mode for name, m in members.items()}
    found = closure.gather(modes, read)
    return tag, {n: SourceFile(modes[n], content) for n, content in found.contents.items()}


def _top(names: Collection[str], source: str) -> str:
    """Return the top directory of the tree in the archive, empty if there is none."""
    if str(_VERSION_FILE) in names:
        return ""
    ends = f"/{_VERSION_FILE}"
    tops = [name.removesuffix(str(_VERSION_FILE)) for name in names if name.endswith(ends)]
    tops = [top for top in tops if top.count("/") == 1]
    if len(tops) != 1:
        raise NotKubernetes(source=shown(source), reason=f"it has no {_VERSION_FILE}")
    return tops[0]


@contextlib.contextmanager
def _reading(source: str) -> Iterator[None]:
    try:
        yield
    except UnsafeMember as error:
        raise UnsafeArchive(source=shown(source), member=str(error)) from error
    except _DAMAGE as error:
        raise BrokenArchive(source=shown(source), reason=_first_line(error)) from error
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            raise BrokenArchive(source=shown(source), reason=_first_line(error)) from error
        raise


def _first_line(error: Exception) -> str:
    return (str(error) or "it ends too early").splitlines()[0]


def _identity(content: bytes, source: str) -> Tag:
    text = content.decode(errors="replace")
    commit, tag = _COMMIT.search(text), _TAG.search(text)
    if commit is None or tag is None or not is_tag(tag[1]):
        reason = f"its {_VERSION_FILE} does not contain the commit and tag that git archive writes"
        raise NotKubernetes(source=shown(source), reason=reason)
    return Tag(name=tag[1], commit=commit[1])
