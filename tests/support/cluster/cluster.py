"""A cluster made by stock kubeadm: mostly three control planes, a worker and a load balancer."""

import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.cluster.build import BuildError, build, run, wait
from tests.support.cluster.files import (
    ADDRESSES,
    CERTIFICATE_KEY,
    CONTROL_PLANES,
    INIT,
    NODES,
    TOKEN,
)
from tests.support.cluster.lab import Lab

CLIENT = Path(__file__).with_name("client.py")
MADE = (
    *("admin.conf", "haproxy.cfg", "haproxy.log", "id_ed25519", "id_ed25519.pub", "images"),
    *("inventory.ini", "known_hosts", "net", "node.sh", "root", "ssh_config", *NODES),
)
# A busy machine needs ten times as long as one that has nothing else to do.
BOOT_SECONDS, READY_SECONDS, COMMAND_SECONDS = 180, 300, 600
IGNORED = "--ignore-preflight-errors=all"
SSH_CONFIG = """\
Host *
  User root
  IdentityFile {state}/id_ed25519
  IdentitiesOnly yes
  UserKnownHostsFile {state}/known_hosts
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 10
  LogLevel ERROR
"""


class CommandFailed(Exception):
    """A command on a node ended with another exit code than 0; the text has what it printed."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster."""

    name: str
    lab: Lab

    @property
    def address(self) -> str:
        return ADDRESSES[self.name]

    @property
    def files(self) -> Path:
        """Return the folder with what the node has changed in its root file system."""
        return self.lab.state / self.name / "upper"

    def ssh(self, command: str, *, stdin: str = "", seconds: float = COMMAND_SECONDS) -> str:
        """Run a shell command as root and return what it prints; raises CommandFailed."""
        words = ("ssh", "-F", str(self.lab.state / "ssh_config"), self.name, command)
        try:
            done = subprocess.run(
                (*self.lab.inside, *words),
                input=stdin,
                check=False,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            msg = f"{self.name}: `{command}` still runs after {seconds:.0f} s: {error.stdout!r}"
            raise CommandFailed(msg) from error
        if done.returncode:
            said = f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
            msg = f"{self.name}: `{command}` ended with exit code {done.returncode}:\n{said}"
            raise CommandFailed(msg)
        return done.stdout

    def answers(self) -> bool:
        """Tell whether ssh works."""
        try:
            self.ssh("true", seconds=20)
        except CommandFailed:
            return False
        return True

    def boot_id(self) -> str:
        """Return what is another one after each boot."""
        return (self.lab.state / self.name / "init.pid").read_text()

    def reboot(self) -> None:
        """Reboot as an administrator does, and wait until ssh works again."""
        before = self.boot_id()
        self.ssh("systemctl reboot || true")
        wait(
            lambda: self.boot_id() != before and self.answers(), BOOT_SECONDS, f"reboot {self.name}"
        )

    def kill(self) -> None:
        """Cut the power: all processes end at once."""
        self.lab.cut_power(self.name)

    def boot(self) -> None:
        """Switch it on again after its power was cut, and wait until ssh works."""
        self.lab.boot(self.name)
        wait(self.answers, BOOT_SECONDS, f"boot {self.name}")


@dataclass(frozen=True, slots=True)
class Polled:
    """What a client has seen; ``slowest`` in seconds, of the requests that did not fail."""

    total: int
    failed: int
    slowest: float
    errors: tuple[str, ...]


class Poller:
    """Asks an address 20 times a second, each time on a new connection."""

    def __init__(self, lab: Lab, address: str) -> None:
        command = (sys.executable, CLIENT, "poll", lab.state / "admin.conf", address)
        self._process = subprocess.Popen(
            (*lab.inside, *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def stop(self) -> Polled:
        """End, and tell what was seen."""
        said, _ = self._process.communicate()
        return Polled(**json.loads(said) | {"errors": tuple(json.loads(said)["errors"])})

    def __enter__(self) -> "Poller":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that runs; everything about it is in the lab's ``state`` folder."""

    lab: Lab
    names: tuple[str, ...] = NODES

    @property
    def nodes(self) -> dict[str, Node]:
        return {name: Node(name, self.lab) for name in self.names}

    @property
    def control_planes(self) -> list[Node]:
        return [self.nodes[name] for name in CONTROL_PLANES if name in self.names]

    @property
    def ssh_config(self) -> Path:
        return self.lab.state / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.lab.state / "known_hosts"

    @property
    def inventory(self) -> Path:
        """Return an inventory of Ansible."""
        return self.lab.state / "inventory.ini"

    def kubectl(self, *words: str) -> Any:
        """Run kubectl on the first node through the balancer; return its JSON."""
        command = " ".join(("kubectl --kubeconfig /etc/kubernetes/admin.conf -o json", *words))
        return json.loads(self.nodes["n1"].ssh(command))

    def ready(self) -> set[str]:
        """Return the names of the nodes that are Ready."""
        return {
            node["metadata"]["name"]
            for node in self.kubectl("get", "nodes")["items"]
            for condition in node["status"]["conditions"]
            if (condition["type"], condition["status"]) == ("Ready", "True")
        }

    def healthy(self) -> set[str]:
        """Return the names of the control planes whose API server says that it is ready."""
        kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf get --raw /readyz --server"
        found = set()
        for node in self.control_planes:
            with suppress(CommandFailed):
                if node.ssh(f"{kubectl} https://{node.address}:6443") == "ok":
                    found.add(node.name)
        return found

    def wait_until_whole(self) -> None:
        """Wait until all nodes and API servers are ready; raises TimeoutError."""

        def whole() -> bool:
            with suppress(CommandFailed):
                is_healthy = len(self.healthy()) == len(self.control_planes)
                return is_healthy and self.ready() == set(self.names)
            return False

        wait(whole, READY_SECONDS, "all nodes and API servers ready")

    def not_after(self, name: str, port: int) -> datetime:
        """Return the end of the certificate that a node serves on a port."""
        command = (sys.executable, CLIENT, "not-after", ADDRESSES[name], str(port))
        return datetime.fromisoformat(json.loads(run((*self.lab.inside, *command))))

    def poller(self, name: str = "balancer") -> Poller:
        return Poller(self.lab, ADDRESSES[name])


Init = Callable[[Cluster], str]


def _plain(_cluster: Cluster) -> str:
    return INIT


def up(cache: Path, state: Path, names: tuple[str, ...] = NODES, init: Init = _plain) -> Cluster:
    """Start a cluster that keeps its files in ``state``, a folder that is empty or not there.

    ``init`` prepares nodes that have started, and returns the configuration for `kubeadm init`.
    Raises BuildError, CommandFailed, DebianError, TimeoutError.
    """
    built = build(cache)
    state.mkdir(parents=True, exist_ok=True)
    if any(state.iterdir()):
        msg = f"{state} is not empty: `down` removes what another cluster has left there"
        raise BuildError(msg)
    lab = Lab(state.resolve())
    cluster = Cluster(lab, names)
    began = time.monotonic()

    def tell(what: str) -> None:
        sys.stderr.write(f"cluster: {what}, {time.monotonic() - began:.0f} s\n")

    _write_access(lab)
    lab.create(built)
    for name in names:
        _prepare(lab, name)
        lab.boot(name)
    for node in cluster.nodes.values():
        wait(node.answers, BOOT_SECONDS, f"boot {node.name}")
    tell("nodes have started")
    _init(cluster, init(cluster))
    tell("the first control plane is there")
    _join(cluster)
    tell("all have joined")
    cluster.wait_until_whole()
    tell("all are Ready")
    return cluster


def down(state: Path) -> None:
    """Stop a cluster and remove its files, however it was left; raises LabError."""
    Lab(state.resolve()).destroy()
    for name in MADE:
        path = state / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if state.is_dir() and not any(state.iterdir()):
        state.rmdir()


@contextmanager
def running(
    cache: Path, state: Path, names: tuple[str, ...] = NODES, init: Init = _plain
) -> Iterator[Cluster]:
    """Have a cluster for a while, as ``up`` makes it."""
    try:
        yield up(cache, state, names, init)
    finally:
        down(state)


def _write_access(lab: Lab) -> None:
    state = lab.state
    _make_key(state / "id_ed25519")
    hosts = "".join(f"Host {name}\n  HostName {ADDRESSES[name]}\n" for name in NODES)
    (state / "ssh_config").write_text(hosts + SSH_CONFIG.format(state=state))
    (state / "known_hosts").touch()
    lines = [
        f"{name} ansible_host={ADDRESSES[name]} ansible_user=root "
        f"ansible_ssh_private_key_file={state}/id_ed25519\n"
        for name in NODES
    ]
    groups = ("[control_planes]\n", *lines[:-1], "\n[workers]\n", lines[-1])
    (state / "inventory.ini").write_text("".join(groups))


def _make_key(path: Path) -> str:
    run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path))
    return path.with_name(f"{path.name}.pub").read_text()


def _prepare(lab: Lab, name: str) -> None:
    """Write what a node has of its own."""
    upper = lab.state / name / "upper"
    (upper / "etc/ssh").mkdir(parents=True)
    public = _make_key(upper / "etc/ssh/ssh_host_ed25519_key")
    with (lab.state / "known_hosts").open("a") as known_hosts:
        known_hosts.write(f"{name},{ADDRESSES[name]} {public}")
    (upper / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (upper / "etc/hostname").write_text(f"{name}\n")
    (upper / "root/.ssh").mkdir(parents=True, mode=0o700)
    (upper / "root").chmod(0o700)
    shutil.copy2(lab.state / "id_ed25519.pub", upper / "root/.ssh/authorized_keys")


def _init(cluster: Cluster, configuration: str) -> None:
    first = cluster.nodes["n1"]
    phases = "--upload-certs --skip-phases=addon/coredns,addon/kube-proxy"
    command = f"cat >/root/init.yaml && kubeadm init --config /root/init.yaml {IGNORED} {phases}"
    first.ssh(command, stdin=configuration)
    admin = cluster.lab.state / "admin.conf"
    admin.touch(mode=0o600)
    admin.write_text(first.ssh("cat /etc/kubernetes/admin.conf"))


def _join(cluster: Cluster) -> None:
    nodes = cluster.nodes
    trust = f"--token {TOKEN} --discovery-token-unsafe-skip-ca-verification"
    server = cluster.kubectl("config", "view")["clusters"][0]["cluster"]["server"]
    join = f"kubeadm join {server.removeprefix('https://')} {trust} {IGNORED}"
    planes = [node.name for node in cluster.control_planes]
    with ThreadPoolExecutor(1) as pool:
        workers = [pool.submit(nodes[name].ssh, join) for name in nodes if name not in planes]
        for name in planes[1:]:  # one after the other, for each becomes a member of etcd
            plane = f"--control-plane --certificate-key {CERTIFICATE_KEY}"
            nodes[name].ssh(f"{join} {plane} --apiserver-advertise-address {ADDRESSES[name]}")
        for worker in workers:
            worker.result()
