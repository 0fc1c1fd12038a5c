"""The values of a check of nodes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kbuild.certs.model import Finding, Inventory
from kbuild.nodes.check.seen import NodeSeen
from kbuild.nodes.check.served import Served
from kbuild.nodes.model import Issues, Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to check.

    ``paths`` are read besides the usual ones. ``kubeadm`` is where kubeadm is on the nodes, empty
    if it is to be found. ``known`` are lifetimes by the sha256 of a kubeadm; they win over what an
    installation has recorded on a node. ``now`` is the moment that everything is judged by, in UTC.
    """

    now: datetime
    paths: tuple[str, ...] = ()
    kubeadm: str = ""
    known: Mapping[str, Issues] = field(default_factory=dict)
    parallel: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChecked:
    """A host: its certificates as `kbuild certs` shows them there, and what its ports served.

    The findings of the inventory include those on the host itself. ``issues`` is None if it is not
    known which lifetimes its kubeadm issues.
    """

    seen: NodeSeen
    inventory: Inventory
    served: tuple[Served, ...]
    issues: Issues | None

    @property
    def name(self) -> str:
        """Return the name of the host."""
        return self.seen.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """All hosts that answered, those that did not, and what differs between control planes."""

    at: datetime
    hosts: tuple[HostChecked, ...]
    unreachable: tuple[Refusal, ...]
    between: tuple[Finding, ...]
