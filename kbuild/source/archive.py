"""Unpack a source archive and read from the tree itself which tag and commit it is.

``git archive`` fills in the export-subst lines of hack/lib/version.sh: the commit, and the tag if
it was made on one. Upstream's kubernetes-src.tar.gz has no top folder; GitHub's and Debian's have.
"""

import contextlib
import errno
import lzma
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from kbuild import network
from kbuild.errors import (
    BrokenArchive,
    NotKubernetes,
    SourceChecksumMismatch,
    SourceUnreachable,
    UnsafeArchive,
)
from kbuild.model import SourceTree, Tag
from kbuild.progress import Progress
from kbuild.source.closure import is_for_linux, needed_files
from kbuild.source.git import shown
from kbuild.source.versions import is_tag
from kbuild.unpack import UnsafeMember, checked
from kbuild.workspace import Workspace, sha256

ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_VERSION_FILE = PurePosixPath("hack/lib/version.sh")
_COMMIT = re.compile(r"KUBE_GIT_COMMIT='([0-9a-f]{40})'")
_TAG = re.compile(r"if \[\[ '[^']*\btag: (v[^ ,']+)[^']*' =~")
# Python's tarfile lets through what its parts raise of names, numbers and links that cannot be.
_DAMAGE = (
    *(tarfile.TarError, EOFError, zlib.error, lzma.LZMAError),
    *(LookupError, ValueError, OverflowError),
)
# gzip and bz2 give no number for damaged data; the others are members in each other's place.
_IMPOSSIBLE = (
    *(None, errno.EEXIST, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR),
)
_CHUNK = 1 << 20
_STEP = 2000  # members between two words of progress


def is_archive(source: str) -> bool:
    """Tell whether a source is an archive: a file, or an address that ends like one."""
    if "://" in source:
        return urlsplit(source).path.endswith(ENDINGS)
    path = Path(source)
    # A name with a colon and no such file is git's way of naming another host.
    return path.is_file() or (source.endswith(ENDINGS) and ":" not in source and not path.is_dir())


def download(source: str, workspace: Workspace, progress: Progress) -> Path:
    """Return the archive as a local file; an address is downloaded into the work folder.

    Raises SourceUnreachable.
    """
    target = workspace.work / "source-archive"
    if "://" not in source:
        return _readable(source)
    if target.exists():  # the version was looked up in it
        return target
    try:
        network.download(source, target, "download", progress)
    except network.DownloadFailed as error:
        raise SourceUnreachable(source=shown(source), details=shown(str(error))) from error
    return target


def check(path: Path, source: str, demanded: str | None) -> str:
    """Return the sha256 of an archive; raises SourceChecksumMismatch if another is demanded."""
    actual = sha256(path)
    if demanded not in (None, actual):
        raise SourceChecksumMismatch(source=shown(source), actual=actual, expected=demanded)
    return actual


def identify(path: Path, source: str) -> Tag:
    """Return the tag and commit that an archive says it is, reading no further than needed.

    Raises BrokenArchive or NotKubernetes.
    """
    with _reading(source), tarfile.open(path) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if name.match(str(_VERSION_FILE)) and len(name.parts) <= len(_VERSION_FILE.parts) + 1:
                file = tar.extractfile(member)
                if file is not None:
                    return _identity(file.read().decode(errors="replace"), source)
    raise NotKubernetes(source=shown(source), reason=f"it has no {_VERSION_FILE}")


def unpack(
    path: Path, source: str, demanded: str | None, target: Path, progress: Progress
) -> SourceTree:
    """Unpack an archive so that ``target`` becomes the folder that holds cmd/kubeadm.

    ``demanded`` is the sha256 that the archive must have, if any. Raises SourceChecksumMismatch,
    BrokenArchive, UnsafeArchive or NotKubernetes.
    """
    actual = check(path, source, demanded)
    with _reading(source), tarfile.open(path) as tar:
        files = _read(tar, progress)
    tree = _Tree.of(files, source)
    tag = _identity(tree.files[str(_VERSION_FILE)].content.decode(errors="replace"), source)
    with _reading(source):
        tree.write(target)
    assert tag.commit is not None
    return SourceTree(
        path=target, tag=tag.name, commit=tag.commit, origin=shown(source), sha256=actual
    )


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    mode: int
    link: str = ""


@dataclass(frozen=True, slots=True)
class _Tree:
    """The files of a tree by their names in it, in memory: a few hundred MB."""

    files: dict[str, _File]

    @classmethod
    def of(cls, files: dict[str, _File], source: str) -> "_Tree":
        """Find the tree in an archive, with or without a top folder."""
        ends = f"/{_VERSION_FILE}"
        tops = {name.removesuffix(ends) for name in files if name.endswith(ends)} - {""}
        tops = {f"{top}/" for top in tops if "/" not in top}
        if str(_VERSION_FILE) in files:
            tops = {""}
        if len(tops) != 1:
            raise NotKubernetes(source=shown(source), reason=f"it has no {_VERSION_FILE}")
        [top] = tops
        inside = {n.removeprefix(top): f for n, f in files.items() if n.startswith(top)}
        if not any(name.startswith("cmd/kubeadm/") for name in inside):
            raise NotKubernetes(source=shown(source), reason="it has no cmd/kubeadm")
        return cls(inside)

    def write(self, target: Path) -> None:
        """Write what a build of kubeadm reads into the new folder ``target``."""
        links = [name for name, file in self.files.items() if file.link]
        needed = needed_files(
            self.files, links, lambda names: {n: self.files[n].content for n in names}
        )
        for folder in {(target / name).parent for name in needed}:
            folder.mkdir(parents=True, exist_ok=True)
        for name in needed:
            file = self.files[name]
            if file.link:
                (target / name).symlink_to(file.link)
            else:
                (target / name).write_bytes(file.content)
                (target / name).chmod(file.mode)


def _read(tar: tarfile.TarFile, progress: Progress) -> dict[str, _File]:
    files = {}
    for member in checked(tar, lambda count: _tell(count, progress)):
        name = posixpath.normpath(member.name)
        if member.issym():
            files[name] = _File(b"", 0, member.linkname)
        elif not member.isdir() and is_for_linux(name):
            file = tar.extractfile(member)
            assert file is not None
            files[name] = _File(file.read(), member.mode)
    # A tar ends before its compressed file does, whose own checksum stands last.
    while tar.fileobj.read(_CHUNK):
        pass
    return files


def _tell(count: int, progress: Progress) -> None:
    if count % _STEP == 0:
        progress.advance("unpack", count, None)


def _readable(source: str) -> Path:
    try:
        Path(source).open("rb").close()
    except OSError as error:
        raise SourceUnreachable(source=source, details=str(error.strerror)) from error
    return Path(source)


@contextlib.contextmanager
def _reading(source: str) -> Iterator[None]:
    try:
        yield
    except UnsafeMember as error:
        raise UnsafeArchive(source=shown(source), member=error) from error
    except _DAMAGE as error:
        raise BrokenArchive(source=shown(source), reason=_first_line(error)) from error
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            raise BrokenArchive(source=shown(source), reason=_first_line(error)) from error
        raise


def _first_line(error: Exception) -> str:
    return (str(error) or "it ends too early").splitlines()[0]


def _identity(text: str, source: str) -> Tag:
    commit, tag = _COMMIT.search(text), _TAG.search(text)
    if commit is None or tag is None or not is_tag(tag[1]):
        reason = f"its {_VERSION_FILE} names no commit and tag, as git archive makes it do on a tag"
        raise NotKubernetes(source=shown(source), reason=reason)
    return Tag(name=tag[1], commit=commit[1])
