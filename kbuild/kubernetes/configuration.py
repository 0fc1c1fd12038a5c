"""What the configuration of a cluster looks like in each version of Kubernetes."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.base.eras import era_of, read_eras


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """The configuration of an era; the fields are explained at the top of configuration.toml."""

    versions: SpecifierSet
    read: list[str]
    kubeadm_api: str
    arguments: Literal["map", "list"]
    validity: bool
    signing_flag: str
    kubelet_config_map: str
    kubelet_update: str
    check: str
    signers: bool


@cache
def eras() -> tuple[Era, ...]:
    """Return the shipped eras, oldest first."""
    text = resources.files("kbuild.kubernetes").joinpath("configuration.toml").read_text()
    return read_eras(text, "era", Era)


def configuration_of(version: Version) -> Era:
    """Return the era of a version; one newer than all is taken to be of the newest."""
    return era_of(eras(), version)
