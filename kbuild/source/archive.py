"""Unpack a source archive and read from the tree itself which tag and commit it is.

``git archive`` fills in the export-subst lines of hack/lib/version.sh: the commit, and the tag if
it was made on one. That is what the archive claims; ``compare`` verifies it. Upstream's
kubernetes-src.tar.gz has no top folder; GitHub's and Debian's have.
"""

import contextlib
import errno
import lzma
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from kbuild import network
from kbuild.addresses import shown
from kbuild.errors import (
    BrokenArchive,
    NotKubernetes,
    SourceChecksumMismatch,
    SourceUnreachable,
    UnsafeArchive,
)
from kbuild.model import SourceTree, Tag
from kbuild.progress import Progress
from kbuild.source import closure
from kbuild.source.packed import PackedTree, find, held, keep
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


def identify(path: Path, source: str, workspace: Workspace) -> Tag:
    """Return the tag and commit that an archive says it is, reading no further than needed.

    Raises BrokenArchive or NotKubernetes.
    """
    if (packed := find(sha256(path), workspace)) is not None:
        return packed.tag
    with _reading(source), tarfile.open(path) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if name.match(str(_VERSION_FILE)) and len(name.parts) <= len(_VERSION_FILE.parts) + 1:
                file = tar.extractfile(member)
                if file is not None:
                    return _identity(file.read().decode(errors="replace"), source)
    raise NotKubernetes(source=shown(source), reason=f"it has no {_VERSION_FILE}")


def unpack(
    path: Path,
    source: str,
    demanded: str | None,
    target: Path,
    workspace: Workspace,
    progress: Progress,
) -> SourceTree:
    """Have the files of an archive that kubeadm is built from, and what kbuild reads in ``target``.

    ``demanded`` is the sha256 that the archive must have, if any. Raises SourceChecksumMismatch,
    BrokenArchive, UnsafeArchive or NotKubernetes.
    """
    actual = check(path, source, demanded)
    with held(actual, workspace):
        packed = find(actual, workspace)
        if packed is None:
            packed = _pack(path, source, actual, workspace, progress)
        else:
            progress.say("the archive is in the cache already")
    tree = packed.open(target, shown(source), "archive-claim")
    return replace(tree, sha256=actual, sha256_demanded=demanded is not None)


def _pack(
    path: Path, source: str, identity: str, workspace: Workspace, progress: Progress
) -> PackedTree:
    with _reading(source), tarfile.open(path) as tar:
        whole = _read(tar, progress)
    tree = whole.below(whole.top(source))
    if not any(name.startswith("cmd/kubeadm/") for name in tree.modes):
        raise NotKubernetes(source=shown(source), reason="it has no cmd/kubeadm")
    tag = _identity(tree.contents[str(_VERSION_FILE)].decode(errors="replace"), source)
    found = closure.gather(tree.modes, lambda names: {n: tree.contents[n] for n in names})
    with _reading(source):
        return keep(identity, tag, tree.modes, found.contents, workspace)


@dataclass(frozen=True, slots=True)
class _Tree:
    """What a tree holds, in memory: a few hundred MB. Names are those in the tree."""

    modes: dict[str, int]
    contents: dict[str, bytes]

    def below(self, top: str) -> "_Tree":
        """Return what is below a folder, whose name ends with a slash or is empty."""
        inside = [name for name in self.modes if name.startswith(top)]
        return _Tree(
            {name.removeprefix(top): self.modes[name] for name in inside},
            {name.removeprefix(top): self.contents[name] for name in inside},
        )

    def top(self, source: str) -> str:
        """Return the folder of the tree in the archive; empty if it is the archive itself."""
        ends = f"/{_VERSION_FILE}"
        tops = {name.removesuffix(ends) for name in self.modes if name.endswith(ends)} - {""}
        tops = {f"{top}/" for top in tops if "/" not in top}
        if str(_VERSION_FILE) in self.modes:
            tops = {""}
        if len(tops) != 1:
            raise NotKubernetes(source=shown(source), reason=f"it has no {_VERSION_FILE}")
        return tops.pop()


def _read(tar: tarfile.TarFile, progress: Progress) -> _Tree:
    tree = _Tree({}, {})
    for member in checked(tar, lambda count: _tell(count, progress)):
        name = posixpath.normpath(member.name)
        if member.issym():
            tree.modes[name] = closure.LINK
            tree.contents[name] = member.linkname.encode(errors="surrogateescape")
        elif not member.isdir():
            file = tar.extractfile(member)
            assert file is not None
            tree.modes[name] = member.mode
            tree.contents[name] = file.read()
    # A tar ends before its compressed file does, whose own checksum stands last.
    while tar.fileobj.read(_CHUNK):
        pass
    return tree


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
