"""How kubeadm renews certificates in each version of Kubernetes."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.base.eras import era_of, read_eras


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What is true of an era; the fields are explained at the top of renewal.toml."""

    versions: SpecifierSet
    renew: list[str]
    files: list[str]
    etcd: list[str]
    make: list[str]

    @property
    def kubeconfigs(self) -> list[str]:
        """Return the kubeconfigs among the files; kubelet.conf is none, kubelet renews its own."""
        return [file for file in self.files if file.endswith(".conf")]

    def making(self, name: str, directory: str, config: str) -> tuple[str, ...]:
        """Return the words that make a kubeconfig, such as ``kubelet``; none if it cannot."""
        return tuple(
            word.format(name=name, directory=directory, config=config) for word in self.make
        )


@cache
def renewals() -> tuple[Renewal, ...]:
    """Return the shipped eras, oldest first."""
    text = resources.files("kbuild.kubernetes").joinpath("renewal.toml").read_text()
    return read_eras(text, "era", Renewal)


def renewal_of(version: Version) -> Renewal:
    """Return the era of a version; one newer than all is taken to be of the newest."""
    return era_of(renewals(), version)
