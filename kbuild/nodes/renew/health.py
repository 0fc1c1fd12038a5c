"""Whether control planes are healthy, as their own ports tell."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed
from kbuild.nodes.model import Proof, Refusal
from kbuild.nodes.renew.facts import KUBELET, ControlPlane, kubelet_now, read_again
from kbuild.nodes.renew.manifest import BadManifest
from kbuild.nodes.served import NotServed, get, served_certificate

PATIENCE = 120  # seconds that a component may take until it is healthy
_PAUSE = 0.3
# How many times as long some proofs may take: kubelet waits for up to five minutes before it starts
# again what has failed.
_PATIENCE = {"recovered": 3}
# A certificate may end this much earlier or later than what its kubeadm would issue now.
TOLERANCE = timedelta(days=1)
_PEERS = re.compile(rb"^etcd_network_active_peers\{[^}]*\}", re.MULTILINE)
_LEADER = re.compile(rb"^etcd_server_has_leader 1$", re.MULTILINE)
_IS_LEADER = re.compile(rb"^etcd_server_is_leader 1$", re.MULTILINE)
# What is true if a proof is not there.
_UNSEEN = {
    "dates": "the dates of {} cannot be read",
    "serves": "{} does not serve its new certificate",
    "healthy": "{} is not healthy",
    "cluster": "not all of {} are healthy",
    "recovered": "not all of {} are healthy",
    "kubelet": "the client certificate of kubelet cannot be read{}",
    "joined": "the client certificate of kubelet cannot be read{}",
}
_FORWARDING = "allow AllowTcpForwarding in its sshd: its ports are seen through ssh"
_TODO = "wait until it is healthy, or repair it; see `crictl logs` or `docker logs` there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the certificates of a component are served: address, port, and the file."""

    address: str
    port: int
    file: str


def ports_of(plane: ControlPlane, component: str) -> tuple[Ports, ...]:
    """Return the ports of a component that serve certificates of /etc/kubernetes.

    The controller manager and the scheduler serve certificates of their own making.
    """
    manifest = plane.manifests[component]
    match component:
        case "etcd":
            client = manifest.flag("listen-client-urls") or "https://127.0.0.1:2379"
            peer = manifest.flag("listen-peer-urls")
            found = [(client, "pki/etcd/server.crt"), (peer, "pki/etcd/peer.crt")]
            return tuple(
                Ports(address=_address(url), port=_port(url), file=file)
                for urls, file in found
                for url in urls.split(",")
                if url.startswith("https://")
            )
        case "kube-apiserver":
            address, port = apiserver_of(plane)
            return (Ports(address=address, port=port, file="pki/apiserver.crt"),)
        case _:
            return ()


def apiserver_of(plane: ControlPlane) -> tuple[str, int]:
    """Return address and port of the API server of a control plane."""
    manifest = plane.manifests["kube-apiserver"]
    probe = manifest.probe()
    address = manifest.flag("advertise-address") or (probe.host if probe else "127.0.0.1")
    return address, int(manifest.flag("secure-port") or 6443)


def _address(url: str) -> str:
    host = url.partition("://")[2].rpartition(":")[0].strip("[]")
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].rstrip("/"))


def demand_healthy(plane: ControlPlane, component: str, connection: Connection) -> None:
    """Ask a component whether it is healthy; raises NotServed or ConnectionFailed."""
    if component == "kube-apiserver":
        address, port = apiserver_of(plane)
        _demand_ok(connection, "https", address, port, plane.ready)
        return
    try:
        probe = plane.manifests[component].probe()
    except BadManifest as error:
        raise NotServed(str(error)) from error
    if probe is None:
        message = f"the manifest of {component} has no livenessProbe over HTTP to ask"
        raise NotServed(message)
    path = "/health" if component == "etcd" else probe.path
    status, body = get(connection, probe.scheme, probe.host, probe.port, path)
    # etcd answers after a read that a quorum has agreed to.
    is_good = component != "etcd" or _is_healthy(body)
    if status != 200 or not is_good:  # noqa: PLR2004
        message = f"{component} is not healthy: {_said(status, body)}"
        raise NotServed(message)


