"""What a certificate is for, from where it stands, its subject and its usages."""

import fnmatch
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

Matcher = Callable[[str], object]

_LONGEST = 4  # components of a pattern at most
_SERVER = "server auth"
_USES = ((_SERVER, "server"), ("client auth", "client"))


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFile:
    """A file with a well-known name; the fields are explained at the top of layouts.toml."""

    path: str
    role: str
    renew: str = ""
    set: str = ""
    state: str = ""
    current: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownName:
    """A well-known subject; the fields are explained at the top of layouts.toml."""

    role: str
    common_name: str = "*"
    organization: str = ""
    usages: list[str] = field(default_factory=list)


class Described(Protocol):
    """What tells the role of a certificate: one that is read, or one that is planned."""

    @property
    def common_name(self) -> str:
        """Return the CN, empty if it has none."""

    @property
    def organizations(self) -> tuple[str, ...]:
        """Return each O."""

    @property
    def usages(self) -> tuple[str, ...]:
        """Return the usages in the words of CertificateFacts."""

    @property
    def is_ca(self) -> bool:
        """Tell whether it is a CA."""


def usual_places() -> tuple[Path, ...]:
    """Return what is read if no path is given, whether it exists or not."""
    return tuple(Path(place) for place in _layouts()["places"])


@lru_cache(maxsize=1 << 16)
def known_file(path: str) -> KnownFile | None:
    """Return the well-known file that a path is, by its last components; the first that fits."""
    parts = path.rsplit("/", _LONGEST)
    if not _any_name()(parts[-1]):  # as most paths
        return None
    named = [(file, folders) for is_name, file, folders in _files() if is_name(parts[-1])]
    return next((file for file, folders in named if _are_below(parts[:-1], folders)), None)


def role_of(path: str, place: str, facts: Described) -> str:
    """Return what a certificate is for, such as ``API server, server``.

    In a kubeconfig the subject decides, for its name says little, and the certificate is that of a
    client, whatever else it may be used for. Elsewhere the name of the file decides, as programs
    find it by that.
    """
    is_login = place.startswith("users[")
    file, name = known_file(path), _known_name(facts, is_login=is_login)
    if facts.is_ca:
        by_file = file.role if file and file.role.endswith("CA") and not place else ""
        return by_file or (name if name.endswith("CA") else "") or _ca_role(facts)
    if is_login:
        return name or (file.role if file else "") or _by_usages(facts)
    if file and not file.role.endswith("CA"):
        return file.role
    return name or _by_usages(facts)


def _known_name(facts: Described, *, is_login: bool) -> str:
    names = (known for known in _names() if not (is_login and _SERVER in known.usages))
    return next((known.role for known in names if _is_named(facts, known)), "")


def _ca_role(facts: Described) -> str:
    return "cluster CA" if facts.common_name in ("kubernetes", "kubernetes-ca") else "CA"


def _by_usages(facts: Described) -> str:
    uses = [use for usage, use in _USES if usage in facts.usages]
    return " and ".join(uses) or "unknown"


def _is_named(facts: Described, known: KnownName) -> bool:
    return (
        bool(_matcher(known.common_name)(facts.common_name))
        and (not known.organization or known.organization in facts.organizations)
        and set(known.usages) <= set(facts.usages)
    )


def _are_below(parts: list[str], folders: list[str]) -> bool:
    if len(parts) < len(folders):
        return False
    pairs = zip(reversed(parts), reversed(folders), strict=False)
    return all(_matcher(expected)(part) for part, expected in pairs)


@cache
def _matcher(pattern: str) -> Matcher:
    """Return what matches a pattern of fnmatch, quickly if it is a plain word."""
    if not set(pattern) & set("*?["):
        return pattern.__eq__
    return re.compile(fnmatch.translate(pattern)).match


@cache
def _layouts() -> dict[str, Any]:
    return tomllib.loads(resources.files("kbuild.certs").joinpath("layouts.toml").read_text())


@cache
def _files() -> tuple[tuple[Matcher, KnownFile, list[str]], ...]:
    """Return the well-known files, each with what matches its name, and its folders."""
    files = (KnownFile(**entry) for entry in _layouts()["file"])
    split = ((file, file.path.split("/")) for file in files)
    return tuple((_matcher(parts[-1]), file, parts[:-1]) for file, parts in split)


@cache
def _any_name() -> Matcher:
    """Return what matches the name of each well-known file, whatever its folder."""
    names = {file.path.rpartition("/")[2] for _, file, _ in _files()}
    return re.compile("|".join(map(fnmatch.translate, sorted(names)))).match


@cache
def _names() -> tuple[KnownName, ...]:
    return tuple(KnownName(**entry) for entry in _layouts()["name"])
