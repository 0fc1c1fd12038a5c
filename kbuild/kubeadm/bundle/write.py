"""Make a bundle: fetch what builds need, and write it to one file that appears whole."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from kbuild.base.addresses import recorded, shown
from kbuild.base.disk import beside, disk_errors, resolved
from kbuild.base.errors import OutputExists, OutputNotReplaceable
from kbuild.base.files import BROKEN, reason_of, sha256
from kbuild.base.progress import Progress
from kbuild.base.sandbox import host_arch
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.bundle import container
from kbuild.kubeadm.bundle.container import DOCUMENT, Listed
from kbuild.kubeadm.bundle.document import (
    SOURCE,
    BundledGo,
    BundledImage,
    Document,
    parse,
    text_of,
)
from kbuild.kubeadm.bundle.errors import BundleNotReadable, OutputNotABundle
from kbuild.kubeadm.bundle.wheels import REQUIREMENTS, WHEELS, collect_wheels, made_for
from kbuild.kubeadm.model import BundleRequest, SourceRequest, SourceTree, Tag
from kbuild.kubeadm.source import archive
from kbuild.kubeadm.source.fetch import fetch, is_archive, resolve
from kbuild.kubeadm.source.store import pack_tags
from kbuild.kubeadm.toolchain.archives import archive_for, pack_root
from kbuild.kubeadm.toolchain.choose import wanted_go
from kbuild.kubeadm.toolchain.images import image_for
from kbuild.kubeadm.toolchain.layout import blob_name, fetch_layout
from kbuild.kubeadm.toolchain.pin import parse_go_version

_FIRST = "0"  # the part of the work directory with the source of the first version


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A bundle that was written, and the trees of its tags."""

    path: Path
    sha256: str
    size: int
    document: Document
    trees: tuple[SourceTree, ...]

    @property
    def wheels(self) -> list[str]:
        """Return the file names of the wheels in it."""
        return sorted(
            name.removeprefix(WHEELS)
            for name in self.document.members
            if name.startswith(WHEELS) and name != REQUIREMENTS
        )

    @property
    def wheels_for(self) -> str:
        """Return the Python and the machine that the wheels are for."""
        return made_for(self.wheels)


def make_bundle(request: BundleRequest, workspace: Workspace, progress: Progress) -> Made:
    """Fetch everything that builds of the wanted versions need, and write the bundle.

    Raises OutputExists, OutputNotReplaceable, WheelsUnusable, BundleNotReadable, NotWritable,
    DiskFull, and the errors of a source and of a toolchain.
    """
    _demand_free(request.output, force=request.force)
    wheels = _wheels(request, workspace)
    progress.stage("source")
    trees, members = _trees(request, workspace, progress), dict(wheels)
    tags = tuple(Tag(name=tree.tag, commit=tree.commit) for tree in trees)
    source = request.wanted[0].source
    members[SOURCE] = _source(source, tags, workspace, progress)
    progress.stage("toolchain")
    go, images = _toolchains(trees, request, members, workspace, progress)
    listed = {
        name: Listed(size=path.stat().st_size, sha256=sha256(path))
        for name, path in members.items()
    }
    document = Document(
        source=recorded(source.address),
        source_kind="archive" if is_archive(source) else "git",
        tags=tags,
        go_site=shown(request.go.site),
        go_version=request.go.version and parse_go_version(request.go.version),
        go=go,
        images=images,
        members=listed,
    )
    text = text_of(document, request.created or datetime.now(UTC))
    _demand_readable(request.output, text, document)
    progress.stage("bundle")
    _write(request, text, members, progress)
    return _made(request.output, document, trees)


def _demand_readable(path: Path, text: bytes, document: Document) -> None:
    """Raise BundleNotReadable for a bundle that would be refused when it is read."""
    sizes = [(DOCUMENT, len(text), container.MAX_DOCUMENT)]
    sizes += [(name, one.size, container.MAX_MEMBER) for name, one in document.members.items()]
    for name, size, limit in sizes:
        if size > limit:
            reason = f"{name} has {size} bytes, and at most {limit} are read"
            raise BundleNotReadable(path=path, reason=reason)
    try:
        parse(text)
    except BROKEN as error:
        raise BundleNotReadable(path=path, reason=reason_of(error)) from error


def _made(path: Path, document: Document, trees: Sequence[SourceTree]) -> Made:
    digest, size = sha256(path), path.stat().st_size
    return Made(path=path, sha256=digest, size=size, document=document, trees=tuple(trees))


def _write(
    request: BundleRequest, text: bytes, members: Mapping[str, Path], progress: Progress
) -> None:
    size = sum(path.stat().st_size for path in members.values())

    def told(done: int) -> None:
        progress.advance("write the bundle", done, max(size, done), "bytes")

    with _new_file(request.output, force=request.force) as file:
        container.write(file, text, members, told)
    progress.advance("sha256 of the bundle", 0, None)


