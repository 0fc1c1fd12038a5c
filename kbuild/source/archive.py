"""Unpack a source archive and read from the tree itself which tag and commit it is.

``git archive`` fills in the export-subst lines of hack/lib/version.sh: the commit, and the tag if
it was made on one. Upstream's kubernetes-src.tar.gz has no top folder; GitHub's and Debian's have.
"""

import contextlib
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
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
from kbuild.source.git import shown
from kbuild.source.versions import is_tag
from kbuild.unpack import UnsafeMember, unpack_all
from kbuild.workspace import Workspace, sha256

ENDINGS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_VERSION_FILE = PurePosixPath("hack/lib/version.sh")
_COMMIT = re.compile(r"KUBE_GIT_COMMIT='([0-9a-f]{40})'")
_TAG = re.compile(r"if \[\[ '[^']*\btag: (v[^ ,']+)[^']*' =~")
_CHUNK = 1 << 20
_STEP = 2000  # members between two words of progress


def is_archive(source: str) -> bool:
    """Tell whether a source is an archive: a file, or an address that ends like one."""
    path = urlsplit(source).path if "://" in source else source
    return Path(source).is_file() or ("://" in source and path.endswith(ENDINGS))


def download(source: str, workspace: Workspace, progress: Progress) -> Path:
    """Return the archive as a local file; an address is downloaded into the work folder.

    Raises SourceUnreachable.
    """
    target = workspace.work / "source-archive"
    if "://" not in source:
        return Path(source)
    if target.exists():  # the version was looked up in it
        return target
    try:
        network.download(source, target, "download", progress)
    except network.DownloadFailed as error:
        raise SourceUnreachable(source=shown(source), details=shown(str(error))) from error
    return target


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
    actual = sha256(path)
    if demanded not in (None, actual):
        raise SourceChecksumMismatch(source=shown(source), actual=actual, expected=demanded)
    folder = target.parent / "unpacked"
    folder.mkdir(parents=True)
    with _reading(source), tarfile.open(path) as tar:
        unpack_all(tar, folder, lambda count: _tell(count, progress))
        # A tar ends before its compressed file does, whose own checksum stands last.
        while tar.fileobj.read(_CHUNK):
            pass
    _root(folder, source).rename(target)
    tag = _identity((target / _VERSION_FILE).read_text(errors="replace"), source)
    assert tag.commit is not None
    return SourceTree(
        path=target, tag=tag.name, commit=tag.commit, origin=shown(source), sha256=actual
    )


def _tell(count: int, progress: Progress) -> None:
    if count % _STEP == 0:
        progress.advance("unpack", count, None)


@contextlib.contextmanager
def _reading(source: str) -> Iterator[None]:
    try:
        yield
    except UnsafeMember as error:
        raise UnsafeArchive(source=shown(source), member=error) from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise BrokenArchive(source=shown(source), reason=error) from error
    except OSError as error:
        if error.errno is None:  # gzip and bz2 say so of damaged data
            raise BrokenArchive(source=shown(source), reason=error) from error
        raise


def _root(folder: Path, source: str) -> Path:
    found = [each for each in (folder, *folder.iterdir()) if (each / "cmd/kubeadm").is_dir()]
    if len(found) != 1 or not (found[0] / _VERSION_FILE).is_file():
        raise NotKubernetes(source=shown(source), reason=f"no cmd/kubeadm beside {_VERSION_FILE}")
    return found[0]


def _identity(text: str, source: str) -> Tag:
    commit, tag = _COMMIT.search(text), _TAG.search(text)
    if commit is None or tag is None or not is_tag(tag[1]):
        reason = f"its {_VERSION_FILE} names no commit and tag, as git archive makes it do on a tag"
        raise NotKubernetes(source=shown(source), reason=reason)
    return Tag(name=tag[1], commit=commit[1])
