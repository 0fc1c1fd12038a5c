"""The parts of an image, from its digest down to its layers, and an archive of them for an engine.

Each document names the next ones by their sha256, so whoever has the digest of an image needs to
trust nobody for the rest. Sources: the OCI image specification, v1.1 (index, manifest, layout), and
Docker's registry v2 specification (manifest v2, schema 2), whose documents have the same fields.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.base import tarblocks
from kbuild.base.files import BROKEN, read_file, reason_of
from kbuild.base.progress import Progress
from kbuild.base.registry import Repository
from kbuild.base.strictjson import load_json
from kbuild.kubeadm.model import ImageLayout
from kbuild.kubeadm.toolchain.errors import ImageUnusable

# Bytes. The index of the official image has 15 KB, its manifests 3 KB and its configurations 10 KB;
# a parser takes seconds for some documents of megabytes.
MAX_DOCUMENT = 256 << 10
_MAX_MANIFEST = 4 << 20  # bytes of a download, as registries and engines have it
BLOBS = "blobs/sha256/"
_OCI, _DOCKER = "application/vnd.oci.image", "application/vnd.docker"
_INDEX = (f"{_OCI}.index.v1+json", f"{_DOCKER}.distribution.manifest.list.v2+json")
_MANIFEST = (f"{_OCI}.manifest.v1+json", f"{_DOCKER}.distribution.manifest.v2+json")
_CONFIG = (f"{_OCI}.config.v1+json", f"{_DOCKER}.container.image.v1+json")
_LAYER = (
    *(f"{_OCI}.layer.v1.tar{packed}" for packed in ("", "+gzip", "+zstd")),
    *(f"{_DOCKER}.image.rootfs.diff.tar{packed}" for packed in ("", ".gzip", ".zstd")),
)
# What Kubernetes is compiled for (GOARM=7), and what machines of the 64-bit architecture have.
_VARIANTS = {"arm": "v7", "arm64": "v8"}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_MOST_LAYERS = 127  # as in an engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob that a document names; ``size`` is None if only its digest is known."""

    digest: str
    media_type: str
    size: int | None

    @property
    def is_manifest(self) -> bool:
        """Return whether a registry has it among its manifests."""
        return self.media_type in (*_INDEX, *_MANIFEST)


def read_layout(image: str, arch: str, get: Callable[[Blob], Path]) -> ImageLayout:
    """Return the parts of an image (``golang@sha256:…``) for an architecture.

    ``get`` returns the file of a blob, whose sha256 it has checked. Raises OSError or one of
    BROKEN.
    """
    found: dict[str, Path] = {}

    def document(blob: Blob) -> Any:  # noqa: ANN401  # as load_json
        found[blob.digest], content = _document(blob, get)
        return content

    blob = Blob(digest=image.rpartition("@")[2], media_type=_INDEX[0], size=None)
    content = document(blob)
    if "manifests" in content:
        blob = _of_arch(content["manifests"], arch)
        content = document(blob)
    else:
        blob = Blob(
            digest=blob.digest, media_type=content.get("mediaType", _MANIFEST[0]), size=None
        )
    _demand(blob.media_type in _MANIFEST and content["schemaVersion"] == 2, "its manifest is old")  # noqa: PLR2004
    config = _blob(content["config"], _CONFIG)
    layers = tuple(_blob(each, _LAYER) for each in content["layers"])
    about = document(config)
    _demand((about["os"], about["architecture"]) == ("linux", arch), f"it is not for linux/{arch}")
    count = len(about["rootfs"]["diff_ids"])
    _demand(0 < count == len(layers) <= _MOST_LAYERS, "its layers are not those it was made of")
    for layer in layers:
        found[layer.digest] = _sized(get(layer), layer)
    return ImageLayout(
        image=image,
        arch=arch,
        manifest=blob.digest,
        media_type=blob.media_type,
        config=config.digest,
        layers=tuple(layer.digest for layer in layers),
        blobs=found,
    )