def _trees(request: BundleRequest, workspace: Workspace, progress: Progress) -> list[SourceTree]:
    trees: dict[str, SourceTree] = {}
    for number, wanted in enumerate(request.wanted):
        part = workspace.part(str(number))  # the first one is _FIRST
        tag = resolve(wanted, part, progress)
        if tag.name not in trees:  # 1.20 and v1.20.2 may be the same
            trees[tag.name] = fetch(wanted, tag, part, progress)
    return sorted(trees.values(), key=lambda tree: tree.version)


def _wheels(request: BundleRequest, workspace: Workspace) -> dict[str, Path]:
    if request.wheels is None:
        return {}
    return collect_wheels(request.wheels, workspace.work / "requirements.txt")


def _source(
    source: SourceRequest, tags: tuple[Tag, ...], workspace: Workspace, progress: Progress
) -> Path:
    if is_archive(source):
        return archive.kept_at(source.address, workspace.work / _FIRST)
    progress.advance("pack the source", 0, None)
    pack = workspace.work / "source.pack"
    pack_tags(source.address, tags, pack, workspace, progress)
    return pack


def _toolchains(
    trees: Sequence[SourceTree],
    request: BundleRequest,
    members: dict[str, Path],
    workspace: Workspace,
    progress: Progress,
) -> tuple[tuple[BundledGo, ...], tuple[BundledImage, ...]]:
    """Return each Go that the trees need, for each builder, and add its files to the members."""
    versions = sorted({wanted_go(tree, request.go.version)[1] for tree in trees})
    inputs = (versions, request, members, workspace, progress)
    return (
        tuple(_go(*inputs)) if "local" in request.builders else (),
        tuple(_images(*inputs)) if "docker" in request.builders else (),
    )


def _images(
    versions: Sequence[str],
    request: BundleRequest,
    members: dict[str, Path],
    workspace: Workspace,
    progress: Progress,
) -> Iterator[BundledImage]:
    """Yield the image of each Go version, and add its blobs to the members."""
    for version in versions:
        image = image_for(version, request.go, progress)
        for arch in request.arches:
            layout = fetch_layout(image, arch, workspace.work / "blobs", progress)
            members |= {blob_name(digest): path for digest, path in layout.blobs.items()}
            yield BundledImage(go_version=version, arch=arch, image=image)


def _go(
    versions: Sequence[str],
    request: BundleRequest,
    members: dict[str, Path],
    workspace: Workspace,
    progress: Progress,
) -> Iterator[BundledGo]:
    """Yield each Go, and add its file to the members."""
    for version in versions:
        if request.go.root is not None:
            name = f"go{version}.linux-{host_arch()}.tar"
            members[name] = workspace.work / name
            progress.advance(f"pack Go {version}", 0, None)
            digest = pack_root(version, request.go.root, members[name], workspace)
            yield BundledGo(
                version=version,
                arch=host_arch(),
                kind="root",
                origin="local",
                file=name,
                digest=digest,
            )
            continue
        for arch in request.arches:
            file, url = archive_for(version, arch, request.go.site, workspace, progress)
            members[file.name] = file
            yield BundledGo(
                version=version,
                arch=arch,
                kind="archive",
                origin=shown(url),
                file=file.name,
                digest=None,
            )


def _demand_free(output: Path, *, force: bool) -> None:
    with disk_errors(output):
        if not os.path.lexists(output):
            return
        reason = ""
        try:
            if output.is_symlink() or not container.looks_like_one(output):
                reason = "it is not what kbuild bundle writes"
        except OSError as error:
            reason = reason_of(error)
        if reason and force:
            raise OutputNotReplaceable(path=output, reason=reason)
        if reason:
            raise OutputNotABundle(path=output, reason=reason)
        if not force:
            raise OutputExists(path=output)


@contextlib.contextmanager
def _new_file(output: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Open a new file beside ``output`` that becomes it when the block succeeds.

    The file is locked, so that another run can tell it from one that a killed run has left.
    """
    target = resolved(output)
    with disk_errors(output):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        made = beside(target, "new")
        try:
            with made.open("xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield file
                file.flush()
                _demand_free(output, force=force)  # it may have appeared in the meantime
                made.replace(target)
        finally:
            made.unlink(missing_ok=True)


def _sweep(target: Path) -> None:
    """Remove what killed runs have left beside a target."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.kbuild-new-[0-9a-f]{{12}}")
    for left in target.parent.iterdir():
        if pattern.fullmatch(left.name) and left.is_file() and not left.is_symlink():
            with left.open("rb") as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink(missing_ok=True)
