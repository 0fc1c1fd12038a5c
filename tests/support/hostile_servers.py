"""Servers on loopback that break off, send rubbish, or never end."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Act = Callable[[socket.socket], None]


@dataclass
class HostileServer:
    """A port, and how often somebody has connected to it."""

    port: int
    visits: list[int] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def hostile_server(act: Act) -> Iterator[HostileServer]:
    """Do ``act`` with each connection, in a thread of its own; all are closed at the end."""
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            act(connection)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            connections.append(connection)
            server.visits.append(peer[1])
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = HostileServer(listener.getsockname()[1])
        thread = threading.Thread(target=accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def silence(connection: socket.socket) -> None:
    """Read all that comes, and say nothing."""
    while connection.recv(1 << 16):
        pass


def drip(data: bytes, *, at_once: bytes = b"", seconds: float = 0.1) -> Act:
    """Send ``at_once``, then ``data`` a byte at a time, again and again."""

    def act(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(at_once)
        while True:
            for byte in data:
                connection.sendall(bytes([byte]))
                time.sleep(seconds)

    return act


def answer(data: bytes) -> Act:
    """Send ``data`` and hang up."""

    def act(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(data)

    return act


def flood(data: bytes, *, at_once: bytes = b"") -> Act:
    """Send ``at_once``, then ``data`` again and again as fast as it goes."""

    def act(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(at_once)
        while True:
            connection.sendall(data)

    return act