def _demand_ok(connection: Connection, scheme: str, address: str, port: int, path: str) -> None:
    status, body = get(connection, scheme, address, port, path)
    if status != 200:  # noqa: PLR2004
        message = f"https://{address}:{port}{path} answers {_said(status, body)}"
        raise NotServed(message)


def _is_healthy(body: bytes) -> bool:
    try:
        return str(json.loads(body)["health"]).lower() == "true"
    except (ValueError, LookupError, TypeError):
        return False


def _said(status: int, body: bytes) -> str:
    text = body.decode("utf-8", "replace").strip()
    return f"{status}: {text.splitlines()[-1][:200]}" if text else str(status)


def demand_quorum(plane: ControlPlane, members: int, connection: Connection) -> None:
    """See that the etcd of a control plane has a leader and has been joined by all others.

    Raises NotServed or ConnectionFailed. Each peer has a line in the metrics once it was active
    (server/etcdserver/api/rafthttp/metrics.go). Its value is not looked at: with v3.4.23 it stayed
    0 although the peer was active. That each member takes part is seen by its own health.
    """
    body = _metrics(plane, connection)
    if not _LEADER.search(body):
        message = "etcd has no leader"
        raise NotServed(message)
    found = len(set(_PEERS.findall(body))) + 1
    if found != members:
        message = f"etcd knows {found} members with itself, and {members} control planes are named"
        raise NotServed(message)


def leader_last(
    planes: Sequence[ControlPlane], connections: Mapping[str, Connection]
) -> list[ControlPlane]:
    """Return control planes in their order, but that with the leader of etcd last.

    Reads may fail at the moment when the leader changes (ErrLeaderChanged, etcd v3.4,
    etcdserver/v3_server.go), and in this order it changes once. One that an earlier run has left
    drained is the first: never two of them must be.
    """

    def leads(plane: ControlPlane) -> bool:
        if plane.drained:
            return False
        try:
            return _IS_LEADER.search(_metrics(plane, connections[plane.name])) is not None
        except (NotServed, ConnectionFailed, BadManifest, KeyError):
            return False

    return sorted(planes, key=lambda plane: (not plane.drained, leads(plane)))


def _metrics(plane: ControlPlane, connection: Connection) -> bytes:
    probe = plane.manifests["etcd"].probe()
    if probe is None:
        message = "the manifest of etcd has no livenessProbe over HTTP to ask"
        raise NotServed(message)
    _, body = get(connection, probe.scheme, probe.host, probe.port, "/metrics")
    return body


