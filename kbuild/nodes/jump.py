"""Connections through other hosts, which an inventory names as ProxyJump does."""

import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump(Mapping[str, object]):
    """Arguments of paramiko's ``connect``: a new socket whenever they are read.

    pyinfra knows ProxyJump from the configuration of ssh only, and asks about unknown host keys
    there. So ``ssh -W`` goes to the last of the ``hops``; it asks nothing, and knows the hosts of
    ``known_hosts`` only, as kbuild itself.
    """

    hops: str
    target: str
    ssh_config: Path | None = None
    known_hosts: Path | None = None
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list, repr=False, compare=False)

    def __getitem__(self, name: str) -> object:
        if name != "sock":
            raise KeyError(name)
        ours, theirs = socket.socketpair()
        with theirs:
            end = theirs.fileno()
            process = subprocess.Popen(
                self.command(), stdin=end, stdout=end, stderr=subprocess.DEVNULL
            )
        self._running.append(process)  # it ends when the socket is closed
        return ours

    def __iter__(self) -> Iterator[str]:
        return iter(("sock",))

    def __len__(self) -> int:
        return 1

    def command(self) -> list[str]:
        """Return the command that connects to the target."""
        *before, last = self.hops.split(",")
        address, _, port = last.rpartition(":")
        if not address or port.endswith("]"):
            address, port = last, ""
        options = {"BatchMode": "yes", "StrictHostKeyChecking": "yes", "ConnectTimeout": "20"}
        if self.known_hosts:
            options["UserKnownHostsFile"] = str(self.known_hosts)
        command = ["ssh", *(f"-o{name}={value}" for name, value in options.items())]
        command += ["-F", str(self.ssh_config)] if self.ssh_config else []
        command += ["-J", ",".join(before)] if before else []
        command += ["-p", port] if port else []
        return [*command, "-W", self.target, "--", address.replace("[", "").replace("]", "")]
