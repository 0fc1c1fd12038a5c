"""What ports of a host serve, seen through its connection: certificates, and answers."""

import contextlib
import re
import ssl
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from kbuild.base.network import why
from kbuild.nodes.connection import Connection, PortClosed
from kbuild.nodes.reasons import why_lost
from kbuild.x509.api import CertificateFacts, quiet, read_certificate

T = TypeVar("T")

TIMEOUT = 10.0  # seconds
_MOST_OF_HANDSHAKE = 1 << 18  # bytes that a server may send before it has shown its certificate
# RFC 5246: the kind of a record that is a handshake, and of a message in it.
_HANDSHAKE, _CERTIFICATE = 22, 11
_RECORD_HEADER, _MESSAGE_HEADER, _LENGTH = 5, 4, 3  # bytes
_MOST = 4 << 20  # bytes of an answer; the metrics of etcd have 200 KiB
_BLOCK = 64 << 10


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


class NotServed(Exception):
    """A port does not answer as it should; its text says how."""


def served_certificate(connection: Connection, address: str, port: int) -> CertificateFacts:
    """Return the certificate that a port serves; raises NotServed or ConnectionFailed."""
    with _stream(connection, address, port, "a TLS handshake") as stream:
        return shown_by(stream)


def shown_by(stream: Stream) -> CertificateFacts:
    """Return what the certificate of a TLS server says; raises OSError or Unreadable."""
    der = certificate_shown_by(stream)
    with quiet():
        return read_certificate(ssl.DER_cert_to_PEM_cert(der).encode())


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
        status = re.match(rb"HTTP/\d\.\d (\d{3})\b", head)
        if status is None:
            message = "it is not HTTP"
            raise ValueError(message)
        return int(status[1]), body


@contextlib.contextmanager
def _stream(connection: Connection, address: str, port: int, what: str) -> Iterator[Stream]:
    try:
        stream = connection.open_port(address, port, TIMEOUT)
    except PortClosed as error:
        message = f"{address}:{port}: {error}"
        raise NotServed(message) from error
    try:
        with contextlib.closing(stream):
            stream.settimeout(TIMEOUT)
            yield stream
    except (OSError, EOFError, LookupError, ValueError) as error:
        message = f"{address}:{port} gives no answer to {what}: {why_lost(error, 'it broke off')}"
        raise NotServed(message) from error


class _Tls:
    """TLS over a channel, which is no socket."""

    def __init__(self, stream: Stream) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _trusting().wrap_bio(self._in, self._out)
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


def certificate_shown_by(stream: Stream) -> bytes:
    """Return the DER of the certificate that a TLS server shows; raises OSError if it shows none.

    A server of TLS 1.2 that demands a client certificate breaks off after it has shown its own,
    which OpenSSL then keeps to itself.
    """
    stream.settimeout(TIMEOUT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = _trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    tls = context.wrap_bio(incoming, outgoing)
    received = b""
    while len(received) < _MOST_OF_HANDSHAKE:
        try:
            tls.do_handshake()
            return tls.getpeercert(binary_form=True) or b""
        except ssl.SSLWantReadError:
            stream.sendall(outgoing.read())
        except ssl.SSLError as error:
            if der := certificate_in(received):
                return der
            raise OSError(why(error)) from error
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


def _trusting() -> ssl.SSLContext:
    """Return a context that accepts any certificate: it is read, and nothing is entrusted to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
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
