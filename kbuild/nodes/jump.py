"""Connections through other hosts, which an inventory or the configuration of ssh names."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyinfra.connectors.sshuserclient.config import SSHConfig

_PATIENCE = 2  # seconds in which an ssh whose connection has failed ends


class Jump(dict[str, object]):
    """Arguments of paramiko's ``connect``: a new socket whenever they are read.

    pyinfra knows ProxyJump from the configuration of ssh only, asks about unknown host keys there,
    and fails with more than one hop (3.10: the port of the second is a text, and a ProxyJump of a
    hop is left out). So ``ssh -W`` goes to the last of the ``hops``; it asks nothing and knows the
    hosts of ``known_hosts`` only, as kbuild itself.
    pyinfra demands a dict, and reads it with ``update`` at each connection.
    """

    def __init__(
        self, hops: str, target: str, ssh_config: Path | None, known_hosts: Path | None
    ) -> None:
        super().__init__(sock=None)
        self.hops, self.target = hops, target
        self._ssh_config, self._known_hosts = ssh_config, known_hosts
        self._running: list[subprocess.Popen[str]] = []

    def __iter__(self) -> Iterator[str]:  # without this, update does not call __getitem__
        return super().__iter__()

    def __getitem__(self, name: str) -> object:
        if name != "sock":
            raise KeyError(name)
        ours, theirs = socket.socketpair()
        with theirs:
            end = theirs.fileno()
            process = subprocess.Popen(
                self.command(), stdin=end, stdout=end, stderr=subprocess.PIPE, text=True
            )
        self._running.append(process)  # it ends when the socket is closed
        return ours

    def reason(self) -> str:
        """Return why the last connection through the hops has failed, or an empty text."""
        if not self._running:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, errors = self._running[-1].communicate(timeout=_PATIENCE)
            lines = [line.strip() for line in errors.splitlines() if line.strip(" @\n")]
            # Of a key that is another, ssh first tells a story. Else the first line is the cause.
            told = [line for line in lines if "strict checking" in line] or lines
            return told[0] if told else ""
        return ""

    def close(self) -> None:
        """End all connections through the hops."""
        for process in self._running:
            with process:  # which waits for it, and closes its pipe
                process.kill()
        self._running.clear()

    def command(self) -> list[str]:
        """Return the command that connects to the target."""
        *before, last = self.hops.split(",")
        address, _, port = last.rpartition(":")
        if not address or port.endswith("]"):
            address, port = last, ""
        options = {"BatchMode": "yes", "StrictHostKeyChecking": "yes", "LogLevel": "ERROR"}
        if self._known_hosts:
            options["UserKnownHostsFile"] = str(self._known_hosts)
        command = ["ssh", *(f"-o{name}={value}" for name, value in options.items())]
        command += ["-F", str(self._ssh_config)] if self._ssh_config else []
        command += ["-J", ",".join(before)] if before else []
        command += ["-p", port] if port else []
        return [*command, "-W", self.target, "--", address.replace("[", "").replace("]", "")]


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
