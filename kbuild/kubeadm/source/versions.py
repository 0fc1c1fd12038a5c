"""Find the tag of a version."""

import re
from collections.abc import Iterable

from packaging.version import Version

from kbuild.base.errors import UnsupportedVersion
from kbuild.kubeadm.model import Tag
from kbuild.kubeadm.source.errors import BadVersion, TagNotFound

OLDEST = "v1.13.0"
STABLE, LATEST = "stable", "latest"
_FULL = re.compile(r"v?(\d{1,4}\.\d{1,4}\.\d{1,4}(?:-(?:alpha|beta|rc)\.\d{1,4})?)", re.ASCII)
_MINOR = re.compile(r"v?(\d{1,4}\.\d{1,4})", re.ASCII)


def is_tag(name: str) -> bool:
    """Return whether a git tag names a Kubernetes release or pre-release."""
    return name.startswith("v") and _FULL.fullmatch(name) is not None


def full_tag(text: str) -> str | None:
    """Return ``v1.23.0`` for a full version, or None for a minor version, ``stable`` or ``latest``.

    The words mean the same as in https://dl.k8s.io/release/stable.txt and latest.txt. Raises
    BadVersion, or UnsupportedVersion when it is older than v1.13.0.
    """
    if text in (STABLE, LATEST):
        return None
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
    """Return whether a version as the user typed it can mean this tag."""
    wanted = full_tag(text)
    return tag.name == wanted if wanted else tag in _meant(text, [tag])


def newest_of(text: str, tags: Iterable[Tag], source: str) -> Tag:
    """Return the newest tag of a minor version, or of all if the version is stable or latest.

    A pre-release is the newest only if there is no release, or if the version is latest. Raises
    TagNotFound.
    """
    found = _meant(text, tags)
    releases = [tag for tag in found if not tag.version.is_prerelease]
    if not found:
        raise TagNotFound(source=source, version=text, suggestion="")
    return max(found if text == LATEST else releases or found, key=lambda tag: tag.version)


def _meant(text: str, tags: Iterable[Tag]) -> list[Tag]:
    """Return the tags of a minor version, or those that are stable, or all for latest."""
    if text == LATEST:
        return list(tags)
    if text == STABLE:
        return [tag for tag in tags if not tag.version.is_prerelease]
    return [tag for tag in tags if tag.version.release[:2] == Version(text).release]


def since(text: str, tags: Iterable[Tag]) -> list[Tag]:
    """Return the tags from a version on; a minor version includes its pre-releases.

    Raises BadVersion or UnsupportedVersion.
    """
    if text in (STABLE, LATEST):
        raise BadVersion(text=text)
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
