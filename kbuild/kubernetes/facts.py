"""What each version of Kubernetes does with certificates; facts.toml explains its fields."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.base.eras import eras_of, make_eras


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A value that holds for a range of versions; a number is in days."""

    name: str
    versions: SpecifierSet
    value: int | str
    source: str


@cache
def facts() -> tuple[Fact, ...]:
    """Return every fact, in the order of the table."""
    return make_eras(_table()["fact"], Fact)


def newest_read() -> Version:
    """Return the newest version whose whole source tree the facts were read in."""
    return Version(_table()["newest"])


def facts_of(version: Version) -> dict[str, int | str]:
    """Return the values of a version by their names; a number is in days."""
    return {fact.name: fact.value for fact in eras_of(facts(), version)}


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(resources.files("kbuild.kubernetes").joinpath("facts.toml").read_text())
