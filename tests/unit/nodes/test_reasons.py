"""Why a host does not answer, as it is told: in sentences, without the words of libraries."""

import errno
import os
import socket
from typing import NoReturn

import pytest

from kbuild.nodes.connection import ConnectionFailed, connections
from kbuild.nodes.model import Host, call
from kbuild.nodes.reasons import why_lost
from tests.support.hostile_servers import answer, hostile_server
from tests.support.servers import free_port


def why_unreachable(name: str, **data: object) -> str:
    host = Host(name=name, data=data)
    with connections([host]) as connected, pytest.raises(ConnectionFailed) as caught:
        connected[name].call(call("facts", ""))
    return str(caught.value)


def test_a_closed_port_is_told() -> None:
    port = free_port()
    told = why_unreachable("n1", ssh_hostname="127.0.0.1", ssh_port=port)
    assert told == f"127.0.0.1 port {port}: connection refused"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.0 502 Bad Gateway\r\n\r\n"])
def test_a_server_that_is_none_of_ssh_is_told(said: bytes) -> None:
    with hostile_server(answer(said)) as server:
        port = int(server.address.rpartition(":")[2])
        told = why_unreachable("n1", ssh_hostname="127.0.0.1", ssh_port=port)
    assert told == "no ssh server answers there"


def test_a_name_that_no_host_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert why_unreachable("n1.example.invalid") == "the host name is unknown"


def test_a_name_that_no_host_can_have_is_told() -> None:
    assert why_unreachable("a..b") == "its name cannot be that of a host"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), "connection reset"),
        (TimeoutError("timed out"), "it did not answer in time"),
        (FileNotFoundError(2, "No such file", "/bin/nc"), "no such file: /bin/nc"),
        (OSError("Socket is closed"), "Socket is closed"),
        (EOFError(), "the connection was cut"),
    ],
)
def test_no_error_is_told_with_its_number(error: Exception, told: str) -> None:
    assert why_lost(error).startswith(told)
    assert "[" not in why_lost(error)
