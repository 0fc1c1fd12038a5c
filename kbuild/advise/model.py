"""The advice on one version, or on one cluster. Years are years of 365 days, every time is UTC."""

from dataclasses import dataclass
from datetime import datetime

from kbuild.advise.knowledge import Plan
from kbuild.certs.model import Certificate, Finding
from kbuild.kubeadm.model import Lifetimes

_ENOUGH = 0.9  # of a lifetime; else every certificate of 100 years would be too short the day after
# Roles of kbuild/certs/layouts.toml that only a control plane, or a machine with etcd, has.
_ETCD_SERVER = "etcd, server"
_ETCD = (_ETCD_SERVER, "etcd, peer", "etcd, server and peer")
_COMPONENTS = ("API server, server", "controller manager, client", "scheduler, client")
_CONTROL_PLANE = (*_ETCD, *_COMPONENTS)
# Those without which the API server or kubectl fails.
_VITAL = (*_CONTROL_PLANE, "API server to etcd, client", "administrator, client")
_AUTHORITIES = ("cluster CA", "front proxy CA", "etcd CA")
_KUBELET_CLIENT = "kubelet, client"


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
        return end < min(self.leaf_end, self._enough(self.ca_end))

    @property
    def is_leaf_too_short(self) -> bool:
        """Tell whether a certificate of the control plane has lost a tenth of what is asked for."""
        return self._is_too_short(self.others) or not (self.others or self.kubelets)

    @property
    def is_kubelet_too_short(self) -> bool:
        """Tell whether a kubelet's certificate has lost a tenth of what is asked for."""
        return self._is_too_short(self.kubelets)

    @property
    def is_worker(self) -> bool:
        """Tell whether these are the certificates of nodes without a control plane."""
        has_key = any(each.private_key for each in self.authorities)
        runs = any(each.role in _CONTROL_PLANE for each in self.others)
        return bool(self.kubelets) and not has_key and not runs

    @property
    def has_etcd(self) -> bool:
        """Tell whether etcd's serving certificate is among them, where kubeadm keeps it."""
        return any(each.role == _ETCD_SERVER for each in self.others)

    @property
    def has_expired(self) -> bool:
        """Tell whether a certificate that the API needs has expired, with all others of its role.

        The copies in a backup, and another control plane, do not count.
        """
        return not self.is_worker and self._is_over(
            (*self.others, *self.authorities), (*_VITAL, *_AUTHORITIES)
        )

    @property
    def has_expired_kubelet(self) -> bool:
        """Tell whether the client certificate of the kubelet has expired, as far as is known."""
        if not self.kubelets:
            return self.has_expired
        return self._is_over(self.kubelets, (_KUBELET_CLIENT,))

    @property
    def has_ca_keys(self) -> bool:
        """Tell whether kubeadm can sign with one of the CAs; with none found, that is open."""
        own = self._own_authorities
        return not own or len(self.without_key) < len(own)

    @property
    def without_key(self) -> tuple[Certificate, ...]:
        """The CAs of the cluster whose keys are not there."""
        return tuple(each for each in self._own_authorities if each.private_key is None)

    @property
    def _own_authorities(self) -> tuple[Certificate, ...]:
        return tuple(each for each in self.authorities if each.role in _AUTHORITIES)

    def _enough(self, end: datetime) -> datetime:
        return self.read_at + _ENOUGH * (end - self.read_at)

    def _is_too_short(self, certificates: tuple[Certificate, ...]) -> bool:
        return any(each.not_after < self._enough(self.leaf_end) for each in certificates)

    def _is_over(self, certificates: tuple[Certificate, ...], roles: tuple[str, ...]) -> bool:
        last: dict[str, datetime] = {}
        for each in certificates:
            last[each.role] = max(each.not_after, last.get(each.role, each.not_after))
        return any(end <= self.read_at for role, end in last.items() if role in roles)


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
