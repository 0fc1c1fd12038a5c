"""A Go for the local builder: one of this machine's, or a download with a known sha256."""

import functools
import hashlib
import os
import shutil
import tarfile
import tempfile
from importlib import resources
from pathlib import Path, PurePosixPath

from kbuild import network, sandbox
from kbuild.errors import GoChecksumMismatch, GoDownloadFailed, GoNotFound, WrongGo
from kbuild.model import BuildRequest
from kbuild.progress import Progress
from kbuild.sandbox import Limits, Sandbox, host_arch
from kbuild.unpack import unpack_all
from kbuild.workspace import Workspace, make_then_move, sha256, shared

_GO_FOLDERS = ("bin", "pkg", "src")
_GO_FILES = ("VERSION", "go.env")
_VERSION_WORDS = 4  # go version go1.15.15 linux/amd64
_GOROOT = PurePosixPath("/usr/local/go")
_MIB = 1 << 20
_LIMITS = Limits(processes=256, memory=512 * _MIB, disk=16 * _MIB, printed=_MIB, seconds=60)


def find_go(
    go_version: str, request: BuildRequest, workspace: Workspace, progress: Progress
) -> Path:
    """Return a GOROOT of exactly that version.

    The first of: ``--go-root``, ``go`` on PATH, an earlier download, a download. Raises WrongGo,
    GoNotFound, GoDownloadFailed or GoChecksumMismatch.
    """
    if request.go_root is not None:
        return _demanded(go_version, request.go_root)
    if (found := _on_path(go_version, progress)) is not None:
        return found
    return _downloaded(go_version, request.go_site, workspace, progress)


def version_of(go_root: Path) -> str | None:
    """Return the version of a GOROOT (``1.15.5``) as its own ``go version`` says, or None.

    It runs in the sandbox: nobody knows yet what it is. Raises SandboxUnavailable or SandboxLimit.
    """
    if not (go_root / "bin/go").is_file():
        return None
    with tempfile.TemporaryDirectory(prefix="kbuild-go-") as work:
        place = Sandbox(
            work=Path(work),
            binds=[*sandbox.system_binds(), *sandbox.folder_binds(go_root, _GOROOT)],
            # Else a newer toolchain that go.env names would answer.
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
    # gccgo names the Go that it is like; it is another compiler.
    if ended.code or words[:2] != ["go", "version"] or len(words) < _VERSION_WORDS:
        return None
    return None if "gccgo" in words else words[2].removeprefix("go")


@functools.cache
def digest_of(go_root: Path) -> str:
    """Return a sha256 of all of a GOROOT that a build reads: programs, library, settings.

    It is the sha256 of sorted lines as sha256sum prints them, one for each file below bin, pkg and
    src, for VERSION and for go.env. A link counts as what it points at: Debian's GOROOT has links
    to /usr/share. A GOROOT is read once in the life of a process.
    """
    files = [go_root / name for name in _GO_FILES] + [
        Path(folder, name)
        for top in _GO_FOLDERS
        for folder, folders, names in os.walk(go_root / top, followlinks=True)
        if not _is_loop(Path(folder), folders)
        for name in names
    ]
    lines = sorted(f"{sha256(p)}  {p.relative_to(go_root)}\n" for p in files if p.is_file())
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _is_loop(folder: Path, folders: list[str]) -> bool:
    """Tell whether a folder is a link to one above it; then nothing below it is visited."""
    if folder.is_symlink() and folder.resolve() in (p.resolve() for p in folder.parents):
        folders.clear()
        return True
    return False


def _demanded(go_version: str, go_root: Path) -> Path:
    actual = version_of(go_root)
    if actual is None:
        reason = f"{go_root} has no bin/go that runs"
        raise GoNotFound(go_version=go_version, arch=host_arch(), reason=reason)
    if actual != go_version:
        raise WrongGo(where=go_root, actual=actual, expected=go_version)
    return go_root.absolute()


def _on_path(go_version: str, progress: Progress) -> Path | None:
    if (go := shutil.which("go")) is None:
        return None
    # Distributions link to bin/go of the GOROOT. A script may run anything, so it is not asked.
    go_root = Path(go).resolve().parents[1]
    actual = version_of(go_root) if (go_root / "pkg/tool").is_dir() else None
    if actual == go_version:
        return go_root
    progress.detail(f"{go} is Go {actual or 'of no known version'}, not {go_version}")
    return None


def _downloaded(go_version: str, site: str, workspace: Workspace, progress: Progress) -> Path:
    name, expected = _shipped_sum(go_version)
    target = workspace.cache / "go" / f"go{go_version}"
    with shared(workspace, target.name):
        if target.is_dir():
            return _demanded(go_version, target)
        url = f"{site.rstrip('/')}/{name}"
        archive = workspace.work / name
        try:
            network.download(url, archive, "download Go", progress)
        except network.DownloadFailed as error:
            raise GoDownloadFailed(url=url, reason=error) from error
        actual = sha256(archive)
        if actual != expected:
            raise GoChecksumMismatch(url=url, actual=actual, expected=expected)
        with make_then_move(target) as made, tarfile.open(archive) as tar:
            unpack_all(tar, made)
            for entry in (made / "go").iterdir():
                entry.rename(made / entry.name)
            (made / "go").rmdir()
            _demanded(go_version, made)
    return target


def _shipped_sum(go_version: str) -> tuple[str, str]:
    text = resources.files("kbuild.toolchain").joinpath("go-archives.tsv").read_text()
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    for version, arch, name, digest, *_ in rows:
        if (version, arch) == (go_version, host_arch()):
            return name, digest
    reason = "kbuild ships no sha256 to check a download with"
    raise GoNotFound(go_version=go_version, arch=host_arch(), reason=reason)
