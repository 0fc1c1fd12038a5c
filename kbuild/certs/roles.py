"""What a certificate is for, from where it stands, its subject and its usages."""

import fnmatch
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from kbuild.x509.api import CertificateFacts

_USES = (("server auth", "server"), ("client auth", "client"))


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFile:
    """A file with a well-known name; the fields are explained at the top of layouts.toml."""

    path: str
    role: str
    renew: str = ""
    set: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownName:
    """A well-known subject; the fields are explained at the top of layouts.toml."""

    role: str
    common_name: str = "*"
    organization: str = ""
    usage: str = ""


def usual_places() -> tuple[Path, ...]:
    """Return what is read if no path is given, whether it exists or not."""
    return tuple(Path(place) for place in _layouts()["places"])


@lru_cache(maxsize=1 << 16)
def known_file(path: str) -> KnownFile | None:
    """Return the well-known file that a path is, by its last components; the first that fits."""
    parts = tuple(path.rsplit("/", 4))
    return next((file for file, pattern in _files() if _ends_with(parts, pattern)), None)


def role_of(path: str, place: str, facts: CertificateFacts) -> str:
    """Return what a certificate is for, such as ``API server, server``.

    In a kubeconfig the subject decides, for its name says little; elsewhere the name of the file
    decides, as programs find it by that.
    """
    file, name = known_file(path), _known_name(facts)
    if facts.is_ca:
        by_file = file.role if file and file.role.endswith("CA") and not place else ""
        return by_file or (name if name.endswith("CA") else "") or _ca_role(facts)
    if place.startswith("users["):
        return name or (file.role if file else "") or _by_usages(facts)
    if file and not file.role.endswith("CA"):
        return file.role
    return name or _by_usages(facts)


def _known_name(facts: CertificateFacts) -> str:
    return next((known.role for known in _names() if _is_named(facts, known)), "")


def _ca_role(facts: CertificateFacts) -> str:
    return "cluster CA" if facts.common_name in ("kubernetes", "kubernetes-ca") else "CA"


def _by_usages(facts: CertificateFacts) -> str:
    uses = [use for usage, use in _USES if usage in facts.usages]
    return " and ".join(uses) or "unknown"


def _is_named(facts: CertificateFacts, known: KnownName) -> bool:
    return (
        bool(_matcher(known.common_name)(facts.common_name))
        and (not known.organization or known.organization in facts.organizations)
        and (not known.usage or known.usage in facts.usages)
    )


def _ends_with(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Compare the last component first: it is the one that most paths differ in."""
    if len(parts) < len(pattern):
        return False
    pairs = zip(reversed(parts), reversed(pattern), strict=False)
    return all(_matcher(expected)(part) for part, expected in pairs)


@cache
def _matcher(pattern: str) -> Callable[[str], object]:
    """Return what matches a pattern of fnmatch, quickly if it is a plain word."""
    if not set(pattern) & set("*?["):
        return pattern.__eq__
    return re.compile(fnmatch.translate(pattern)).match


@cache
def _layouts() -> dict[str, Any]:
    return tomllib.loads(resources.files("kbuild.certs").joinpath("layouts.toml").read_text())


@cache
def _files() -> tuple[tuple[KnownFile, tuple[str, ...]], ...]:
    files = [KnownFile(**entry) for entry in _layouts()["file"]]
    return tuple((file, tuple(file.path.split("/"))) for file in files)


@cache
def _names() -> tuple[KnownName, ...]:
    return tuple(KnownName(**entry) for entry in _layouts()["name"])
