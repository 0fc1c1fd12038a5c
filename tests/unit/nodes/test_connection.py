"""Connections to this machine, which need no ssh, and connections that are cut."""

import random
import socket
import subprocess
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kbuild.nodes.connection import CallFailed, Connection, PortClosed, connections, talk
from kbuild.nodes.model import Host, call

HERE = Host(name="@local")


def test_functions_run_and_ports_are_opened_on_this_machine() -> None:
    with connections([HERE]) as connected, socket.create_server(("127.0.0.1", 0)) as server:
        connection = connected[HERE.name]
        assert connection.call(call("one", "name", "value")) == "name=value\n"
        told = replace(call("eval", 'printf %s "$secret"'), secret="it's secret")
        assert connection.call(told) == "it's secret"
        assert "it's" not in f"{told} {told!r}"
        with pytest.raises(CallFailed, match="does not exist"):
            connection.call(call("has_sha", "/nonexistent", ""))
        port = server.getsockname()[1]
        connection.open_port("127.0.0.1", port).close()
    with connections([HERE]) as connected, pytest.raises(PortClosed, match="refused"):
        connected[HERE.name].open_port("127.0.0.1", port)


@pytest.mark.parametrize("before", ["read line", "exit 0"])
def test_a_login_shell_that_takes_what_is_sent_is_told(
    monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    run = subprocess.run

    def login_shell(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        return run(["/bin/sh", "-c", f"{before}; {command[-1]}"], **options)

    monkeypatch.setattr(subprocess, "run", login_shell)
    with connections([HERE]) as connected, pytest.raises(CallFailed, match=r"~/\.bashrc"):
        connected[HERE.name].call(call("one", "name", "value"))


class Peer:
    """A host whose connection can be cut; ``connected`` counts how often it was made."""

    def __init__(self) -> None:
        self.connected = 0
        self.is_alive = True
        self.connector = SimpleNamespace(client=SimpleNamespace(get_transport=lambda: self))

    def connect(self, **_: object) -> None:
        self.connected += 1
        self.is_alive = True

    def disconnect(self) -> None:
        self.is_alive = False

    def set_keepalive(self, _: int) -> None:
        pass

    def is_active(self) -> bool:
        return self.is_alive

    def open_channel(self, *_: object, **__: object) -> str:
        from paramiko import SSHException

        if not self.is_alive:
            message = "SSH session not active"
            raise SSHException(message)
        return "a channel"


def test_a_port_is_opened_after_the_connection_was_cut() -> None:
    peer: Any = Peer()
    connection = Connection(host=Host(name="n1"), _peer=peer)
    for _ in range(2):
        assert str(connection.open_port("127.0.0.1", 6443)) == "a channel"
    assert peer.connected == 1
    peer.is_alive = False
    assert str(connection.open_port("127.0.0.1", 6443)) == "a channel"
    assert peer.connected == 2


class Channel:
    """A channel of ssh that remembers how much it was given at once."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.got, self.sizes, self._most = bytearray(), list[int](), most
        self.exit_status, self.status_event = 0, threading.Event()
        self.status_event.set()

    def settimeout(self, _: float) -> None:
        pass

    def sendall(self, content: bytes) -> None:
        if len(self.got) >= self._most:
            message = "Socket is closed"
            raise OSError(message)
        self.got += content
        self.sizes.append(len(content))

    def shutdown_write(self) -> None:
        pass

    def recv(self, _: int) -> bytes:
        return b""

    recv_stderr = recv


def test_a_file_is_given_to_ssh_in_pieces_which_costs_no_copies() -> None:
    content = random.Random(1).randbytes((1 << 20) + 7)
    whole, cut = Channel(), Channel(most=1 << 18)
    for channel in (whole, cut):
        assert talk(cast("Any", channel), content, time.monotonic() + 60) == (0, "", "")
    assert bytes(whole.got) == content
    assert max(whole.sizes) <= 1 << 16
    assert bytes(cut.got) == content[: 1 << 18]
