"""The advice on one version, or on one cluster. Years are years of 365 days, every time is UTC."""

from dataclasses import dataclass
from datetime import datetime

from kbuild.advise.knowledge import Plan
from kbuild.certs.model import Certificate, Finding
from kbuild.kubeadm.model import Lifetimes

_ENOUGH = 0.9  # of a CA's lifetime; else every CA of 100 years would be too short the day after


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuild:
    """Whether another kubeadm is needed, why, and commands that help although it is not."""

    needed: bool
    reason: str
    optional: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Something that stays short whatever kubeadm does, or never ends; ``name`` is stable."""

    name: str
    certificate: str
    lasts: str
    reason: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the plan; ``name`` is stable, ``where`` tells on which machines."""

    name: str
    title: str
    where: str
    text: str
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a cluster's own certificates say.

    ``authorities`` are its CAs, ``kubelets`` the kubelets' certificates, ``others`` the rest; the
    first to expire comes first, and each certificate once. ``ca_end`` and ``leaf_end`` are the ends
    of certificates that are issued at ``read_at`` for the lifetimes asked for.
    """

    read_at: datetime
    paths: tuple[str, ...]
    authorities: tuple[Certificate, ...]
    kubelets: tuple[Certificate, ...]
    others: tuple[Certificate, ...]
    findings: tuple[Finding, ...]
    ca_end: datetime
    leaf_end: datetime

    @property
    def is_ca_too_short(self) -> bool:
        """Tell whether a CA should be signed again: it ends too early, or none was found.

        A certificate issued now would outlive it, and it has lost a tenth of what is asked for.
        """
        if not self.authorities:
            return True
        end = self.authorities[0].not_after
        return end < min(self.leaf_end, self.read_at + _ENOUGH * (self.ca_end - self.read_at))


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The whole page. ``caution`` is empty for a version whose sources were read."""

    version: str
    plan: Plan
    lifetimes: Lifetimes
    rebuild: Rebuild
    limits: tuple[Limit, ...]
    steps: tuple[Step, ...]
    cluster: Cluster | None
    caution: str
