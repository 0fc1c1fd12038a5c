"""Connections through other hosts, which an inventory names as ProxyJump does."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path


class Jump(dict[str, object]):
    """Arguments of paramiko's ``connect``: a new socket whenever they are read.

    pyinfra knows ProxyJump from the configuration of ssh only, and asks about unknown host keys
    there. So ``ssh -W`` goes to the last of the ``hops``; it asks nothing, knows the hosts of
    ``known_hosts`` only, as kbuild itself, and says on stderr what is wrong.
    pyinfra demands a dict, and reads it with ``update`` at each connection.
    """

    def __init__(
        self, hops: str, target: str, ssh_config: Path | None, known_hosts: Path | None
    ) -> None:
        super().__init__(sock=None)
        self.hops, self.target = hops, target
        self._ssh_config, self._known_hosts = ssh_config, known_hosts
        self._running: list[subprocess.Popen[bytes]] = []

    def __iter__(self) -> Iterator[str]:  # without this, update does not call __getitem__
        return super().__iter__()

    def __getitem__(self, name: str) -> object:
        if name != "sock":
            raise KeyError(name)
        ours, theirs = socket.socketpair()
        with theirs:
            end = theirs.fileno()
            process = subprocess.Popen(self.command(), stdin=end, stdout=end)
        self._running.append(process)  # it ends when the socket is closed
        return ours

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
