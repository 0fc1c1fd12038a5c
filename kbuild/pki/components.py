"""What each component needs: components.toml explains its fields."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A certificate of a component."""

    component: str
    name: str
    ca: str
    common_name: str
    organization: str = ""
    usages: list[str]
    hosts: str = ""
    role: str = ""
    kubeconfig: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOf:
    """A key pair of a component."""

    component: str
    key: str
    public: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A CA: where it is written, and its common name."""

    name: str
    common_name: str


def certificates_of(layout: str) -> tuple[Component, ...]:
    """Return the certificates of a layout."""
    return tuple(Component(**entry) for entry in _table()[layout])


def pairs_of(layout: str) -> tuple[PairOf, ...]:
    """Return the key pairs of a layout."""
    return tuple(PairOf(**entry) for entry in _table()[f"{layout}_pair"])


def authorities_of(layout: str) -> dict[str, Authority]:
    """Return the CAs of a layout: cluster, etcd and front-proxy."""
    return {purpose: Authority(**entry) for purpose, entry in _table()["cas"][layout].items()}


def names() -> tuple[str, ...]:
    """Return the names of all components."""
    certificates = [each.component for each in certificates_of("cfssl")]
    return tuple(dict.fromkeys([*certificates, *(each.component for each in pairs_of("cfssl"))]))


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(resources.files("kbuild.pki").joinpath("components.toml").read_text())
