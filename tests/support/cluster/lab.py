"""Where nodes run: a network namespace with a bridge, and a cgroup that holds every process."""

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.cluster.build import Built, run
from tests.support.cluster.files import ADDRESSES, BALANCER, CONTROL_PLANES

SCRIPT = Path(__file__).with_name("node.sh")
CGROUPS = Path("/sys/fs/cgroup")
STOP_SECONDS = 60


class LabError(Exception):
    """Something of a lab does not stop."""


@dataclass(frozen=True, slots=True)
class Lab:
    """The machine's side of a cluster that keeps its files in ``state``."""

    state: Path

    @property
    def name(self) -> str:
        """Name of the cgroup: every folder has its own."""
        return f"kbuild-{hashlib.sha256(str(self.state.resolve()).encode()).hexdigest()[:8]}"

    @property
    def inside(self) -> tuple[str, ...]:
        """Words before a command that shall reach the nodes."""
        return ("nsenter", f"--net={self.network}")

    @property
    def network(self) -> Path:
        """Return the network namespace, as a file. `ip netns` would leave a mount behind."""
        return self.state / "net"

    def create(self, built: Built) -> None:
        """Make the network, and start the balancer; the state's folder is there and empty."""
        self.network.touch()
        run(("unshare", f"--net={self.network}", "true"))
        address = ADDRESSES["balancer"]
        for command in (
            "link set lo up",
            "link add br0 type bridge",
            f"addr add {address}/24 dev br0",
            "link set br0 up",
        ):
            run((*self.inside, "ip", *command.split()))
        servers = [f"  server {name} {ADDRESSES[name]}:6443\n" for name in CONTROL_PLANES]
        config = BALANCER.format(address=address) + "".join(servers)
        (self.state / "haproxy.cfg").write_text(config)
        shutil.copy2(SCRIPT, self._script)  # a checkout may change while nodes run
        (self.state / "root").symlink_to(built.root)
        (self.state / "images").symlink_to(built.docker)
        script = (str(self._script), "balance", str(self.state), self.name)
        log = str(self.state / "haproxy.log")
        _start((*self.inside, "unshare", "--mount", *script), log)

    def boot(self, name: str) -> None:
        """Switch a node on; it has a folder in the state."""
        words = (str(self.state), self.name, name, ADDRESSES[name], ADDRESSES["balancer"])
        _start((str(self._script), "run", *words), str(self.state / name / "console.log"))

    def cut_power(self, name: str) -> None:
        """Kill all processes of a node at once."""
        _kill_all(lambda: _processes(self._cgroups(name)))

    def programs(self, name: str) -> set[str]:
        """Return the names of the programs that run on a node; the kernel cuts them."""
        found = set()
        for pid in _processes(self._cgroups(name)):
            with suppress(OSError):  # it may be gone already
                found.add(Path(f"/proc/{pid}/comm").read_text().strip())
        return found

    def destroy(self) -> None:
        """Stop everything, and remove it; nothing need be there. Raises LabError."""
        _kill_all(lambda: _processes(self._cgroups()) | self._in_network())
        if self._has_network():
            run(("umount", "--lazy", self.network))
        for folder in self._cgroups():
            _remove_cgroup(folder)

    @property
    def _script(self) -> Path:
        return self.state / SCRIPT.name

    def _cgroups(self, *below: str) -> list[Path]:
        v1 = [each for each in CGROUPS.iterdir() if each.is_dir() and not each.is_symlink()]
        folders = [top.joinpath(self.name, *below) for top in (CGROUPS, *v1)]
        return [folder for folder in folders if folder.is_dir()]

    def _has_network(self) -> bool:
        return self.network.exists() and self.network.stat().st_dev != self.state.stat().st_dev

    def _in_network(self) -> set[int]:
        if not self._has_network():
            return set()
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it may be gone already
                if (process / "ns/net").stat().st_ino == self.network.stat().st_ino:
                    found.add(int(process.name))
        return found


def left(state: Path) -> list[str]:
    """Return what there is on the machine of a cluster that keeps its files in ``state``."""
    state = state.resolve()
    lab = Lab(state)
    mine = (lab.name, str(state), *(f"{address}/" for address in ADDRESSES.values()))
    places = {
        "mount": Path("/proc/mounts").read_text(),
        "address": run(("ip", "-oneline", "address")),
        "packet filter": run(("iptables-save",)),
        "process": run(("ps", "-e", "-o", "args=", "ww")),
        "file": "\n".join(map(str, state.rglob("*"))),
        "cgroup": "\n".join(map(str, CGROUPS.glob(f"**/{lab.name}"))),
    }
    return [
        f"{what}: {line}"
        for what, text in places.items()
        for line in text.splitlines()
        if any(each in line for each in mine)
    ]


def _start(command: tuple[str, ...], log: str) -> None:
    """Start a process that is nobody's child, for whoever started the cluster may end."""
    run(
        (
            "setsid",
            "--fork",
            "sh",
            "-c",
            'log=$1; shift; exec "$@" >>"$log" 2>&1',
            "-",
            log,
            *command,
        )
    )


def _processes(cgroups: list[Path]) -> set[int]:
    found = set()
    for top in cgroups:
        for folder, _, _ in os.walk(top):  # it passes over what is gone already
            with suppress(OSError):
                found |= {int(pid) for pid in Path(folder, "cgroup.procs").read_text().split()}
    return found


def _kill_all(processes: Callable[[], set[int]]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while left := processes() - {os.getpid()}:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            msg = f"processes {sorted(left)} do not end"
            raise LabError(msg)
        time.sleep(0.05)


def _remove_cgroup(top: Path) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while top.exists():
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):  # busy for a moment after its last process has ended
                Path(folder).rmdir()
        if time.monotonic() > deadline:
            msg = f"{top} cannot be removed"
            raise LabError(msg)
        time.sleep(0.01)
