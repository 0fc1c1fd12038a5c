"""The shipped patches: which ones a version needs, and what must be true afterwards.

``patches/series.toml`` explains its own fields at its top.
"""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from string import Template
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version
from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchSet

import kbuild
from kbuild.base.eras import eras_of, make_eras
from kbuild.base.errors import UnsupportedVersion
from kbuild.base.files import BROKEN, read_file, reason_of
from kbuild.kubeadm.model import Lifetimes, StoredDefaults
from kbuild.kubeadm.patching.errors import PatchIndexBroken

INDEX = "series.toml"
_MAX_FILE = 1 << 16  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunk:
    """Lines of a file without line ends, and the lines that replace them."""

    file: str
    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A template of a unified diff."""

    name: str
    template: str

    def render(self, lifetimes: Lifetimes) -> str:
        """Return the diff for these lifetimes."""
        years = {"ca_years": lifetimes.ca_years, "leaf_years": lifetimes.leaf_years}
        return Template(self.template).substitute(years)

    def hunks(self, lifetimes: Lifetimes) -> tuple[Hunk, ...]:
        """Return what the diff for these lifetimes replaces."""
        return tuple(
            Hunk(file=file.path, old=_lines(hunk.source), new=_lines(hunk.target))
            for file in PatchSet(self.render(lifetimes))
            for hunk in file
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Text that a file must hold for the patch to have an effect."""

    file: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """A constant that must have this number of days, before and after."""

    file: str
    const: str
    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Where a lifetime (``ca`` or ``leaf``) is read back: a constant, or a field in a function."""

    lifetime: str
    file: str
    const: str = ""
    function: str = ""
    field: str = ""

    def __post_init__(self) -> None:
        if bool(self.const) == bool(self.function) or bool(self.function) != bool(self.field):
            msg = "a check names either a const, or a function and a field"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How stock's defaults are overridden where a cluster stores them, and what users must know."""

    patches: tuple[Patch, ...]
    uses: tuple[Use, ...]
    override: str
    keep: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The patches of one layout of Kubernetes."""

    name: str
    versions: SpecifierSet
    about: str
    patches: tuple[Patch, ...]
    links: Mapping[str, str]
    uses: tuple[Use, ...]
    keeps: tuple[Keep, ...]
    checks: tuple[Check, ...]
    holders: tuple[str, ...]
    stored_defaults: Stored | None = None

    def __post_init__(self) -> None:
        once = Lifetimes(ca_years=1, leaf_years=1)
        if not all(hunk.old for hunk in self.hunks(once, "override")):
            msg = f"series {self.name} has a patch that replaces nothing"
            raise ValueError(msg)
        patched = {hunk.file for hunk in self.hunks(once, "keep")}
        if patched != {check.file for check in self.checks}:
            msg = f"series {self.name} does not check exactly the files that it patches"
            raise ValueError(msg)
        if {check.lifetime for check in self.checks} != {"ca", "leaf"}:
            msg = f"series {self.name} does not check both ca and leaf"
            raise ValueError(msg)

    def patches_for(self, stored_defaults: StoredDefaults) -> tuple[Patch, ...]:
        """Return the patches that are applied, in order."""
        stored = self.stored_defaults if stored_defaults == "override" else None
        return self.patches + (stored.patches if stored else ())

    def uses_for(self, stored_defaults: StoredDefaults) -> tuple[Use, ...]:
        """Return the text that must be there for these patches to have an effect."""
        stored = self.stored_defaults if stored_defaults == "override" else None
        return self.uses + (stored.uses if stored else ())

    def hunks(self, lifetimes: Lifetimes, stored_defaults: StoredDefaults) -> tuple[Hunk, ...]:
        """Return all that the patches replace."""
        patches = self.patches_for(stored_defaults)
        return tuple(hunk for patch in patches for hunk in patch.hunks(lifetimes))

    def note(self, stored_defaults: StoredDefaults) -> str:
        """Return what users of such a kubeadm must know, or an empty text."""
        if self.stored_defaults is None:
            return ""
        stored = self.stored_defaults
        return stored.override if stored_defaults == "override" else stored.keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The content of series.toml with the templates that it names; oldest layout first."""

    oldest: Version
    series: tuple[Series, ...]


_Entry = Series | Stored | Use | Keep | Check


def series_for(version: Version) -> tuple[Series, ...]:
    """Return the series that may fit a version, newest last. Near a change of layout there are two.

    Raises UnsupportedVersion or PatchIndexBroken.
    """
    index = read_index(patches_folder())
    found = eras_of(index.series, version)
    if version < index.oldest or not found:
        raise UnsupportedVersion(version=f"v{version}", oldest=f"v{index.oldest}")
    return found


def patches_folder() -> Path:
    """Return the directory of the patches: that of the checkout, otherwise that in the wheel.

    Raises PatchIndexBroken.
    """
    package = Path(kbuild.__file__).parent
    for folder in (package.parent / "patches", package / "_patches"):
        if (folder / INDEX).is_file():
            return folder
    raise PatchIndexBroken(path=package / "_patches" / INDEX, reason="it is missing")


@functools.cache
def read_index(folder: Path) -> Index:
    """Read and validate series.toml and every template that it names.

    Raises PatchIndexBroken.
    """
    path = folder / INDEX
    try:
        table = tomllib.loads(read_file(path, _MAX_FILE).decode())
        series = make_eras(table.pop("series"), functools.partial(_series, folder))
        return Index(oldest=Version(table.pop("oldest")), series=series, **table)
    except (OSError, UnidiffParseError, *BROKEN) as error:
        raise PatchIndexBroken(path=path, reason=reason_of(error)) from error


def _series(folder: Path, **entry: Any) -> Series:  # noqa: ANN401  # checked below
    entry["patches"] = tuple(_patch(folder / name) for name in entry["patches"])
    entry["holders"] = tuple(entry["holders"])
    for key, kind in (("uses", Use), ("keeps", Keep), ("checks", Check)):
        entry[key] = tuple(kind(**each) for each in entry[key])
    if (stored := entry.get("stored_defaults")) is not None:
        entry["stored_defaults"] = _stored(folder, **stored)
    made = Series(**entry)
    parts: list[_Entry] = [made, *made.uses, *made.keeps, *made.checks]
    if made.stored_defaults is not None:
        parts += [made.stored_defaults, *made.stored_defaults.uses]
    for part in parts:
        _demand_types(part)
    if not all(isinstance(text, str) for text in (*made.holders, *made.links.values())):
        message = "a holder or a link is not a text"
        raise TypeError(message)
    return made


def _stored(folder: Path, **entry: Any) -> Stored:  # noqa: ANN401  # checked by the caller
    entry["patches"] = tuple(_patch(folder / name) for name in entry["patches"])
    entry["uses"] = tuple(Use(**each) for each in entry["uses"])
    return Stored(**entry)


def _demand_types(made: _Entry) -> None:
    """Raise TypeError unless each text and number of an entry is one."""
    for each in fields(made):
        if each.type in (str, int) and type(getattr(made, each.name)) is not each.type:
            message = f"{each.name} is not of the type {each.type}"
            raise TypeError(message)


def _patch(path: Path) -> Patch:
    return Patch(name=path.name, template=read_file(path, _MAX_FILE).decode())


def _lines(lines: list[str]) -> tuple[str, ...]:
    return tuple(line[1:].rstrip("\n") for line in lines)
