"""The certificate that a TLS server shows, whatever it demands of its clients."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbuild.nodes.served import certificate_in, certificate_shown_by
from tests.support.authority import issue

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
CA = issue("etcd-ca", ca=True)
LEAF = issue("n1", CA)


@contextlib.contextmanager
def server(folder: Path, version: ssl.TLSVersion, *, demands: bool) -> Iterator[int]:
    """Run a TLS server of one version on loopback, and give its port."""
    LEAF.write(folder / "leaf.crt")
    CA.write(folder / "ca.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(folder / "leaf.crt", folder / "leaf.key")
    context.load_verify_locations(folder / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED if demands else ssl.CERT_NONE
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_serve, args=(listening, context))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join(20)


def _serve(listening: socket.socket, context: ssl.SSLContext) -> None:
    listening.settimeout(10)
    peer, _ = listening.accept()
    with contextlib.suppress(OSError), context.wrap_socket(peer, server_side=True) as tls:
        tls.recv(1)
    peer.close()


@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("demands", [False, True])
def test_the_certificate_is_read(tmp_path: Path, version: ssl.TLSVersion, *, demands: bool) -> None:
    with (
        server(tmp_path, version, demands=demands) as port,
        socket.create_connection(("127.0.0.1", port), 10) as stream,
    ):
        assert certificate_shown_by(stream) == LEAF.der


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b"", b"\x16\x03\x03\x00"])
def test_what_is_no_tls_is_an_error(answer: bytes) -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError, match=r"^TLS failed: "):
            certificate_shown_by(mine)


def test_a_server_that_never_ends_is_an_error() -> None:
    class Endless:
        def settimeout(self, timeout: float, /) -> None: ...
        def sendall(self, data: bytes, /) -> None: ...
        def close(self) -> None: ...
        def recv(self, _size: int, /) -> bytes:
            return b"\x16\x03\x03\x40\x00\x02\x00\xff\xff" + bytes(0x4000 - 4)

    with pytest.raises(OSError, match=r"no certificate|TLS failed"):
        certificate_shown_by(Endless())


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_a_part_of_a_handshake_holds_no_certificate(length: int) -> None:
    message = b"\x0b" + (len(LEAF.der) + 6).to_bytes(3) + bytes(3) + len(LEAF.der).to_bytes(3)
    content = message + LEAF.der
    whole = b"\x16\x03\x03" + len(content).to_bytes(2) + content
    assert certificate_in(whole) == LEAF.der
    assert certificate_in(whole[:length]) == b""
