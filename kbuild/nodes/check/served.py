"""The certificates that a node really serves, by TLS handshakes without a client certificate."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from kbuild.nodes.check.seen import KUBELET, Component, NodeSeen
from kbuild.nodes.connection import Connection, PortClosed
from kbuild.nodes.reasons import why_lost
from kbuild.nodes.served import TIMEOUT, shown_by
from kbuild.x509.api import CertificateFacts, Unreadable

_EVERYWHERE = ("", "0.0.0.0", "::")  # what a program listens on
_PKI = "/var/lib/kubelet/pki"
# Since v1.12 the controller manager and v1.13 the scheduler serve TLS.
_SELF_MADE = {"kube-controller-manager": 10257, "kube-scheduler": 10259}


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port with TLS; ``file`` has the certificate that belongs there.

    It is empty if the program makes a certificate for itself, in memory.
    """

    component: str
    address: str
    number: int
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a port served; ``problem`` says why that is not known."""

    port: Port
    certificate: CertificateFacts | None
    problem: str = ""


def ports_of(seen: NodeSeen) -> Iterator[Port]:
    """Yield the ports on which a node should serve TLS."""
    components = seen.components
    if etcd := components.get("etcd"):
        yield from _of_etcd(etcd)
    if apiserver := components.get("kube-apiserver"):
        yield from _secure(apiserver, 6443, "/etc/kubernetes/pki/apiserver.crt")
    for name, number in _SELF_MADE.items():
        if component := components.get(name):
            yield from _secure(component, number, "")
    if seen.kubelet or KUBELET in seen.started:
        own = "kubelet.crt"
        if seen.kubelet.get("serverTLSBootstrap") == "true":
            own = "kubelet-server-current.pem"
        yield Port(
            component=KUBELET,
            address=_reachable(seen.kubelet.get("address", "")),
            number=int(seen.kubelet.get("port") or 10250),
            file=seen.kubelet.get("tlsCertFile") or f"{_PKI}/{own}",
        )


def _of_etcd(etcd: Component) -> Iterator[Port]:
    for urls, file in (("listen-client-urls", "cert-file"), ("listen-peer-urls", "peer-cert-file")):
        numbers = set[int]()
        for url in etcd.flags.get(urls, "").split(","):
            parts = urlsplit(url)
            if parts.scheme == "https" and parts.port and parts.port not in numbers:
                numbers.add(parts.port)
                yield Port(
                    component=etcd.name,
                    address=_reachable(parts.hostname or ""),
                    number=parts.port,
                    file=etcd.flags.get(file, ""),
                )


def _secure(component: Component, number: int, file: str) -> Iterator[Port]:
    number = int(component.flags.get("secure-port") or number)
    if number:
        yield Port(
            component=component.name,
            address=_reachable(component.flags.get("bind-address", "")),
            number=number,
            file=component.flags.get("tls-cert-file", file),
        )


def _reachable(address: str) -> str:
    return "127.0.0.1" if address in _EVERYWHERE else address


def ask_port(port: Port, connection: Connection) -> Served:
    """Return what a port serves; raises ConnectionFailed if the host is gone."""
    try:
        stream = connection.open_port(port.address, port.number, TIMEOUT)
    except PortClosed as error:
        return Served(port=port, certificate=None, problem=str(error))
    try:
        with contextlib.closing(stream):
            facts = shown_by(stream)
    except (OSError, Unreadable) as error:
        return Served(port=port, certificate=None, problem=why_lost(error, "it does not answer"))
    return Served(port=port, certificate=facts)