@dataclass(slots=True, kw_only=True)
class Prover:
    """Looks for the proofs of a plan; ``patience`` is in seconds."""

    planes: Mapping[str, ControlPlane]
    connections: Mapping[str, Connection]
    patience: float = PATIENCE

    def __call__(self, connection: Connection, proof: Proof) -> None:
        """Look for a proof until it is there; raises CallFailed, or ConnectionFailed."""
        looks: Mapping[str, Callable[..., None]] = {
            "dates": self._dates,
            "serves": self._serves,
            "healthy": self._healthy,
            "cluster": self._cluster,
            "recovered": self._cluster,
            "kubelet": self._kubelet,
            "joined": self._joined,
        }
        look = looks[proof.kind]
        what = _UNSEEN[proof.kind].format(", ".join(proof.arguments))
        patience = self.patience * _PATIENCE.get(proof.kind, 1)
        self._patiently(lambda: look(connection, *proof.arguments), what, patience)

    def _patiently(self, look: Callable[[], None], what: str, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            try:
                look()
            except (NotServed, ConnectionFailed) as error:
                if time.monotonic() > deadline:
                    if isinstance(error, ConnectionFailed):
                        raise  # nothing is known of the component, so nothing must be undone
                    message = f"{what} after {round(patience)} seconds: {error}"
                    raise CallFailed(message, "") from error
                time.sleep(_PAUSE)
            else:
                return

    def _dates(self, connection: Connection, *files: str) -> None:
        plane = self.planes[connection.host.name]
        stored = read_again(connection)
        now = datetime.now(UTC)
        for file in files:
            if file not in stored:
                message = f"/etc/kubernetes/{file} is not there"
                raise CallFailed(message, "")
            end = stored[file].facts.not_after
            if not is_fresh(end, now, plane.lifetime):
                expected = (now + plane.lifetime).date()
                message = f"/etc/kubernetes/{file} ends {end.date()}, and {expected} was expected"
                raise CallFailed(message, "")

    def _kubelet(self, connection: Connection) -> None:
        plane = self.planes[connection.host.name]
        now = datetime.now(UTC)
        found = kubelet_now(connection)
        if not found:
            message = "kubelet has no client certificate"
            raise CallFailed(message, "")
        for each in found:
            if not is_fresh(each.facts.not_after, now, plane.lifetime):
                expected = (now + plane.lifetime).date()
                ends = each.facts.not_after.date()
                message = f"{KUBELET} ends {ends}, and {expected} was expected"
                raise CallFailed(message, "")

    def _joined(self, connection: Connection) -> None:
        """See that kubelet has no client certificate but those that have not ended."""
        ends = [each.facts.not_after for each in kubelet_now(connection)]
        if not ends or min(ends) <= datetime.now(UTC):
            ended = f"{KUBELET} ended {min(ends).date()}" if ends else "kubelet has no certificate"
            raise CallFailed(ended, "")

    def _serves(self, connection: Connection, component: str) -> None:
        plane = self.planes[connection.host.name]
        stored = read_again(connection)
        for each in ports_of(plane, component):
            served = served_certificate(connection, each.address, each.port)
            if served.fingerprint != stored[each.file].facts.fingerprint:
                message = (
                    f"{each.address}:{each.port} still serves a certificate that ends"
                    f" {served.not_after.date()}, not that of /etc/kubernetes/{each.file}"
                )
                raise NotServed(message)

    def _healthy(self, connection: Connection, component: str) -> None:
        demand_healthy(self.planes[connection.host.name], component, connection)

    def _cluster(self, _connection: Connection, *names: str) -> None:
        members = len(self.planes) if len(names) == len(self.planes) else 0
        for name in names:
            try:
                demand_all(self.planes[name], members, self.connections[name])
            except (NotServed, ConnectionFailed) as error:
                message = f"{name}: {error}"
                raise NotServed(message) from error


def is_fresh(end: datetime, now: datetime, lifetime: timedelta) -> bool:
    """Tell whether a certificate ends when one that is issued now would."""
    return abs(end - (now + lifetime)) <= TOLERANCE


def demand_all(plane: ControlPlane, members: int, connection: Connection) -> None:
    """See that all components of a control plane are healthy; raises as the others do.

    ``members`` is how many members of etcd it must reach, with itself; 0 for any number.
    """
    for component in plane.manifests:
        demand_healthy(plane, component, connection)
    if "etcd" in plane.manifests and members:
        demand_quorum(plane, members, connection)


def unhealthy(
    planes: Sequence[ControlPlane], connections: Mapping[str, Connection], patience: float
) -> list[Refusal]:
    """Return a refusal for each control plane that is not healthy, and does not become so."""
    refused = []
    deadline = time.monotonic() + patience
    for plane in planes:
        while True:
            try:
                demand_all(plane, len(planes), connections[plane.name])
                break
            except (NotServed, ConnectionFailed, BadManifest) as error:
                if time.monotonic() > deadline:
                    todo = _FORWARDING if "does not forward" in str(error) else _TODO
                    refused.append(plane.refusal(str(error), todo))
                    break
                time.sleep(_PAUSE)
    return refused
