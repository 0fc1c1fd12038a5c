"""How the eras of kubeadm are driven; for all that need this and no certificate."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

from packaging.specifiers import SpecifierSet

from kbuild.base.eras import read_eras


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """How an era of kubeadm is driven; the fields are explained at the top of eras.toml."""

    versions: SpecifierSet
    read: list[str]
    ecdsa: str
    stored: str


@cache
def eras() -> tuple[Era, ...]:
    """Return the shipped eras, oldest first."""
    text = resources.files("kbuild.kubeadm.prove").joinpath("eras.toml").read_text()
    return read_eras(text, "era", Era)
