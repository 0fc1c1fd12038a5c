"""bundle.json: what a bundle has, and where, when and as what it was obtained."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from kbuild import __version__
from kbuild.base.addresses import LOCAL, shown
from kbuild.base.arches import ARCHES
from kbuild.base.strictjson import load_json
from kbuild.base.values import rfc3339
from kbuild.kubeadm.bundle.container import Listed, is_name
from kbuild.kubeadm.model import Tag
from kbuild.kubeadm.source.versions import is_tag
from kbuild.kubeadm.toolchain.layout import BLOBS, blob_name, is_digest
from kbuild.kubeadm.toolchain.pin import is_go_version

KIND = "kbuild-bundle-v1"
SOURCE = "source"
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_IMAGE = re.compile(r"[a-zA-Z0-9][\w.:/\[\]-]{0,250}", re.ASCII)
MAX_MEMBERS = 1000  # members; an image has about ten, kbuild about a hundred wheels
_MOST_IMAGES = 200  # thirty Go versions for six architectures
_LONGEST = 2000  # characters of an address


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledGo:
    """A Go in a bundle: an archive of the download site, or a GOROOT with the digest of a build.

    ``origin`` is its address; a GOROOT of the machine that made the bundle is ``local``.
    """

    version: str
    arch: str
    kind: Literal["archive", "root"]
    origin: str
    file: str
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledImage:
    """A golang image in a bundle, for one architecture; its blobs are members, by their sha256.

    ``image`` is where it is from, with the digest of its index (``golang@sha256:…``).
    """

    go_version: str
    arch: str
    image: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The content of bundle.json.

    ``source`` is the address without credentials, or ``local:`` and the name of a local one;
    ``source_kind`` tells whether the member ``source`` is a git pack or an archive. ``go_site`` is
    where a download would be from, and ``go_version`` what takes the place of the pins, if
    anything.
    """

    source: str
    source_kind: Literal["git", "archive"]
    tags: tuple[Tag, ...]
    go_site: str
    go_version: str | None
    go: tuple[BundledGo, ...]
    images: tuple[BundledImage, ...]
    members: Mapping[str, Listed]


def text_of(document: Document, created: datetime) -> bytes:
    """Return the document as JSON."""
    about = {
        "kind": KIND,
        "kbuild": __version__,
        "created": rfc3339(created),
        "source": {
            "address": document.source,
            "kind": document.source_kind,
            "tags": [asdict(tag) for tag in document.tags],
        },
        "go_site": document.go_site,
        "go_version": document.go_version,
        "go": [asdict(go) for go in document.go],
        "images": [asdict(image) for image in document.images],
        "members": {name: asdict(listed) for name, listed in sorted(document.members.items())},
    }
    return f"{json.dumps(about, indent=2)}\n".encode()


def parse(text: bytes) -> Document:
    """Parse a bundle.json that is not trusted; raises one of BROKEN."""
    found = load_json(text)
    _demand("kind", found["kind"], found["kind"] == KIND)
    source = found["source"]
    _demand("kind of source", source["kind"], source["kind"] in ("git", "archive"))
    members = {name: _listed(name, each) for name, each in found["members"].items()}
    _demand("number of members", len(members), SOURCE in members and len(members) <= MAX_MEMBERS)
    return Document(
        source=_source(source["address"]),
        source_kind=source["kind"],
        tags=tuple(map(_tag, source["tags"])),
        go_site=_site("go_site", found["go_site"]),
        go_version=_version(found["go_version"]) if found["go_version"] is not None else None,
        go=tuple(_go(each, members) for each in found["go"]),
        images=_images(found.get("images", [])),
        members=members,
    )


def _tag(found: Mapping[str, Any]) -> Tag:
    name, commit = _text("tag", found["name"]), _text("commit", found["commit"])
    _demand("tag", name, is_tag(name))
    _demand("commit", commit, _COMMIT.fullmatch(commit) is not None)
    return Tag(name=name, commit=commit)


def _go(found: Mapping[str, Any], members: Mapping[str, Listed]) -> BundledGo:
    version, digest, kind = _version(found["version"]), found["digest"], found["kind"]
    _demand("architecture of Go", found["arch"], found["arch"] in ARCHES)
    _demand("kind of Go", kind, kind in ("archive", "root"))
    _demand("file of Go", found["file"], found["file"] in members)
    origin = _text("origin of Go", found["origin"])
    _demand("digest of Go", digest, _is_sha256(digest) if kind == "root" else digest is None)
    return BundledGo(
        version=version,
        arch=found["arch"],
        kind=kind,
        origin=origin if origin == "local" else _site("origin of Go", origin),
        file=found["file"],
        digest=digest,
    )


def _images(found: Sequence[Mapping[str, Any]]) -> tuple[BundledImage, ...]:
    _demand("number of images", len(found), len(found) <= _MOST_IMAGES)
    images = tuple(map(_image, found))
    kinds = Counter((image.go_version, image.arch) for image in images)
    for (version, arch), count in kinds.items():
        _demand("list of images", f"{count} for Go {version} and {arch}", count == 1)
    return images


def _image(found: Mapping[str, Any]) -> BundledImage:
    version, arch = _version(found["go_version"]), found["arch"]
    _demand("architecture of an image", arch, arch in ARCHES)
    name, _, digest = _text("image", found["image"]).rpartition("@")
    _demand("image", f"{name}@{digest}", _IMAGE.fullmatch(name) is not None and is_digest(digest))
    return BundledImage(go_version=version, arch=arch, image=f"{name}@{digest}")


def _listed(name: object, found: Mapping[str, Any]) -> Listed:
    _demand("member", name, is_name(name))
    size, digest = found["size"], found["sha256"]
    _demand("size", size, type(size) is int and size >= 0)
    _demand("sha256", digest, _is_sha256(digest))
    is_blob = str(name).startswith(BLOBS)
    _demand("sha256 of a blob", digest, not is_blob or name == blob_name(digest))
    return Listed(size=size, sha256=digest)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _version(value: object) -> str:
    version = _text("Go version", value)
    _demand("Go version", version, is_go_version(version))
    return version


def _source(value: object) -> str:
    """Return what the provenance of a build will name as the source."""
    found = _text("source", value)
    name = found.removeprefix(LOCAL)
    is_local = name != found and "/" not in name
    is_remote = name == found and ":" in found and not re.search(r"^-|[\s\\]", found)
    is_right = is_local or (is_remote and _can_be_parsed(found))
    _demand("source", shown(found), is_right and shown(found) == found)
    return found


def _site(name: str, value: object) -> str:
    found = _text(name, value)
    is_address = re.fullmatch(r"https?://[^\s\\/@]+(/[^\s\\]*)?", found, re.ASCII) is not None
    _demand(name, shown(found), is_address and _can_be_parsed(found) and shown(found) == found)
    return found


def _can_be_parsed(found: str) -> bool:
    """Tell whether an address has no brackets without an end, and a port that can be one."""
    try:
        _ = urlsplit(found).port if "://" in found else None
    except ValueError:
        return False
    return True


def _text(name: str, value: object) -> str:
    is_text = isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable()
    _demand(name, value, is_text)
    return str(value)


def _demand(name: str, value: object, right: bool) -> None:  # noqa: FBT001
    if not right:
        message = f"its {name} cannot be {str(value)[:80]!r}"
        raise ValueError(message)
