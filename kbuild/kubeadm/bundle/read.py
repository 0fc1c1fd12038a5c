"""Build from a bundle: what is in it takes the place of what requests name."""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kbuild.base.disk import DISK_FULL
from kbuild.base.errors import BrokenSource
from kbuild.base.files import BROKEN, reason_of
from kbuild.base.progress import Progress
from kbuild.base.sandbox import host_arch
from kbuild.base.unpack import UnsafeMember
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.bundle.container import opened
from kbuild.kubeadm.bundle.document import SOURCE, BundledGo, BundledImage, Document, parse
from kbuild.kubeadm.bundle.errors import (
    BrokenBundle,
    BundleDamaged,
    NoGoInBundle,
    NoImageInBundle,
    UnsafeBundle,
)
from kbuild.kubeadm.model import BuildRequest, Bundled, GoRequest, ImageLayout, StoredImage
from kbuild.kubeadm.source.store import unpack_tags
from kbuild.kubeadm.toolchain.archives import unpack_root
from kbuild.kubeadm.toolchain.errors import WrongGo
from kbuild.kubeadm.toolchain.layout import Blob, blob_name, read_layout
from kbuild.kubeadm.toolchain.pin import parse_go_version


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unpacked:
    """A bundle in the work directory: its members by name, and its own sha256."""

    path: Path
    document: Document
    members: dict[str, Path]
    sha256: str


def from_bundle(
    path: Path,
    demanded: str | None,
    requests: Sequence[BuildRequest],
    workspace: Workspace,
    progress: Progress,
) -> tuple[BuildRequest, ...]:
    """Unpack a bundle into the work directory, and return the requests for what is in it.

    ``demanded`` is the sha256 that it must have, if any. A Go version that the bundle was made for
    need not be requested again. Raises WrongGo, BundleUnreadable, BrokenBundle,
    UnsafeBundle, BundleTooLarge, BundleDamaged, BundleChecksumMismatch, MemberMissing,
    NoGoInBundle or NoImageInBundle.
    """
    progress.stage("bundle")
    unpacked = _unpack(path, demanded, workspace.work, progress)
    document = unpacked.document
    for request in requests:
        _demand_version(unpacked, request.go.version)
    progress.advance("unpack the source and Go", 0, None)
    bundled = _source(unpacked, workspace.work, demanded=demanded is not None)
    go = _go_request(requests[0].go, unpacked, workspace.work)
    return tuple(
        replace(
            request,
            source=replace(request.source, address=document.source, bundled=bundled),
            go=go,
        )
        for request in requests
    )


def _go_request(asked: GoRequest, unpacked: _Unpacked, work: Path) -> GoRequest:
    """Return the request, with what the bundle has for the builder in place of addresses."""
    document = unpacked.document
    made_for = replace(asked, site=document.go_site, version=document.go_version or asked.version)
    if _is_for_docker(asked, unpacked):
        return replace(made_for, stored_images=images_of(unpacked))
    archives, root = go_of(unpacked, work)
    return replace(made_for, archives=archives, root=root)


def _demand_version(unpacked: _Unpacked, requested: str | None) -> None:
    """Raise WrongGo if another Go is requested than the one that the bundle was made for."""
    made_for = unpacked.document.go_version
    if None not in (made_for, requested) and parse_go_version(str(requested)) != made_for:
        raise WrongGo(
            where=f"the bundle {unpacked.path}", actual=str(made_for), expected=str(requested)
        )


def _unpack(path: Path, demanded: str | None, work: Path, progress: Progress) -> _Unpacked:
    folder = work / "bundle"
    folder.mkdir()
    with opened(path, demanded, progress) as container:
        try:
            document = parse(container.document())
        except BROKEN as error:
            raise BrokenBundle(path=path, reason=reason_of(error)) from error
        members = container.unpack(document.members, folder)
        container.finish()
        actual = container.sha256()
    return _Unpacked(path=path, document=document, members=members, sha256=actual)


def _source(unpacked: _Unpacked, work: Path, *, demanded: bool) -> Bundled:
    document, store, archive = unpacked.document, None, None
    if document.source_kind == "archive":
        archive = unpacked.members[SOURCE]
    else:
        store = work / "bundle.git"
        try:
            unpack_tags(unpacked.members[SOURCE], store, document.source)
        except BrokenSource as error:
            reason = "its source is no git pack"
            raise BrokenBundle(path=unpacked.path, reason=reason, details=error.details) from error
    return Bundled(
        sha256=unpacked.sha256,
        demanded=demanded,
        tags=document.tags,
        store=store,
        archive=archive,
    )


def _is_for_docker(go: GoRequest, unpacked: _Unpacked) -> bool:
    """Tell what of the bundle is used; without a wish, Go for the local builder if it has one."""
    if go.builder != "auto":
        return go.builder == "docker"
    has_go = any(each.arch == host_arch() for each in unpacked.document.go)
    return bool(unpacked.document.images) and not has_go


def images_of(unpacked: _Unpacked) -> tuple[StoredImage, ...]:
    """Return the images, none of which is read yet; raises NoImageInBundle."""
    if not unpacked.document.images:
        raise NoImageInBundle(path=unpacked.path)
    return tuple(
        StoredImage(image=each.image, arch=each.arch, read=partial(_layout, unpacked, each))
        for each in unpacked.document.images
    )


def _layout(unpacked: _Unpacked, image: BundledImage) -> ImageLayout:
    """Read an image; each blob has the digest by which the one before names it."""

    def get(blob: Blob) -> Path:
        name = blob_name(blob.digest)
        if name not in unpacked.members:
            message = f"it lacks {blob.digest}"
            raise ValueError(message)
        return unpacked.members[name]

    try:
        return read_layout(image.image, image.arch, get)
    except (OSError, *BROKEN) as error:
        reason = f"its image {image.image} for {image.arch} is unusable: {reason_of(error)}"
        raise BrokenBundle(path=unpacked.path, reason=reason) from error


def go_of(unpacked: _Unpacked, work: Path) -> tuple[dict[str, Path], Path | None]:
    """Return the archives for this machine by Go version, and the GOROOT if there is one."""
    every = unpacked.document.go
    mine = [go for go in every if go.arch == host_arch()]
    if not mine:
        known = ", ".join(sorted({go.arch for go in every})) or "none"
        raise NoGoInBundle(path=unpacked.path, arch=host_arch(), known=known)
    roots = [go for go in mine if go.kind == "root"]
    archives = {go.version: unpacked.members[go.file] for go in mine if go.kind == "archive"}
    return archives, _root(unpacked, roots[0], work / "bundle-go") if roots else None


def _root(unpacked: _Unpacked, go: BundledGo, target: Path) -> Path:
    try:
        actual = unpack_root(unpacked.members[go.file], target)
    except UnsafeMember as error:
        raise UnsafeBundle(path=unpacked.path, member=f"{go.file}: {error}") from error
    # RuntimeError: links in a circle (pathlib, Python 3.11).
    except (tarfile.TarError, OSError, RuntimeError, *BROKEN) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason = f"{go.file} is no GOROOT: {reason_of(error)}"
        raise BrokenBundle(path=unpacked.path, reason=reason) from error
    if actual != go.digest:
        raise BundleDamaged(
            path=unpacked.path, member=go.file, actual=actual, expected=str(go.digest)
        )
    return target
