"""Read tables of eras: the facts that differ between Kubernetes versions, as data.

An era is a range of versions for which the same facts are true.
A table is TOML. Each entry has ``versions`` (packaging specifiers) and the fields of its reader.
"""

import tomllib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from packaging.specifiers import SpecifierSet
from packaging.version import Version


class Era(Protocol):
    """An entry of a table: what is true of a range of versions."""

    @property
    def versions(self) -> SpecifierSet:
        """Return the range."""


E = TypeVar("E", bound=Era)


def read_eras(text: str, name: str, make: Callable[..., E]) -> tuple[E, ...]:
    """Return the entries ``[[name]]`` of a table, oldest first, each made by ``make``.

    Raises ValueError, KeyError or TypeError for a broken table.
    """
    return make_eras(tomllib.loads(text)[name], make)


def make_eras(entries: Iterable[dict[str, Any]], make: Callable[..., E]) -> tuple[E, ...]:
    """Return the entries of a parsed table, each made by ``make``; see read_eras."""
    return tuple(
        make(**{**entry, "versions": SpecifierSet(entry["versions"])}) for entry in entries
    )


def eras_of(eras: Iterable[E], version: Version) -> tuple[E, ...]:
    """Return the eras that contain a version, which may be a pre-release."""
    return tuple(era for era in eras if era.versions.contains(version, prereleases=True))


def era_of(eras: Sequence[E], version: Version) -> E:
    """Return the era of a version; the newest era if the version is newer than all."""
    return next(iter(eras_of(eras, version)), eras[-1])
