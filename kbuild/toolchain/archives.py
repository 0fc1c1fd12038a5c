"""A Go for the local builder: one of this machine's, or a download with a known sha256."""

import functools
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from importlib import resources
from pathlib import Path

from kbuild import network
from kbuild.errors import GoChecksumMismatch, GoDownloadFailed, GoNotFound, WrongGo
from kbuild.model import BuildRequest
from kbuild.progress import Progress
from kbuild.sandbox import host_arch
from kbuild.unpack import unpack_all
from kbuild.workspace import Workspace, make_then_move, sha256, shared

_GO_FOLDERS = ("bin", "pkg", "src")
_GO_FILES = ("VERSION", "go.env")
_VERSION_WORDS = 4  # go version go1.15.15 linux/amd64


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
    """Return the version of a GOROOT (``1.15.5``) as its own ``go version`` says, or None."""
    go = go_root.absolute() / "bin/go"
    words = _ask(go, "version", {"GOROOT": str(go_root.absolute())}).split()
    # gccgo names the Go that it is like; it is another compiler.
    if words[:2] != ["go", "version"] or len(words) < _VERSION_WORDS or "gccgo" in words:
        return None
    return words[2].removeprefix("go")


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


def _ask(go: Path, question: str, environment: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        # Else the user's settings, or a newer toolchain that they name, would answer. In a home of
        # its own a Go since 1.23 goes on counting its uses after it has answered.
        clean = {"GOTOOLCHAIN": "local", "GOENV": "off", "HOME": os.devnull, "PATH": os.defpath}
        try:
            done = subprocess.run(
                [go, *question.split()],
                env={**clean, **environment},
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
    return done.stdout.strip() if done.returncode == 0 else ""


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
    # It may be a link or a script, so only itself can tell where its GOROOT is.
    go_root = _ask(Path(go).absolute(), "env GOROOT", {})
    actual = version_of(Path(go_root)) if go_root else None
    if actual == go_version:
        return Path(go_root)
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
