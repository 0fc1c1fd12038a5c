"""How the eras of kubeadm are driven; for all that need this and no certificate."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.base.eras import era_of, read_eras


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """How an era of kubeadm is driven; the fields are explained at the top of eras.toml."""

    versions: SpecifierSet
    read: list[str]
    renew: list[str]
    renewed: list[str]
    ecdsa: str
    stored: str


@cache
def eras() -> tuple[Era, ...]:
    """Return the shipped eras, oldest first."""
    text = resources.files("kbuild.kubeadm.prove").joinpath("eras.toml").read_text()
    return read_eras(text, "era", Era)


def renewal_of(version: Version) -> tuple[str, ...]:
    """Return the words after ``kubeadm`` that renew everything."""
    return tuple(era_of(eras(), version).renew)
