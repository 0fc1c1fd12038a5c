"""Jump hosts of which each reaches only the next one, for tests as root.

Each is a network namespace with a loopback of its own. A listener in the namespace before it starts
an sshd in it for each connection, so that all addresses are those of loopback, and the kernel keeps
everybody from what is behind.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.fleet import DIES_WITH_US
from tests.support.node import free_port, new_key

# SIOCSIFFLAGS and IFF_UP of linux/sockios.h and linux/if.h: a new loopback is down.
_NAMESPACE = """
import fcntl, socket, struct, time
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 1))
print("up", flush=True)
time.sleep(3600)
"""
_LISTENER = """
import os, socket, subprocess, sys
port, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "run", "/run"], check=True)
os.mkdir("/run/sshd", 0o755)
listening = socket.create_server(("127.0.0.1", int(port)))
print("up", flush=True)
while True:
    made, _ = listening.accept()
    subprocess.Popen(command, stdin=made, stdout=made)
    made.close()
"""
_SSHD = "AuthorizedKeysFile={keys} PermitRootLogin=prohibit-password StrictModes=no UsePAM=no"


@dataclass(frozen=True, slots=True)
class Jumps:
    """Jump hosts by name, in their order; ``inside`` runs a command in the network of the last."""

    names: tuple[str, ...]
    inside: tuple[str, ...]
    log: Path

    def uses(self) -> dict[str, int]:
        """Return how often somebody has logged in to each."""
        text = self.log.read_text()
        return {name: text.count(f"{name}: Accepted") for name in self.names}


@contextlib.contextmanager
def running_jumps(
    folder: Path, names: Sequence[str], keys: Path, ssh_config: Path, known_hosts: Path
) -> Iterator[Jumps]:
    """Run jump hosts for who has one of the ``keys``, and add them to the files of ssh."""
    into: tuple[str, ...] = ()
    with contextlib.ExitStack() as stack:
        for name in names:
            port = free_port()  # and so it is in a namespace where nobody else is
            new_key(folder / f"{name}_key")
            public = (folder / f"{name}_key.pub").read_text()
            with known_hosts.open("a") as known, ssh_config.open("a") as config:
                known.write(f"[127.0.0.1]:{port} {public}")
                config.write(f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  User root\n")
            pid = stack.enter_context(_running(("unshare", "--net", *_python(_NAMESPACE))))
            there = ("nsenter", f"--net=/proc/{pid}/ns/net")
            sshd = (*there, *_sshd(folder, name, keys))
            listener = _python(_LISTENER, str(port), *sshd)
            stack.enter_context(_running((*into, "unshare", "--mount", *listener)))
            into = there
        yield Jumps(tuple(names), into, folder / "jumps.log")


def _sshd(folder: Path, name: str, keys: Path) -> tuple[str, ...]:
    options = [f"-o{each}" for each in _SSHD.format(keys=keys).split()]
    words = ("/usr/sbin/sshd", "-i", "-e", "-f", "/dev/null", "-h", str(folder / f"{name}_key"))
    quiet = f'"$@" 2>&1 >&3 3>&- | sed -u "s/^/{name}: /" >>{folder}/jumps.log'
    return (*DIES_WITH_US, "sh", "-c", f"exec 3>&1; {quiet}", "sh", *words, *options)


def _python(program: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program, *words)


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[int]:
    """Run a program that says when it is up, and return its process."""
    process = subprocess.Popen((*DIES_WITH_US, *command), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == "up\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
