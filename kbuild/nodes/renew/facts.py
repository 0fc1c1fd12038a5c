"""What control planes are like: their manifests, certificates and processes."""

import base64
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from packaging.version import InvalidVersion, Version

from kbuild.kubernetes.configuration import configuration_of
from kbuild.kubernetes.durations import duration
from kbuild.kubernetes.facts import facts_of
from kbuild.kubernetes.renewal import Renewal, renewal_of
from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed, first_of, values_of
from kbuild.nodes.model import HostFacts, Refusal
from kbuild.nodes.renew.calls import call
from kbuild.nodes.renew.manifest import Manifest
from kbuild.nodes.survey import at_once
from kbuild.x509.api import CertificateFacts, Unreadable, quiet, read_certificate

# In the order in which they restart.
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
# What each component reads when it starts, below /etc/kubernetes.
READS = MappingProxyType(
    {
        "etcd": ("pki/etcd/server.crt", "pki/etcd/peer.crt"),
        "kube-apiserver": (
            *("pki/apiserver.crt", "pki/apiserver-kubelet-client.crt"),
            *("pki/apiserver-etcd-client.crt", "pki/front-proxy-client.crt"),
        ),
        "kube-controller-manager": ("controller-manager.conf",),
        "kube-scheduler": ("scheduler.conf",),
    }
)
# What a control plane cannot work without. The other files end without an outage.
_ESSENTIAL = {each for files in READS.values() for each in files} - {"pki/front-proxy-client.crt"}
_CAS = ("pki/ca.crt", "pki/front-proxy-ca.crt", "pki/etcd/ca.crt")
REPAIR = "-repair-renew"  # how the name of a backup ends that a repair has made
KUBELET = "kubelet's client certificate"
_NODE = re.compile(r"system:node:([a-z0-9][a-z0-9-]*(?:\.[a-z0-9][a-z0-9-]*)*)", re.ASCII)
_TRIAL = """\
apiVersion: {api}
kind: InitConfiguration
localAPIEndpoint: {{advertiseAddress: 192.0.2.1}}
nodeRegistration: {{name: kbuild-trial, criSocket: "{socket}"}}
---
apiVersion: {api}
kind: ClusterConfiguration
kubernetesVersion: {version}
"""
SOCKET = "/run/kbuild/none.sock"
_STARTING = 30  # seconds that kubelet may need to start a component
ASK_AGAIN = "see what is wrong there; the same command asks again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A running process; ``started`` in seconds since the epoch."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A certificate in a file; ``changed`` is the time of the file, in seconds since the epoch."""

    changed: int
    facts: CertificateFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """What a control plane is like.

    ``missing`` are the keys of CAs that are not there. ``lifetime`` is that of the certificates
    that its kubeadm issues. ``size`` is that of what a backup holds, in KiB. ``server`` is the
    address that kubeconfigs use, ``own_server`` tells whether the node itself has that address.
    ``base`` is the backup of a renewal that was begun and has no end. ``drained`` is the port to
    which a run that did not end still rejects connections. ``unreadable`` are certificates that
    cannot be read, and why. ``is_stored`` tells whether the cluster stores that lifetime, and the
    kubeadm was built for another; ``ignores_stored`` that it stores a shorter one, which this
    kubeadm takes as not set. ``kubelet`` are the client certificates of kubelet,
    ``is_rotated`` tells whether kubelet.conf names the file of those that kubelet rotates.
    ``node`` is the name of the node in the cluster. ``twins`` are other files with manifests of the
    same components: ``etcd etcd.yaml.bak``.
    """

    facts: HostFacts
    manifests: Mapping[str, Manifest]
    certificates: Mapping[str, Stored]
    processes: Mapping[str, tuple[Process, ...]]
    missing: tuple[str, ...]
    lifetime: timedelta
    pods: str
    size: int
    kubectl: str
    etcdctl: str
    firewall: str
    server: str
    own_server: bool
    base: str
    backups: tuple[str, ...]
    drained: str = ""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    is_stored: bool = False
    ignores_stored: bool = False
    kubelet: tuple[Stored, ...] = ()
    is_rotated: bool = True
    node: str = ""
    twins: tuple[str, ...] = ()

    @property
    def now(self) -> datetime:
        """Return the time on the node."""
        return datetime.fromtimestamp(self.facts.clock, UTC)

    @property
    def ended(self) -> Mapping[str, datetime]:
        """Return what has ended that it cannot work without, with its end."""
        found = ended_of(self.certificates, self.now)
        if "etcd" not in self.manifests:  # what an etcd has left there
            found = {file: end for file, end in found.items() if file not in READS["etcd"]}
        end = min((each.facts.not_after for each in self.kubelet), default=self.now)
        if end < self.now:
            found[KUBELET] = end
        return found

    @property
    def needs_repair(self) -> bool:
        """Tell whether it cannot be renewed while it serves, or a repair was begun."""
        return bool(self.ended) or self.base.endswith(REPAIR)

    @property
    def ended_cas(self) -> tuple[str, ...]:
        """Return the CAs that have ended."""
        stored = self.certificates
        return tuple(f for f in _CAS if f in stored and stored[f].facts.not_after <= self.now)

    @property
    def name(self) -> str:
        """Return the name of the host."""
        return self.facts.host.name

    def refusal(self, reason: str, todo: str) -> Refusal:
        """Return why this control plane cannot be changed."""
        return self.facts.refusal(reason, todo)

    @property
    def renewal(self) -> Renewal:
        """Return how its kubeadm renews."""
        return renewal_of(Version(self.facts.version))

    @property
    def ready(self) -> str:
        """Return the path at which its API server says that it is ready."""
        return str(facts_of(Version(self.facts.version))["ready"])

    @property
    def renewed(self) -> tuple[str, ...]:
        """Return the files that its kubeadm renews, below /etc/kubernetes."""
        files = [*self.renewal.files, *(self.renewal.etcd if "etcd" in self.manifests else ())]
        return tuple(file for file in files if file in self.certificates)


def survey_control_planes(
    facts: list[HostFacts], connections: Mapping[str, Connection], parallel: int
) -> tuple[list[ControlPlane], list[Refusal]]:
    """Ask control planes what they are like; a refusal for each that cannot be asked."""
    found: list[ControlPlane] = []
    refused: list[Refusal] = []

    def ask(each: HostFacts) -> None:
        try:
            found.append(_once_started(each, connections[each.host.name]))
        except (CallFailed, ConnectionFailed, LookupError, ValueError) as error:
            refused.append(each.refusal(str(error), ASK_AGAIN))

    at_once(facts, ask, parallel)
    return sorted(found, key=lambda each: each.name), sorted(refused, key=lambda each: each.host)


def ended_of(certificates: Mapping[str, Stored], now: datetime) -> dict[str, datetime]:
    """Return which certificates have ended that a control plane cannot work without."""
    ends = {f: each.facts.not_after for f, each in certificates.items() if f in _ESSENTIAL}
    return {file: end for file, end in ends.items() if end < now}


def certificates_of(values: Mapping[str, list[str]]) -> dict[str, Stored]:
    """Return the certificates that the function ``certificates`` prints, by their files.

    Raises ValueError for one that cannot be read.
    """
    found, unreadable = _certificates(values)
    for file, why in unreadable.items():
        message = f"/etc/kubernetes/{file} cannot be read: {why}"
        raise ValueError(message)
    return found


def manifests_of(values: Mapping[str, list[str]]) -> dict[str, Manifest]:
    """Return the manifests that a function prints, by their components."""
    found = {}
    for line in values.get("manifest", ()):
        name, changed, content = line.split(" ", 2)
        found[name] = Manifest(content=base64.b64decode(content), changed=int(changed))
    return found


def read_again(connection: Connection) -> dict[str, Stored]:
    """Return the certificates of a node as they are now; raises CallFailed."""
    try:
        return certificates_of(values_of(connection.call(call("certificates"))))
    except ValueError as error:
        raise CallFailed(str(error), "") from error


def _once_started(facts: HostFacts, connection: Connection) -> ControlPlane:
    """Return what a control plane is like, after some patience if a component does not run.

    kubelet may just be starting it: after a restart of the host, or because it has lost a lease.
    """
    deadline = time.monotonic() + _STARTING
    while True:
        plane = _control_plane(facts, connection)
        is_starting = any(len(plane.processes.get(each, ())) != 1 for each in plane.manifests)
        if not (is_starting and "kubelet" in plane.processes) or time.monotonic() > deadline:
            return plane
        time.sleep(1)


def kubelet_now(connection: Connection) -> tuple[Stored, ...]:
    """Return the client certificates of a kubelet as they are now; raises CallFailed."""
    return kubelet_of(values_of(connection.call(call("kubelet_clients"))))


def _control_plane(facts: HostFacts, connection: Connection) -> ControlPlane:
    values = values_of(connection.call(call("control_plane"), timeout=120))
    certificates, unreadable = _certificates(values)

    def one(name: str) -> str:
        return first_of(values, name)

    found = ControlPlane(
        facts=facts,
        manifests=manifests_of(values),
        certificates=certificates,
        processes=_processes(values),
        missing=tuple(values.get("missing", ())),
        lifetime=issued_for_trial(facts, connection),
        pods=one("pods").partition(":")[2].strip().strip("\"'"),
        size=int(one("size")),
        kubectl=one("kubectl"),
        etcdctl=one("etcdctl"),
        firewall=one("firewall"),
        server=one("server"),
        own_server=one("own_server") == "yes",
        base=one("base"),
        backups=tuple(sorted(values.get("backup", ()))),
        drained=one("drained"),
        unreadable=unreadable,
        kubelet=kubelet_of(values),
        is_rotated=one("kubelet_conf") == "rotated",
        node=_node(values),
        twins=tuple(values.get("twin", ())),
    )
    return _as_stored(found, one("stored_leaf"))


def kubelet_of(values: Mapping[str, list[str]]) -> tuple[Stored, ...]:
    """Return the certificates that the function ``kubelet_clients`` prints, if they are some."""
    lines = values.get("kubelet_client", ())
    named = [f"kubelet-{number} {line}" for number, line in enumerate(lines)]
    return tuple(_certificates({"certificate": named})[0].values())


def _node(values: Mapping[str, list[str]]) -> str:
    """Return the name of a node as its certificate says, or that of the host, as kubeadm does."""
    names = [node_of(each) for each in kubelet_of(values)]
    return next(filter(None, names), first_of(values, "node").lower())


def node_of(stored: Stored) -> str:
    """Return the node for which a client certificate of kubelet is, or empty text.

    A node has the name of a DNS subdomain (RFC 1123), which is safe in commands and paths.
    """
    found = _NODE.fullmatch(stored.facts.common_name)
    return found[1] if found else ""


def _as_stored(plane: ControlPlane, text: str) -> ControlPlane:
    """Return an expired control plane with the lifetime that its cluster stores, if it is longer.

    ``text`` is from a backup, and as Go writes durations. A shorter one may be the default that
    kubeadm stores by itself.
    """
    stored = duration(text)
    if (
        stored is None
        or not plane.needs_repair
        or not configuration_of(Version(plane.facts.version)).validity
    ):
        return plane
    return replace(plane, lifetime=max(plane.lifetime, stored))


def issued_for_trial(facts: HostFacts, connection: Connection, stored_leaf: str = "") -> timedelta:
    """Return how long the certificates are valid that the kubeadm of a node issues.

    ``stored_leaf`` is what its configuration stores for certificates, as Go writes durations.
    Raises CallFailed, ConnectionFailed, or ValueError if the kubeadm has no version.

    kubeadm takes the begin of the CA as that of a certificate, and counts from now
    (cmd/kubeadm/app/util/pkiutil/pki_helpers.go, NewSignedCert, v1.20.2).
    """
    try:
        api = configuration_of(Version(facts.version)).kubeadm_api
    except InvalidVersion as error:
        message = "its kubeadm does not say which version it is"
        raise ValueError(message) from error
    text = _TRIAL.format(api=api, socket=SOCKET, version=facts.version)
    text += f"certificateValidityPeriod: {stored_leaf}\n" if stored_leaf else ""
    values = values_of(connection.call(call("trial", facts.target, text), timeout=120))
    issued = read_certificate(base64.b64decode(values["issued"][0]))
    return issued.not_after - datetime.fromtimestamp(facts.clock, tz=issued.not_after.tzinfo)


def _certificates(values: Mapping[str, list[str]]) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the certificates of files, and why others cannot be read."""
    found, unreadable = {}, {}
    for line in values.get("certificate", ()):
        file, changed, content = (*line.split(" ", 2), "")[:3]
        try:
            with quiet():
                facts = read_certificate(base64.b64decode(content))
            found[file] = Stored(changed=int(changed), facts=facts)
        except (Unreadable, ValueError) as error:
            unreadable[file] = str(error)
    return found, unreadable


def _processes(values: Mapping[str, list[str]]) -> dict[str, tuple[Process, ...]]:
    found: dict[str, tuple[Process, ...]] = {}
    for line in values.get("process", ()):
        name, pid, _, started = line.split(" ")
        found[name] = (*found.get(name, ()), Process(pid=int(pid), started=int(started)))
    return found
