"""The certificates that a node really serves, by TLS handshakes without a client certificate."""

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from kbuild.nodes.check.seen import KUBELET, Component, NodeSeen
from kbuild.nodes.connection import Connection, PortClosed
from kbuild.x509.api import CertificateFacts, Unreadable, quiet, read_certificate

_TIMEOUT = 10.0  # seconds
_MOST = 1 << 18  # bytes that a server may send before it has shown its certificate
_EVERYWHERE = ("", "0.0.0.0", "::")  # what a program listens on
_PKI = "/var/lib/kubelet/pki"
# RFC 5246: the kind of a record that is a handshake, and of a message in it.
_HANDSHAKE, _CERTIFICATE = 22, 11
_RECORD_HEADER, _MESSAGE_HEADER, _LENGTH = 5, 4, 3  # bytes
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


class Stream(Protocol):
    """A connection: a socket, or a channel of SSH."""

    def settimeout(self, timeout: float, /) -> None:
        """Set how many seconds to wait for data."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of the data; raises OSError."""

    def recv(self, size: int, /) -> bytes:
        """Return some data, or nothing at the end; raises OSError."""

    def close(self) -> None:
        """Close it."""


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
        stream = connection.open_port(port.address, port.number, _TIMEOUT)
    except PortClosed as error:
        return Served(port=port, certificate=None, problem=str(error))
    try:
        with contextlib.closing(stream), quiet():
            der = served_certificate(stream)
            facts = read_certificate(ssl.DER_cert_to_PEM_cert(der).encode())
    except (OSError, Unreadable) as error:
        return Served(port=port, certificate=None, problem=str(error) or "it does not answer")
    return Served(port=port, certificate=facts)


def served_certificate(stream: Stream) -> bytes:
    """Return the DER of the certificate that a TLS server shows; raises OSError if it shows none.

    A server of TLS 1.2 that demands a client certificate breaks off after it has shown its own,
    which OpenSSL then keeps to itself.
    """
    stream.settimeout(_TIMEOUT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = _context().wrap_bio(incoming, outgoing)
    received = b""
    while len(received) < _MOST:
        try:
            tls.do_handshake()
            return tls.getpeercert(binary_form=True) or b""
        except ssl.SSLWantReadError:
            stream.sendall(outgoing.read())
        except ssl.SSLError as error:
            if der := certificate_in(received):
                return der
            message = f"no TLS handshake ({error.reason or error})"
            raise OSError(message) from error
        if more := _receive(stream):
            received += more
            incoming.write(more)
        else:
            incoming.write_eof()
    message = f"it sent {len(received)} bytes and no certificate"
    raise OSError(message)


def _receive(stream: Stream) -> bytes:
    """Return some data; nothing if the server has broken off, which is for the caller to judge."""
    try:
        return stream.recv(1 << 16)
    except ConnectionError:
        return b""


def _context() -> ssl.SSLContext:
    """Return a context that accepts any certificate: it is read, and nothing is entrusted to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def certificate_in(received: bytes) -> bytes:
    """Return the first certificate that a server of TLS 1.2 sends in clear, empty if it has not."""
    messages = _messages(received)
    while len(messages) >= _MESSAGE_HEADER:
        end = _MESSAGE_HEADER + int.from_bytes(messages[1:_MESSAGE_HEADER])
        if messages[0] == _CERTIFICATE and len(messages) >= end:
            first = messages[_MESSAGE_HEADER + _LENGTH : end]
            length = int.from_bytes(first[:_LENGTH])
            return first[_LENGTH : _LENGTH + length]
        messages = messages[end:]
    return b""


def _messages(received: bytes) -> bytes:
    """Return the messages of the handshake that are not encrypted."""
    messages = b""
    while len(received) >= _RECORD_HEADER and received[0] == _HANDSHAKE:
        end = _RECORD_HEADER + int.from_bytes(received[3:_RECORD_HEADER])
        messages += received[_RECORD_HEADER:end]
        received = received[end:]
    return messages