def fetch_layout(image: str, arch: str, folder: Path, progress: Progress) -> ImageLayout:
    """Download the parts of an image for an architecture; what is in ``folder`` already is kept.

    Raises ImageUnusable, and the errors of a repository.
    """
    name = image.rpartition("@")[0]
    repository = Repository(re.sub(r":[^/:]*$", "", name), progress)
    folder.mkdir(exist_ok=True)

    def get(blob: Blob) -> Path:
        path = folder / blob.digest.removeprefix("sha256:")
        if not path.exists():
            part = path.with_suffix(".part")
            if blob.is_manifest:
                repository.manifest(blob.digest, part, _MAX_MANIFEST)
            else:
                repository.blob(blob.digest, part)
            part.rename(path)
        return path

    try:
        return read_layout(image, arch, get)
    except BROKEN as error:
        raise ImageUnusable(image=image, reason=reason_of(error)) from error


def archive_of(layout: ImageLayout) -> Iterator[bytes]:
    """Yield an archive of an image for ``docker load``.

    It is a docker archive and an OCI layout in one, as ``docker save`` writes it since v25: older
    engines and podman read manifest.json, the image store of containerd reads index.json.
    """
    manifest = {
        "mediaType": layout.media_type,
        "digest": layout.manifest,
        "size": layout.blobs[layout.manifest].stat().st_size,
    }
    index = {"schemaVersion": 2, "mediaType": _INDEX[0], "manifests": [manifest]}
    listed = {
        "Config": blob_name(layout.config),
        "RepoTags": None,
        "Layers": [blob_name(layer) for layer in layout.layers],
    }
    texts = {
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "index.json": index,
        "manifest.json": [listed],
    }
    for digest in dict.fromkeys((layout.manifest, layout.config, *layout.layers)):
        yield from tarblocks.of_file(blob_name(digest), layout.blobs[digest])
    for name, content in texts.items():
        yield from tarblocks.of_text(name, json.dumps(content).encode())
    yield tarblocks.END


def is_digest(text: object) -> bool:
    """Return whether this is the digest of a blob."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def blob_name(digest: str) -> str:
    """Return the name of a blob in an OCI layout, and in a bundle."""
    return BLOBS + digest.removeprefix("sha256:")


def _of_arch(manifests: Any, arch: str) -> Blob:  # noqa: ANN401  # of a document
    variants = (None, "", _VARIANTS.get(arch))
    platforms = [(each.get("platform") or {}, each) for each in manifests]
    right = [
        each
        for platform, each in platforms
        if (platform.get("os"), platform.get("architecture")) == ("linux", arch)
        and platform.get("variant") in variants
    ]
    _demand(bool(right), f"it has no image for linux/{arch}")
    return _blob(right[0], _MANIFEST)


def _blob(found: Any, kinds: tuple[str, ...]) -> Blob:  # noqa: ANN401  # of a document
    digest, kind, size = found["digest"], found["mediaType"], found["size"]
    _demand(is_digest(digest), f"{str(digest)[:80]!r} is not a digest")
    _demand(kind in kinds, f"it has a part of the type {str(kind)[:80]!r}")
    _demand(type(size) is int, "the size of a part is not a number")
    return Blob(digest=digest, media_type=kind, size=size)


def _sized(path: Path, blob: Blob) -> Path:
    is_right = blob.size is None or path.stat().st_size == blob.size
    _demand(is_right, f"{blob.digest} has not the size that it should have")
    return path


def _document(blob: Blob, get: Callable[[Blob], Path]) -> tuple[Path, Any]:
    _demand_small(blob, blob.size or 0)
    path = _sized(get(blob), blob)
    _demand_small(blob, path.stat().st_size)
    return path, load_json(read_file(path, MAX_DOCUMENT))


def _demand_small(blob: Blob, size: int) -> None:
    _demand(size <= MAX_DOCUMENT, f"{blob.digest} is larger than {MAX_DOCUMENT} bytes")


def _demand(right: bool, reason: str) -> None:  # noqa: FBT001
    if not right:
        raise ValueError(reason)
