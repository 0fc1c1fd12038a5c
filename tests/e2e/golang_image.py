"""Golang images made from Debian's packages, in the layout of the official ones."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docker import DockerClient

from tests.support import debian

SUITE = "bookworm"
# A shell, the basic tools, and the libraries that they and Debian's Go are linked with.
PACKAGES = (
    "bash",
    "coreutils",
    "dash",
    "libacl1",
    "libattr1",
    "libc6",
    "libgmp10",
    "libpcre2-8-0",
    "libselinux1",
    "libtinfo6",
)
PATH = "/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def root_file_system(cache: Path, folder: Path) -> Path:
    """Make a root file system with a shell and no Go."""
    debian.unpack(cache, SUITE, PACKAGES, folder)
    for name in ("etc", "go", "root", "tmp", "usr/local"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("go", "tmp"):
        (folder / name).chmod(0o1777)
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (folder / "etc/group").write_text("root:x:0:\n")
    return folder


def write_fake_go(root: Path, version: str) -> None:
    """Put a Go there that can only tell its version."""
    go = root / "usr/local/go/bin/go"
    go.parent.mkdir(parents=True)
    go.write_text(f"#!/bin/sh\necho go version go{version} linux/amd64\n")
    go.chmod(0o755)


@contextmanager
def imported(engine: DockerClient, root: Path, goroot: Path | None, name: str) -> Iterator[None]:
    """Have ``name`` (repository:tag) in the engine, made of ``root`` and a Go."""
    archive = root.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(root, ".", filter=_as_root)
        if goroot:
            tar.add(goroot, "usr/local/go", filter=_as_root)
    repository, _, tag = name.rpartition(":")
    changes = [f"ENV PATH={PATH}", "ENV GOPATH=/go", "WORKDIR /go", 'CMD ["bash"]']
    try:
        engine.api.import_image_from_file(
            str(archive), repository=repository, tag=tag, changes=changes
        )
        yield
    finally:
        archive.unlink()
        engine.images.remove(name, force=True)


def push(engine: DockerClient, name: str) -> str:
    """Push ``name`` (repository:tag); give it by its digest."""
    repository, _, tag = name.rpartition(":")
    for event in engine.images.push(repository, tag=tag, stream=True, decode=True):
        if "error" in event:
            raise AssertionError(event["error"])
    (by_digest,) = engine.images.get(name).attrs["RepoDigests"]
    return str(by_digest)


def containers(engine: DockerClient, image: str) -> list[str]:
    """Return the names of all containers of an image, running or not."""
    all_ = engine.containers.list(all=True, ignore_removed=True)
    return [str(each.name) for each in all_ if each.attrs["Config"]["Image"] == image]


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
