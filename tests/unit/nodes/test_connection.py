"""Connections to this machine, which need no ssh."""

import socket

import pytest

from kbuild.nodes.connection import CallFailed, PortClosed, connections
from kbuild.nodes.model import Host, call

HERE = Host(name="@local")


def test_functions_run_and_ports_are_opened_on_this_machine() -> None:
    with connections([HERE]) as connected, socket.create_server(("127.0.0.1", 0)) as server:
        connection = connected[HERE.name]
        assert connection.call(call("one", "name", "value")) == "name=value\n"
        with pytest.raises(CallFailed, match="does not exist"):
            connection.call(call("has_sha", "/nonexistent", ""))
        port = server.getsockname()[1]
        connection.open_port("127.0.0.1", port).close()
    with connections([HERE]) as connected, pytest.raises(PortClosed, match="refused"):
        connected[HERE.name].open_port("127.0.0.1", port)
