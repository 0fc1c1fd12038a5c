"""What ports of a host serve, seen through its connection: certificates, and answers."""

import contextlib
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from kbuild.nodes.check.served import served_certificate as certificate_of
from kbuild.nodes.connection import Connection, PortClosed
from kbuild.x509.api import CertificateFacts, Unreadable, quiet, read_certificate

if TYPE_CHECKING:
    import socket

    from paramiko import Channel

T = TypeVar("T")

_TIMEOUT = 10.0  # seconds
_MOST = 4 << 20  # bytes of an answer; the metrics of etcd have 200 KiB
_BLOCK = 64 << 10


class NotServed(Exception):
    """A port does not answer as it should; its text says how."""


def served_certificate(connection: Connection, address: str, port: int) -> CertificateFacts:
    """Return the certificate that a port serves; raises NotServed or ConnectionFailed."""
    with _stream(connection, address, port, "a TLS handshake") as stream, quiet():
        der = certificate_of(stream)
        try:
            return read_certificate(ssl.DER_cert_to_PEM_cert(der).encode())
        except Unreadable as error:
            raise ValueError(str(error)) from error


def get(
    connection: Connection, scheme: str, address: str, port: int, path: str
) -> tuple[int, bytes]:
    """Return status and body of an answer; raises NotServed or ConnectionFailed.

    The certificate of an https address is not verified: compare it with ``served_certificate``.
    """
    request = f"GET {path} HTTP/1.0\r\nHost: {address}:{port}\r\nConnection: close\r\n\r\n"
    with _stream(connection, address, port, path) as stream:
        if scheme == "https":
            tls = _Tls(stream)
            answer = tls.ask(request.encode())
        else:
            stream.sendall(request.encode())
            answer = _all(stream.recv)
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body


@contextlib.contextmanager
def _stream(
    connection: Connection, address: str, port: int, what: str
) -> "Iterator[Channel | socket.socket]":
    try:
        stream = connection.open_port(address, port, _TIMEOUT)
    except PortClosed as error:
        message = f"{address}:{port}: {error}"
        raise NotServed(message) from error
    try:
        with contextlib.closing(stream):
            stream.settimeout(_TIMEOUT)
            yield stream
    except (OSError, EOFError, LookupError, ValueError) as error:
        message = f"{address}:{port} gives no answer to {what}: {str(error) or 'it broke off'}"
        raise NotServed(message) from error


class _Tls:
    """TLS over a channel, which is no socket."""

    def __init__(self, stream: "Channel | socket.socket") -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        # The certificate is what is asked for; whoever asks compares it with the file.
        context.verify_mode = ssl.CERT_NONE
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)
        self._stream = stream

    def ask(self, request: bytes) -> bytes:
        self._until(lambda: self._tls.write(request))
        return _all(lambda size: self._until(lambda: self._read(size)))

    def _read(self, size: int) -> bytes:
        try:
            return self._tls.read(size)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def _until(self, do: Callable[[], T]) -> T:
        while True:
            try:
                done = do()
            except ssl.SSLWantReadError:
                self._send()
                received = self._stream.recv(_BLOCK)
                if received:
                    self._in.write(received)
                else:
                    self._in.write_eof()
            else:
                self._send()
                return done

    def _send(self) -> None:
        if self._out.pending:
            self._stream.sendall(self._out.read())


def _all(read: Callable[[int], bytes]) -> bytes:
    parts, size = [], 0
    while part := read(_BLOCK):
        parts.append(part)
        size += len(part)
        if size > _MOST:
            message = "the answer is too long"
            raise ValueError(message)
    return b"".join(parts)
