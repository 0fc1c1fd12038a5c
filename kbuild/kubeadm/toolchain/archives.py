"""Find a Go for the local builder: on this machine, or a download with a known sha256."""

import functools
import hashlib
import os
import posixpath
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path, PurePosixPath

from kbuild.base import network, sandbox
from kbuild.base.disk import make_then_move, remove
from kbuild.base.files import sha256
from kbuild.base.progress import Progress
from kbuild.base.sandbox import Limits, Sandbox, host_arch
from kbuild.base.unpack import checked, open_tar, unpack_all
from kbuild.base.workspace import Workspace, shared
from kbuild.kubeadm.model import GoRequest
from kbuild.kubeadm.toolchain.errors import (
    GoChecksumMismatch,
    GoDownloadFailed,
    GoNotFound,
    WrongGo,
)

_VERSION_WORDS = 4  # go version go1.15.15 linux/amd64
_GOROOT = PurePosixPath("/usr/local/go")
_TOP = "go"  # the one directory of an archive
_MIB = 1 << 20
_LIMITS = Limits(processes=256, memory=512 * _MIB, disk=16 * _MIB, printed=_MIB, seconds=60)


def find_go(go_version: str, request: GoRequest, workspace: Workspace, progress: Progress) -> Path:
    """Return a GOROOT of exactly this version.

    It is the first of: ``--go-root``, ``go`` on PATH, an earlier download, a new download. With
    ``archives``, only these take the place of a download. Raises WrongGo, GoNotFound,
    GoDownloadFailed or GoChecksumMismatch.
    """
    if request.root is not None:
        return _demanded(go_version, request.root, workspace.work)
    if request.archives is not None:
        archive = bundled_archive(go_version, request.archives)
        return _downloaded(go_version, archive, workspace, progress)
    if (found := _on_path(go_version, workspace.work, progress)) is not None:
        return found
    return _downloaded(go_version, request.site, workspace, progress)


def bundled_archive(go_version: str, archives: Mapping[str, Path]) -> Path:
    """Return the archive of a Go version in a bundle; raises GoNotFound or GoChecksumMismatch."""
    if go_version not in archives:
        raise _unusable(go_version, "the bundle has none")
    archive = archives[go_version]
    _demand_sum(str(archive), archive, shipped_sum(go_version)[1])
    return archive


def version_of(go_root: Path, scratch: Path) -> str | None:
    """Return the version that a GOROOT reports (``1.15.5``), or None.

    It is not trusted, so it runs in a sandbox, with files in ``scratch``. Raises
    SandboxUnavailable or SandboxLimit.
    """
    if not (go_root / "bin/go").is_file():
        return None
    with tempfile.TemporaryDirectory(prefix="go-", dir=scratch) as work:
        place = Sandbox(
            work=Path(work),
            binds=[*sandbox.system_binds(), *sandbox.folder_binds(go_root, _GOROOT)],
            # Otherwise a newer toolchain in go.env would answer.
            environment={
                "GOROOT": str(_GOROOT),
                "GOTOOLCHAIN": "local",
                "GOENV": "off",
                "HOME": "/tmp",
            },
            limits=_LIMITS,
            purpose=f"`go version` of {go_root}",
        )
        ended = place.start([str(_GOROOT / "bin/go"), "version"], merge=False).wait()
    words = ended.out.decode(errors="replace").split()
    # gccgo is another compiler that reports the Go version it implements.
    if ended.code or words[:2] != ["go", "version"] or len(words) < _VERSION_WORDS:
        return None
    return None if "gccgo" in words else words[2].removeprefix("go")


@functools.cache
def digest_of(go_root: Path) -> str:
    """Return a sha256 of everything in a GOROOT that a build sees.

    It is the sha256 of sorted records, one for each entry that the sandbox shows: its kind, its
    name, and the sha256 of its content or the target of a link. A NUL ends each field, because no
    name contains one. Each process reads a GOROOT once. Raises OSError.
    """
    records = [_record(name, path) for name, path in _entries(go_root)]
    return hashlib.sha256(b"".join(sorted(records))).hexdigest()


