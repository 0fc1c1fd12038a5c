"""What is to be said about each version, read from the tables beside this module.

The tables explain their own fields at their top.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Literal, Protocol, TypeVar, get_args

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.base.eras import eras_of, read_eras
from kbuild.base.words import counted

Plan = Literal["new", "living"]
PLANS: tuple[Plan, ...] = get_args(Plan)
_DAYS_A_YEAR = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildEntry:
    """An answer to whether another kubeadm is needed."""

    versions: SpecifierSet
    plans: list[Plan]
    asked: list[Literal["stock", "other"]]
    needed: bool
    reason: str
    optional: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitEntry:
    """Something that stays short, or never ends."""

    name: str
    versions: SpecifierSet
    plans: list[Plan]
    certificate: str
    lasts: str
    reason: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEntry:
    """A step of a plan."""

    name: str
    versions: SpecifierSet
    plans: list[Plan]
    when: list[str]
    title: str
    where: str
    text: str
    commands: list[str]


class _Entry(Protocol):
    @property
    def versions(self) -> SpecifierSet: ...

    @property
    def plans(self) -> list[Plan]: ...


E = TypeVar("E", bound=_Entry)


def rebuilds(version: Version, plan: Plan) -> tuple[RebuildEntry, ...]:
    """Return the answers that may fit, in the order of the table."""
    return _of(read_eras(_text("rebuilds.toml"), "rebuild", RebuildEntry), version, plan)


def limits(version: Version, plan: Plan) -> tuple[LimitEntry, ...]:
    """Return what stays short in this version."""
    return _of(read_eras(_text("limits.toml"), "limit", LimitEntry), version, plan)


def steps(version: Version, plan: Plan) -> tuple[StepEntry, ...]:
    """Return the steps of a plan, in their order."""
    return _of(read_eras(_text("steps.toml"), "step", StepEntry), version, plan)


def filled(text: str, values: Mapping[str, int | str]) -> str:
    """Return a text of a table with its values filled in, days as words."""
    words = {name: lasting(v) if isinstance(v, int) else v for name, v in values.items()}
    return Template(text).substitute(words).strip("\n")


def lasting(days: int) -> str:
    """Return a number of days in words: ``1 year``, ``3 years``, with the days that are over."""
    years, rest = divmod(days, _DAYS_A_YEAR)
    parts = [counted(number, unit) for number, unit in ((years, "year"), (rest, "day")) if number]
    return " and ".join(parts) or "0 days"


def _of(entries: tuple[E, ...], version: Version, plan: Plan) -> tuple[E, ...]:
    return tuple(entry for entry in eras_of(entries, version) if plan in entry.plans)


def _text(name: str) -> str:
    return resources.files("kbuild.advise").joinpath(name).read_text(encoding="utf-8")
