"""How a version of kubeadm spells the renewal of everything, for those who do not run it."""

from dataclasses import dataclass
from importlib import resources

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.base.eras import era_of, read_eras


@dataclass(frozen=True, slots=True, kw_only=True)
class _Renewal:
    versions: SpecifierSet
    words: tuple[str, ...]


def renewal_of(version: Version) -> tuple[str, ...]:
    """Return the words after ``kubeadm``; eras.toml names its source at the top."""
    text = resources.files("kbuild.kubeadm.prove").joinpath("eras.toml").read_text()
    return era_of(read_eras(text, "era", _renewal), version).words


def _renewal(*, versions: SpecifierSet, renew: list[str], **_others: object) -> _Renewal:
    return _Renewal(versions=versions, words=tuple(renew))