def _entries(go_root: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and path of all but the directories that a build sees in a GOROOT."""
    for name, path in sandbox.shown_entries(go_root):
        if not path.is_dir():
            yield name, path
        for folder, folders, names in os.walk(path):
            below = Path(name, Path(folder).relative_to(path))
            links = [each for each in folders if Path(folder, each).is_symlink()]
            yield from ((str(below / each), Path(folder, each)) for each in names + links)


def _record(name: str, path: Path) -> bytes:
    if path.is_symlink():
        fields = ("link", name, str(path.readlink()))
    elif path.is_file():
        fields = ("file", name, sha256(path))
    else:
        fields = ("other", name, "")
    return b"".join(os.fsencode(field) + b"\0" for field in fields)


def demanded_version(go_version: str | None, go_root: Path, scratch: Path) -> str:
    """Return the version of a GOROOT; raises WrongGo if it is another one, or GoNotFound.

    Without ``go_version``, any is right.
    """
    wanted = go_version or "the pinned version"
    try:
        actual = version_of(go_root, scratch)
    except OSError as error:
        raise _unusable(wanted, f"{go_root}: {error.strerror}") from error
    if actual is None:
        raise _unusable(wanted, f"{go_root} has no bin/go that runs")
    if go_version not in (None, actual):
        raise WrongGo(where=str(go_root), actual=actual, expected=wanted)
    return actual


def _demanded(go_version: str, go_root: Path, scratch: Path) -> Path:
    demanded_version(go_version, go_root, scratch)
    return go_root.absolute()


def _unusable(go_version: str, reason: str) -> GoNotFound:
    return GoNotFound(go_version=go_version, arch=host_arch(), reason=reason)


def _on_path(go_version: str, scratch: Path, progress: Progress) -> Path | None:
    if (go := shutil.which("go")) is None:
        return None
    # Distributions link to bin/go of the GOROOT. A script could run anything, so it is not run.
    go_root = Path(go).resolve().parents[1]
    try:
        actual = version_of(go_root, scratch) if (go_root / "pkg/tool").is_dir() else None
    except OSError:
        actual = None
    if actual == go_version:
        return go_root
    progress.detail(f"{go} is Go {actual or 'of an unknown version'}, not {go_version}")
    return None


def archive_for(
    go_version: str, arch: str, site: str, workspace: Workspace, progress: Progress
) -> tuple[Path, str]:
    """Return the archive of a Go version for machines of an architecture, and its address.

    It is in the cache, or is downloaded to the work directory. Raises GoNotFound, GoDownloadFailed
    or GoChecksumMismatch.
    """
    name, expected = shipped_sum(go_version, arch)
    kept, url = workspace.cache / "go" / f"go{go_version}" / name, _url(site, name)
    if _has_sum(kept, expected):
        return kept, url
    _download(url, workspace.work / name, expected, progress)
    return workspace.work / name, url


def pack_root(go_version: str, go_root: Path, target: Path, workspace: Workspace) -> str:
    """Write a tar of a GOROOT as a build sees it, and return the digest of that.

    The same GOROOT makes the same bytes. Raises WrongGo or GoNotFound.
    """
    go_root = _demanded(go_version, go_root, workspace.work)
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, path in sorted(_entries(go_root)):
            member = tarfile.TarInfo(name)
            if path.is_symlink():
                member.type, member.linkname = tarfile.SYMTYPE, str(path.readlink())
                tar.addfile(member)
            elif path.is_file():
                status = path.stat()
                member.size, member.mode = (
                    status.st_size,
                    0o755 if status.st_mode & 0o100 else 0o644,
                )
                with path.open("rb") as file:
                    tar.addfile(member, file)
    return digest_of(go_root)


def unpack_root(archive: Path, target: Path) -> str:
    """Unpack a GOROOT that ``pack_root`` has written, and return its digest.

    Raises UnsafeMember, OSError or the errors of tarfile.
    """
    with open_tar(archive) as tar:
        unpack_all(tar, target)
    return digest_of(target)


def _url(site: str, name: str) -> str:
    return f"{site.rstrip('/')}/{name}"


def _downloaded(
    go_version: str, origin: str | Path, workspace: Workspace, progress: Progress
) -> Path:
    """Return the GOROOT of a download: go/go<version>/ in the cache holds the archive and ``root``.

    ``origin`` is the site, or the archive if it is here already. On each use, every file of
    ``root`` is compared with the archive, and the archive with the sha256 that ships with kbuild.
    What is damaged is made again.
    """
    name, expected = shipped_sum(go_version)
    folder = workspace.cache / "go" / f"go{go_version}"
    archive, go_root = folder / name, folder / "root"
    with shared(workspace, folder.name):
        progress.advance(f"check Go {go_version}", 0, None)
        if os.path.lexists(folder) and not _has_sum(archive, expected):
            progress.say(f"the archive of Go {go_version} in the cache is damaged, downloading it")
            remove(folder)
        if not folder.exists():
            with make_then_move(folder) as made:
                if isinstance(origin, Path):
                    shutil.copyfile(origin, made / name)
                    _demand_sum(str(origin), made / name, expected)
                else:
                    _download(_url(origin, name), made / name, expected, progress)
                progress.advance(f"unpack Go {go_version}", 0, None)
                _unpack(made / name, made / "root")
                _demanded(go_version, made / "root", workspace.work)
        elif (damage := _damage(archive, go_root)) is not None:
            progress.say(f"Go {go_version} in the cache is damaged ({damage}), unpacking it again")
            _unpack(archive, go_root)
    os.utime(folder)  # the time of its last use
    return go_root


def _has_sum(archive: Path, expected: str) -> bool:
    try:
        return sha256(archive) == expected
    except OSError:
        return False


def _download(url: str, archive: Path, expected: str, progress: Progress) -> None:
    try:
        network.download(url, archive, f"download {archive.name}", progress)
    except network.DownloadFailed as error:
        raise GoDownloadFailed(url=url, reason=str(error)) from error
    _demand_sum(url, archive, expected)


def _demand_sum(url: str, archive: Path, expected: str) -> None:
    actual = sha256(archive)
    if actual != expected:
        raise GoChecksumMismatch(url=url, actual=actual, expected=expected)


def _unpack(archive: Path, go_root: Path) -> None:
    with make_then_move(go_root) as made, tarfile.open(archive) as tar:
        unpack_all(tar, made)
        for entry in (made / _TOP).iterdir():
            entry.rename(made / entry.name)
        (made / _TOP).rmdir()


def _damage(archive: Path, go_root: Path) -> str | None:
    """Return the name of a file that differs from the archive, or None."""
    if go_root.is_symlink() or not go_root.is_dir():
        return go_root.name
    # os.walk lists links to directories as directories; other directories do not affect a compiler.
    found = {
        Path(folder, name)
        for folder, folders, names in os.walk(go_root)
        for name in [*names, *(each for each in folders if Path(folder, each).is_symlink())]
    }
    with tarfile.open(archive) as tar:
        for member in checked(tar):
            name = PurePosixPath(posixpath.normpath(member.name)).relative_to(_TOP)
            path = go_root / name
            if not member.isdir():
                if path not in found or not _is_as_packed(path, member, tar):
                    return str(name)
                found.remove(path)
    return str(min(found).relative_to(go_root)) if found else None


def _is_as_packed(path: Path, member: tarfile.TarInfo, tar: tarfile.TarFile) -> bool:
    if member.issym():
        return path.is_symlink() and str(path.readlink()) == member.linkname
    file = tar.extractfile(member)
    assert file is not None
    is_executable = bool(member.mode & 0o100)
    return (
        not path.is_symlink()
        and path.is_file()
        and bool(path.stat().st_mode & 0o100) == is_executable
        and path.read_bytes() == file.read()
    )


def shipped_sum(go_version: str, for_arch: str | None = None) -> tuple[str, str]:
    """Return name and sha256 of the archive of a Go version for an architecture, or this machine's.

    Raises GoNotFound when kbuild ships none.
    """
    text = resources.files("kbuild.kubeadm.toolchain").joinpath("go-archives.tsv").read_text()
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    wanted = for_arch or host_arch()
    for version, arch, name, digest, *_ in rows:
        if (version, arch) == (go_version, wanted):
            return name, digest
    reason = "kbuild ships no sha256 to check a download with"
    raise GoNotFound(go_version=go_version, arch=wanted, reason=reason)
