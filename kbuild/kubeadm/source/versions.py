"""Find the tag of a version."""

import re
from collections.abc import Iterable

from packaging.version import Version

from kbuild.base.errors import UnsupportedVersion
from kbuild.kubeadm.model import Tag
from kbuild.kubeadm.source.errors import BadVersion, TagNotFound

OLDEST = "v1.13.0"
_FULL = re.compile(r"v?(\d{1,4}\.\d{1,4}\.\d{1,4}(?:-(?:alpha|beta|rc)\.\d{1,4})?)", re.ASCII)
_MINOR = re.compile(r"v?(\d{1,4}\.\d{1,4})", re.ASCII)


def is_tag(name: str) -> bool:
    """Return whether a git tag names a Kubernetes release or pre-release."""
    return name.startswith("v") and _FULL.fullmatch(name) is not None


def full_tag(text: str) -> str | None:
    """Return ``v1.23.0`` for a full version, or None for a minor version such as ``1.23``.

    Raises BadVersion, or UnsupportedVersion when it is older than v1.13.0.
    """
    if match := _FULL.fullmatch(text):
        tag = f"v{match[1]}"
        if Version(tag) < Version(OLDEST):
            raise UnsupportedVersion(version=tag, oldest=OLDEST)
        return tag
    if (match := _MINOR.fullmatch(text)) is None:
        raise BadVersion(text=text)
    if Version(match[1]).release < Version(OLDEST).release[:2]:
        raise UnsupportedVersion(version=text, oldest=OLDEST)
    return None


def stands_for(text: str, tag: Tag) -> bool:
    """Return whether a version as the user typed it, full or minor, means this tag."""
    wanted = full_tag(text)
    return tag.name == wanted if wanted else tag.version.release[:2] == Version(text).release


def newest_of(text: str, tags: Iterable[Tag], source: str) -> Tag:
    """Return the newest patch release of a minor version, or a pre-release if there is no release.

    Raises TagNotFound.
    """
    minor = Version(text).release
    found = [tag for tag in tags if tag.version.release[:2] == minor]
    releases = [tag for tag in found if not tag.version.is_prerelease]
    if not found:
        raise TagNotFound(source=source, version=text, suggestion="")
    return max(releases or found, key=lambda tag: tag.version)


def since(text: str, tags: Iterable[Tag]) -> list[Tag]:
    """Return the tags from a version on; a minor version includes its pre-releases.

    Raises BadVersion or UnsupportedVersion.
    """
    oldest = Version(full_tag(text) or f"{text}.0.dev0")
    return [tag for tag in tags if tag.version >= oldest]


def newest_of_each_minor(tags: Iterable[Tag]) -> list[Tag]:
    """Return the newest tag of each minor version, oldest first."""
    newest: dict[tuple[int, ...], Tag] = {}
    for tag in sorted(tags, key=lambda tag: tag.version):
        newest[tag.version.release[:2]] = tag
    return list(newest.values())


def missing(tag: str, tags: Iterable[Tag], source: str) -> TagNotFound:
    """Return the error for a tag that the source does not have, with the nearest tag."""
    wanted = Version(tag)

    def distance(each: Tag) -> tuple[int, int]:
        return abs(each.version.minor - wanted.minor), abs(each.version.micro - wanted.micro)

    nearest = min(tags, key=distance, default=None)
    suggestion = f"; the nearest is {nearest.name}" if nearest else ""
    return TagNotFound(source=source, version=tag, suggestion=suggestion)
