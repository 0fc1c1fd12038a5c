"""The flags with which the components of a cluster use certificates, in each version's spelling."""

import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.base.eras import eras_of, make_eras
from kbuild.kubernetes.configuration import configuration_of

Value = str | int | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A flag of a component; the fields are explained at the top of flags.toml."""

    component: str
    name: str
    use: str
    why: str
    part: str = ""
    value: Value = ""
    setting: str = ""
    versions: SpecifierSet


def flags_of(version: Version) -> tuple[Flag, ...]:
    """Return the flags of a version, those of one component after the other."""
    signing_flag = configuration_of(version).signing_flag
    return tuple(
        replace(flag, name=flag.name.format(signing_flag=signing_flag))
        for flag in eras_of(all_flags(), version)
    )


@cache
def all_flags() -> tuple[Flag, ...]:
    """Return the flags of all versions."""
    text = resources.files("kbuild.kubernetes").joinpath("flags.toml").read_text()
    entries = tomllib.loads(text)["flag"]
    return make_eras(({"versions": "", **entry} for entry in entries), Flag)
