"""Connections through other hosts, which an inventory or the configuration of ssh names."""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kbuild.nodes.hops import command_through

if TYPE_CHECKING:
    from pyinfra.connectors.sshuserclient.config import SSHConfig

_PATIENCE = 2  # seconds in which an ssh whose connection has failed ends
_BANNER = 20  # seconds; the 15 of paramiko (4.0, transport.py) are short for several hops
_VAGUE = ("UNKNOWN port", "during banner exchange", "kex_exchange_identification:")


class Jump(dict[str, object]):
    """Arguments of paramiko's ``connect``: a new socket whenever they are read.

    pyinfra knows ProxyJump from the configuration of ssh only, asks about unknown host keys there,
    and fails with more than one hop (3.10: the port of the second is a text, and a ProxyJump of a
    hop is left out). So ``ssh -W`` goes through the ``hops``; it asks nothing and knows the
    hosts of ``known_hosts`` only, as kbuild itself.
    pyinfra demands a dict, and reads it with ``update`` at each connection.
    """

    def __init__(
        self, hops: str, target: str, ssh_config: Path | None, known_hosts: Path | None
    ) -> None:
        super().__init__(sock=None, banner_timeout=_BANNER)
        self.hops, self.target = hops, target
        self._ssh_config, self._known_hosts = ssh_config, known_hosts
        self._running: list[subprocess.Popen[bytes]] = []

    def __iter__(self) -> Iterator[str]:  # without this, update does not call __getitem__
        return super().__iter__()

    def __getitem__(self, name: str) -> object:
        if name != "sock":
            return super().__getitem__(name)
        command = command_through(self.hops, self.target, self.options())
        ours, theirs = socket.socketpair()
        with theirs:
            end = theirs.fileno()
            # In a session of its own: close() ends the ssh of each hop, Ctrl-C ends none of them
            # before the step that goes on, and none has a terminal to ask on.
            process = subprocess.Popen(
                command, stdin=end, stdout=end, stderr=subprocess.PIPE, start_new_session=True
            )
        self._running.append(process)  # it ends when the socket is closed
        return ours

    def reason(self) -> str:
        """Return why the last connection through the hops has failed, or an empty text."""
        if not (last := self._running[-1:]):
            return ""
        lines = [line.strip() for line in _errors(last[0]).splitlines() if line.strip(" @\n")]
        # Of a key that is another, ssh first tells a story. Else the first line is the cause, if it
        # names a host: after the first hop, no ssh knows an address.
        told = [line for line in lines if "strict checking" in line]
        told = told or [line for line in lines if not any(each in line for each in _VAGUE)] or lines
        return told[0] if told else ""

    def close(self) -> None:
        """End all connections through the hops."""
        with contextlib.suppress(IndexError):  # another thread may close them too
            while True:
                process = self._running.pop()
                # Nobody has waited for its leader, so the group is still this one.
                with process, contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)

    def options(self) -> list[str]:
        """Return the options for the ssh of each hop."""
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "LogLevel": "ERROR",
        }
        if self._known_hosts:
            options["UserKnownHostsFile"] = _as_one_file(self._known_hosts)
        config = ["-F", str(self._ssh_config)] if self._ssh_config else []
        return [*(f"-o{name}={value}" for name, value in options.items()), *config]


def _as_one_file(path: Path) -> str:
    """Return a path as ssh reads it in a list of files, of which it expands percent signs."""
    return '"{}"'.format(re.sub(r'["\\]', r"\\\g<0>", str(path)).replace("%", "%%"))


def _errors(process: "subprocess.Popen[bytes]") -> str:
    """Return what a process has printed if it ends soon; it is not waited for."""
    assert process.stderr is not None
    said, until, poll = bytearray(), time.monotonic() + _PATIENCE, select.poll()
    with contextlib.suppress(OSError, ValueError):  # another thread may have closed it
        poll.register(process.stderr, select.POLLIN)
        while (left := until - time.monotonic()) > 0:
            if poll.poll(left * 1000):
                piece = os.read(process.stderr.fileno(), 1 << 16)
                if not piece:
                    return said.decode(errors="backslashreplace")
                said += piece
    return ""


def read_ssh_config(path: Path | None) -> "SSHConfig | None":
    """Return the configuration of ssh; None if there is none, or none that pyinfra reads.

    What is wrong with it, or that pyinfra is missing, is told where hosts are connected.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        from paramiko import SSHException
        from pyinfra.connectors.sshuserclient.config import SSHConfig

        config = SSHConfig()
        with (
            contextlib.suppress(SSHException),
            (path or Path("~/.ssh/config").expanduser()).open(encoding="utf-8") as file,
        ):
            config.parse(file)
            return config
    return None
