"""Connections through another host."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kbuild.nodes.jump import Jump

AFTER_CONNECTING = """
import subprocess, sys
from kbuild.nodes.connection import prepare
prepare()
import gevent
gevent.sleep(0)
print(subprocess.run(["echo", "good"], capture_output=True, text=True).stdout)
"""


def test_each_connection_has_a_socket_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "$@"\nexec cat\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    jump = Jump("one,me@[::1]:2222", "[10.0.0.1]:22", None, Path("known"))
    for _ in range(2):
        arguments: dict[str, object] = {}
        arguments.update(jump)
        ours = arguments["sock"]
        assert isinstance(ours, socket.socket)
        with ours, ours.makefile("rwb") as stream:
            line = stream.readline().decode()
            assert line.endswith("-J one -p 2222 -W [10.0.0.1]:22 -- me@::1\n")
            assert "-oUserKnownHostsFile=known" in line
            stream.write(b"there and back\n")
            stream.flush()
            assert stream.readline() == b"there and back\n"
    for process in jump._running:
        assert process.wait() == 0
    jump.close()


@pytest.mark.slow
def test_programs_run_after_pyinfra_is_prepared() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AFTER_CONNECTING],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "good"
