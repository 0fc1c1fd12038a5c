"""Hosts with an sshd each on this machine, for tests that need many; only root can make them.

A host is a PID namespace and a mount namespace, with empty file systems of its own where kbuild
writes, and an address in 127.0.1.0/24. All of it goes away with its first process, which ends when
the process that made it ends, in whatever way.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.node import free_port, new_key

KUBEADM = Path("/usr/local/sbin/kubeadm")  # on each host
START_SECONDS = 30

# However this process ends, what it starts with these words ends too.
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")

# $1: address, $2: port, $3: folder of keys, $4: size of the file system of kubeadm, $5: kubeadm
_HOST = """
set -eu
for each in /root /run /var/lib; do mount -t tmpfs tmpfs "$each"; done
mount -t tmpfs -o "size=$4" tmpfs /usr/local/sbin
mkdir -m 755 /run/sshd
install -m 755 "$5" /usr/local/sbin/kubeadm
exec /usr/sbin/sshd -D -e -f /dev/null -p "$2" -h "$3/host_key" -o ListenAddress="$1" \\
  -o AuthorizedKeysFile="$3/../user_key.pub" -o PermitRootLogin=prohibit-password \\
  -o StrictModes=no -o UsePAM=no -o PidFile=none -o Subsystem='sftp internal-sftp'
"""


@dataclass(frozen=True, slots=True)
class Host:
    """A host that runs: ``process`` is outside of its namespaces, and they end with it."""

    address: str
    process: subprocess.Popen[bytes]

    def path(self, path: Path) -> Path:
        """Return where a file of the host is seen from here."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return Path(f"/proc/{children.read_text().split()[0]}/root") / path.relative_to("/")

    def die(self) -> None:
        """End all its processes at once."""
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True, slots=True)
class Fleet:
    """Hosts by their name, and how ssh and kbuild reach them."""

    hosts: Mapping[str, Host]
    ssh_config: Path
    known_hosts: Path

    def options(self, names: Sequence[str] = ()) -> tuple[str | Path, ...]:
        """Return the options of kbuild for these hosts, or for all."""
        hosts = ("--hosts", ",".join(names or self.hosts))
        return (*hosts, "--ssh-config", self.ssh_config, "--known-hosts", self.known_hosts)


@contextlib.contextmanager
def running_fleet(
    folder: Path,
    names: Sequence[str],
    kubeadm: Path,
    *,
    sizes: Mapping[str, str] | None = None,
    foreign: Sequence[str] = (),
    unknown: Sequence[str] = (),
    inside: Sequence[str] = (),
) -> Iterator[Fleet]:
    """Run hosts that have this kubeadm; ``folder`` is for keys and the files of ssh.

    ``sizes`` limits the file system of kubeadm, as mount does. The ``foreign`` are of another
    architecture. The key in known_hosts is not that of the ``unknown``. ``inside`` are words that
    run the command after them in the network where the hosts are.
    """
    port, hosts = free_port(), dict[str, Host]()
    fleet = Fleet(hosts, folder / "ssh_config", folder / "known_hosts")
    new_key(folder / "user_key")
    with contextlib.ExitStack() as stack:
        for number, name in enumerate(names, 1):
            address = f"127.0.1.{number}"
            (folder / name).mkdir()
            key = _new_key(folder / name / "host_key")
            known = _new_key(folder / name / "other_key") if name in unknown else key
            _append(fleet.known_hosts, f"[{address}]:{port} {known}")
            _append(fleet.ssh_config, _SSH.format(name, address, port, folder / "user_key"))
            script = (_HOST, name, address, str(port), folder / name)
            size = (sizes or {}).get(name, "50%")
            setarch = ("setarch", "linux32") if name in foreign else ()
            command = (
                *DIES_WITH_US,
                *inside,
                *setarch,
                *_NAMESPACES,
                "sh",
                "-c",
                *script,
                size,
                kubeadm,
            )
            hosts[name] = stack.enter_context(_running(address, command, folder / name / "log"))
        for name, host in hosts.items():
            _wait(host, folder / name / "log")
        yield fleet


_SSH = "Host {}\n  HostName {}\n  Port {}\n  User root\n  IdentityFile {}\n"


def _append(file: Path, text: str) -> None:
    with file.open("a") as stream:
        stream.write(text)


def _new_key(file: Path) -> str:
    """Make a pair of ssh keys, and return the public one."""
    new_key(file)
    return file.with_suffix(".pub").read_text()


@contextlib.contextmanager
def _running(address: str, command: Sequence[str | Path], log: Path) -> Iterator[Host]:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    host = Host(address, process)
    try:
        yield host
    finally:
        host.die()


def _wait(host: Host, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while f"Server listening on {host.address}" not in log.read_text():
        assert host.process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
