"""``kbuild pki`` and the real etcd and Kubernetes v1.20.2, with the flags that kbuild writes.

The programs run in a network of their own. The kubelet has a Docker without images: it registers
its node, renews its certificate and answers the API server, and runs no Pods.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.e2e.command import KBUILD, VERSION
from tests.support.cluster.build import build, wait

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.timeout(1800)]

NODE, VIP, VIP_NAME = "192.0.2.11", "192.0.2.100", "api.example.org"
SERVER = f"https://{NODE}:6443"
SECONDS = 300  # a busy machine needs ten times as long as another
PKI_TOML = f"""\
layout = "kubeadm"
output = "pki"
cas = 3
ca-years = 20
leaf-years = 10
key = "ecdsa-p256"
service-network = "10.96.0.0/12"

[nodes.n1]
addresses = ["{NODE}"]
roles = ["control-plane", "etcd"]

[nodes.n2]
addresses = ["192.0.2.12"]
"""
# They give up if the API server is gone for longer, and its restart may take a while.
PATIENT = ("--leader-elect-lease-duration=300s", "--leader-elect-renew-deadline=290s")
# What components need beside certificates.
OTHER = {
    "etcd": (
        "--name=n1",
        f"--listen-client-urls=https://{NODE}:2379",
        f"--advertise-client-urls=https://{NODE}:2379",
        f"--listen-peer-urls=https://{NODE}:2380",
        f"--initial-advertise-peer-urls=https://{NODE}:2380",
        f"--initial-cluster=n1=https://{NODE}:2380",
        "--data-dir={data}/etcd",
        "--unsafe-no-fsync",
    ),
    "kube-apiserver": (
        f"--etcd-servers=https://{NODE}:2379",
        f"--advertise-address={NODE}",
        "--service-cluster-ip-range=10.96.0.0/12",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--kubelet-preferred-address-types=InternalIP",
        "--cert-dir={data}/apiserver",
    ),
    "kube-controller-manager": (
        "--use-service-account-credentials=true",
        "--flex-volume-plugin-dir={data}/flex",
        *PATIENT,
    ),
    "kube-scheduler": PATIENT,
    "kubelet": (
        "--hostname-override=n1",
        "--root-dir={data}/kubelet",
        "--cert-dir={data}/kubelet/pki",
        "--volume-plugin-dir={data}/flex",
        "--docker-endpoint=unix://{data}/docker.sock",
        "--container-runtime-endpoint=unix://{data}/dockershim.sock",
        "--experimental-dockershim-root-directory={data}/dockershim",
        f"--node-ip={NODE}",
        "--cgroup-driver=cgroupfs",
        "--fail-swap-on=false",
        "--cgroups-per-qos=false",
        "--enforce-node-allocatable=",
    ),
}


PORTS = {"kube-controller-manager": 10257, "kube-scheduler": 10259}
SYSCTLS = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)
DOCKER = (
    *("--host=unix://{data}/docker.sock", "--data-root={data}/docker", "--exec-root={data}/exec"),
    *("--pidfile={data}/docker.pid", "--storage-driver=vfs", "--bridge=none"),
    *("--iptables=false", "--ip6tables=false", "--ip-forward=false"),
)


@dataclass
class Machine:
    """A network, and the programs that run in it."""

    programs: Mapping[str, Path]
    folder: Path
    inside: tuple[str, ...]
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, *words: str) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self.running[name] = subprocess.Popen(
                (*self.inside, self.programs.get(name, name), *words),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=self.environment,
            )

    def component(self, name: str, units: Path) -> None:
        """Start a component with the flags of its drop-in, and those that are not ours."""
        other = (word.format(data=self.folder) for word in OTHER[name])
        folder = "nodes/n1/" if name == "kubelet" else ""
        drop_in = units / f"{folder}{name}.service.d/20-kbuild-pki.conf"
        self.start(name, *other, *flags(drop_in))

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def run(self, *words: object, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        program, *rest = map(str, words)
        return subprocess.run(
            (*self.inside, self.programs.get(program, program), *rest),
            check=False,
            capture_output=True,
            text=True,
            input=stdin,
            cwd=self.folder,
            env=self.environment,
        )

    def wait(self, ready: Callable[[], bool], what: str) -> None:
        try:
            wait(lambda: self.all_run() and ready(), SECONDS, what)
        except TimeoutError as error:
            logs = {n: (self.folder / f"{n}.log").read_text()[-3000:] for n in self.running}
            msg = f"{error}\n{json.dumps(logs, indent=1)}"
            raise AssertionError(msg) from error

    def all_run(self) -> bool:
        for name, process in self.running.items():
            said = (self.folder / f"{name}.log").read_text()[-3000:]
            assert process.poll() is None, f"{name} has ended: {said}"
        return True

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "ETCDCTL_API": "3"}


@pytest.fixture(scope="module")
def programs(downloads: Path) -> dict[str, Path]:
    debian = build(downloads).root / "usr/bin"
    own = downloads / f"cluster/kubernetes-{VERSION}"
    names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
    return {name: debian / name for name in ("etcd", "etcdctl", "kubectl")} | {
        name: own / name for name in names
    }


@pytest.fixture
def machine(programs: dict[str, Path], tmp_path: Path) -> Iterator[Machine]:
    """Give an empty machine; in the end nothing of it runs."""
    script = (
        f"ip link set lo up && ip addr add {NODE}/32 dev lo && ip addr add {VIP}/32 dev lo"
        ' && mount --bind "$0" /etc/hosts && mount -t tmpfs tmpfs /run'
        " && mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /var/log && mkdir /run/own"
        # A kubelet sets these, and they belong to the whole machine.
        f" && for each in {' '.join(SYSCTLS)}; do cp /proc/sys/$each /run/own/$(basename $each)"
        " && mount --bind /run/own/$(basename $each) /proc/sys/$each || exit 1; done"
        " && echo ready && exec sleep infinity"
    )
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{VIP} {VIP_NAME}\n")
    command = ("unshare", "--net", "--mount", "sh", "-c", script, str(hosts))
    with (
        tempfile.TemporaryDirectory(prefix="kbuild-") as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as network,
        ExitStack() as stack,
    ):
        stack.callback(network.kill)
        assert network.stdout is not None
        assert network.stdout.readline() == "ready\n"
        inside = ("nsenter", f"--target={network.pid}", "--net", "--mount")
        made = Machine(programs, Path(folder), inside)
        try:
            yield made
        finally:
            if "dockerd" in made.running:
                made.stop("dockerd")  # which stops its containerd
            for process in made.running.values():
                process.kill()
                process.wait()


def flags(drop_in: Path) -> list[str]:
    """Return what systemd would put in place of $KUBE_PKI_ARGS."""
    found = re.search(r'^Environment="KUBE_PKI_ARGS=([^"]*)"$', drop_in.read_text(), re.MULTILINE)
    assert found
    return found[1].replace("\\\n", " ").split()


def kbuild(*words: object) -> Any:
    done = subprocess.run(
        (KBUILD, *map(str, words), "--json"), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Node:
    """The directories of a node: what is issued, the drop-ins, and the copies of the files."""

    machine: Machine
    plan: Path
    units: Path
    etc: Path

    def write_units(self, *words: object) -> Any:
        common = ("--dir", self.plan, "--version", VERSION, "--on-node", self.etc)
        return kbuild("pki", "components", *common, "--output", self.units, "--force", *words)

    def copy(self, made: Any) -> None:
        """Copy to the node what the drop-ins of its components list, and nothing else."""
        for each in made["components"]:
            if each["node"] in ("", "n1"):
                for file in each["files"]:
                    Path(file["path"]).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file["source"], file["path"])

    @property
    def admin(self) -> Path:
        return self.plan / "pki/admin.conf"

    def start(self, *names: str) -> None:
        for name in names:
            self.machine.component(name, self.units)

    def restart(self, name: str) -> None:
        """Restart a component, and wait until it works again."""
        began = datetime.now(UTC)
        self.machine.stop(name)
        if name in PORTS:  # else the new process waits until the lease of the old one has expired
            done = self.kubectl("-n", "kube-system", "delete", "lease", name)
            assert done.returncode == 0, done.stderr
        self.start(name)
        match name:
            case "kubelet":
                self.machine.wait(lambda: self.has_lease("kube-node-lease", "n1", began), name)
            case "etcd" | "kube-apiserver":
                self.machine.wait(self.is_ready, name)
            case _:
                self.machine.wait(lambda: self.has_lease("kube-system", name, began), name)

    def has_lease(self, namespace: str, name: str, since: datetime) -> bool:
        """Tell whether a component has renewed its lease since then."""
        words = ("-n", namespace, "get", "lease", name, "-o", "jsonpath={.spec.renewTime}")
        when = self.kubectl(*words).stdout
        return bool(when) and datetime.fromisoformat(when) > since

    def put(self, path: Path) -> None:
        """Copy a file that was issued to its place on the node, if it is for this node."""
        parts = path.relative_to(self.plan / "pki").parts
        if parts[0] == "nodes" and parts[1] != "n1":
            return
        place = self.etc.joinpath(*(parts[2:] if parts[0] == "nodes" else parts))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)

    def is_ready(self) -> bool:
        done = self.kubectl("get", "--raw", "/readyz")
        return done.stdout == "ok"

    def kubectl(
        self, *words: object, config: Path | None = None, stdin: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        return self.machine.run(
            "kubectl", "--kubeconfig", config or self.admin, *words, stdin=stdin
        )

    def can(self, config: Path, *words: str) -> str:
        """Return yes or no; kubectl may give a reason after it."""
        return self.kubectl("auth", "can-i", *words, config=config).stdout.split()[0]


@pytest.fixture
def node(machine: Machine) -> Node:
    plan = machine.folder / "plan"
    plan.mkdir()
    (plan / "pki.toml").write_text(PKI_TOML)
    kbuild("pki", "issue", "--dir", plan)
    node = Node(machine, plan, machine.folder / "units", machine.folder / "etc")
    node.copy(node.write_units("--signing-years", 3))
    node.start("etcd", "kube-apiserver")
    machine.wait(node.is_ready, "kube-apiserver")
    node.start("kube-controller-manager", "kube-scheduler")
    return node


SIGNING = ["signing", "key encipherment"]
CONFIG = {
    "signing": {
        "default": {"expiry": "43800h"},
        "profiles": {
            "server": {"expiry": "43800h", "usages": [*SIGNING, "server auth", "client auth"]},
            "client": {"expiry": "43800h", "usages": [*SIGNING, "client auth"]},
        },
    }
}
SERVICE = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
# The names of a recipe on the web: a CN, an organization, hosts, and the profile.
REQUESTS: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "server": ("etcd", "k8s", (NODE, "127.0.0.1"), "server"),
    "client": ("etcd-client", "k8s", (), "client"),
    "kubernetes": ("kubernetes", "k8s", (*SERVICE, f"{SERVICE[-1]}.cluster.local", NODE), "server"),
    "kube-proxy": ("system:kube-proxy", "k8s", (), "client"),
    "aggregator-proxy": ("aggregator", "k8s", (), "client"),
    "service-account": ("service-accounts", "k8s", (), "client"),
    "admin": ("admin", "system:masters", (), "client"),
}
GIVEN = {
    "etcd-server": "server",
    "etcd-peer": "server",
    "apiserver-etcd-client": "client",
    "apiserver-kubelet-client": "admin",
}


def test_the_certificates_of_a_recipe_of_cfssl_run_an_api_server(machine: Machine) -> None:
    plan = machine.folder / "plan"
    plan.mkdir()
    (plan / "ca-config.json").write_text(json.dumps(CONFIG))
    key = {"algo": "ecdsa", "size": 256}
    (plan / "ca-csr.json").write_text(json.dumps({"CN": "kubernetes", "key": key}))
    for name, (cn, group, hosts, _) in REQUESTS.items():
        request = {"CN": cn, "names": [{"O": group}], "hosts": hosts, "key": key}
        (plan / f"{name}-csr.json").write_text(json.dumps(request))
    profiles = [f"--profile={name}={request[-1]}" for name, request in REQUESTS.items()]
    kbuild("pki", "issue", "--dir", plan, *profiles)
    node = Node(machine, plan, machine.folder / "units", machine.folder / "etc")
    node.copy(node.write_units(*profiles, *(f"--use={use}={name}" for use, name in GIVEN.items())))
    node.start("etcd", "kube-apiserver")
    node.admin.parent.mkdir()
    node.admin.write_text(login(plan))
    machine.wait(node.is_ready, "kube-apiserver")
    assert node.can(node.admin, "*", "*") == "yes"
    # One CA has signed both, and only the front proxy may name another user.
    headers = ("-H", "X-Remote-User: somebody", "-H", "X-Remote-Group: system:masters")
    for name, code in (("aggregator-proxy", "200"), ("kube-proxy", "403")):
        own = ("--cert", plan / f"{name}.pem", "--key", plan / f"{name}-key.pem")
        trust = ("--cacert", plan / "ca.pem")
        assert curl(node, f"{SERVER}/api/v1/secrets", *trust, *own, *headers) == code


def login(plan: Path) -> str:
    """Return the kubeconfig that kbuild does not issue from the files of cfssl."""
    cluster = {"server": SERVER, "certificate-authority": f"{plan}/ca.pem"}
    user = {"client-certificate": f"{plan}/admin.pem", "client-key": f"{plan}/admin-key.pem"}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "k", "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
            "contexts": [{"name": "k", "context": {"cluster": "k", "user": "admin"}}],
            "current-context": "k",
        }
    )


def test_a_cluster_of_kbuild_pki_lives_through_all_that_kbuild_pki_does(node: Node) -> None:
    the_administrator_may_do_everything(node)
    a_kubelet_registers_its_node_and_no_other(node)
    a_kubelet_renews_its_certificate_for_as_long_as_was_asked(node)
    the_api_server_reaches_the_kubelet(node)
    kube_proxy_is_known(node)
    only_the_front_proxy_names_other_users(node)
    the_others_have_their_leases_and_show_metrics_to_the_administrator(node)
    before = node.machine.folder / "before.conf"
    shutil.copy2(node.admin, before)

    kbuild("pki", "renew", "--new-keys", "--dir", node.plan)
    after_a_change(node, before)

    assert "certificate is valid for" in ask(node, VIP)
    made = kbuild("pki", "add-host", VIP_NAME, VIP, "--role", "vip", "--dir", node.plan)
    assert made["distribute"][0]["component"] == "kube-apiserver"
    after_a_change(node, before)
    assert ask(node, VIP) == ask(node, VIP_NAME) == "ok"

    text = (node.plan / "pki.toml").read_text()
    (node.plan / "pki.toml").write_text(text.replace("ca-years = 20", "ca-years = 50"))
    kbuild("pki", "extend-ca", "--dir", node.plan)
    after_a_change(node, before)
    its_cas_are_replaced(node)
    node.machine.all_run()


def after_a_change(node: Node, before: Path) -> None:
    """Distribute what is new, restart the API server, and ask with both kubeconfigs."""
    node.copy(node.write_units("--signing-years", 3))
    node.restart("kube-apiserver")
    both_administrators_are_answered(node, before)
    the_api_server_reaches_the_kubelet(node)


def both_administrators_are_answered(node: Node, before: Path) -> None:
    for config in (before, node.admin):
        done = node.kubectl("get", "namespaces", "-o", "name", config=config)
        assert "namespace/kube-system" in done.stdout.split(), done.stderr


def its_cas_are_replaced(node: Node) -> None:
    """Do after each step what kbuild says, and nothing else; administrators are always answered."""
    first = Path(shutil.copytree(node.etc, node.machine.folder / "first"))
    current = node.machine.folder / "kubelet/pki/kubelet-client-current.pem"
    for step in ("begin", "leaves", "end"):
        before = node.machine.folder / f"before-{step}.conf"
        shutil.copy2(node.admin, before)
        made = kbuild("pki", "rotate-ca", "--step", step, "--dir", node.plan)
        node.write_units("--signing-years", 3)
        restarted = []
        for delivery in made["distribute"]:
            name = delivery["component"]
            for path in (*delivery["trusted"], *delivery["files"]):
                node.put(Path(path))
            if name == "kubelet" and step == "leaves":  # let it get a certificate of the new CA
                shutil.rmtree(current.parent)
            if name in node.machine.running:
                node.restart(name)
                restarted.append(name)
                both_administrators_are_answered(node, before)
        assert restarted == ["etcd", "kube-apiserver", *PORTS, "kubelet"]
        the_api_server_reaches_the_kubelet(node)
        node.machine.wait(lambda: pods_get(node) == (node.etc / "pki/ca.crt").read_text(), "the CA")
        if step == "leaves":
            trust = ("-CAfile", node.plan / "pki/pki/ca-signing.crt")
            node.machine.wait(current.exists, "the kubelet has a certificate")
            assert node.machine.run("openssl", "verify", *trust, current).returncode == 0
    trust = ("--cacert", node.etc / "pki/ca.crt")
    for etc, code in ((first, "401"), (node.etc, "200")):
        client = etc / "pki/apiserver-kubelet-client"
        own = ("--cert", f"{client}.crt", "--key", f"{client}.key")
        assert curl(node, f"{SERVER}/api/v1/nodes", *trust, *own) == code


def pods_get(node: Node) -> str:
    """Return the CA that the controller manager gives to Pods."""
    words = ("get", "configmap", "kube-root-ca.crt", "-o", r"jsonpath={.data.ca\.crt}")
    return node.kubectl(*words).stdout


def ask(node: Node, address: str) -> str:
    done = node.kubectl("get", "--raw", "/readyz", "--server", f"https://{address}:6443")
    return done.stdout or done.stderr


def the_administrator_may_do_everything(node: Node) -> None:
    done = node.kubectl("get", "namespaces", "-o", "name")
    assert "namespace/kube-system" in done.stdout.split(), done.stderr
    assert node.can(node.admin, "*", "*") == "yes"


def a_kubelet_registers_its_node_and_no_other(node: Node) -> None:
    """Start it, with the bindings of `kbuild config` for the renewal of its certificate."""
    folder = node.machine.folder / "config"
    kbuild(
        *("config", "--version", VERSION, "--ca-years", 20, "--leaf-years", 10, "--output", folder)
    )
    done = node.kubectl("apply", "-f", folder / "without-kubeadm/kubelet-client-csr.yaml")
    assert done.returncode == 0, done.stderr
    node.machine.start("dockerd", *(word.format(data=node.machine.folder) for word in DOCKER))
    node.machine.wait((node.machine.folder / "docker.sock").exists, "dockerd")
    node.start("kubelet")
    node.machine.wait(lambda: is_node_ready(node), "the kubelet registers its node")
    config = node.etc / "kubelet.conf"
    meta = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}}
    done = node.kubectl("create", "-f", "-", config=config, stdin=json.dumps(meta))
    assert done.returncode == 1
    assert 'node "n1" is not allowed to modify node "n2"' in done.stderr
    assert node.can(config, "get", "secrets") == "no"


def is_node_ready(node: Node) -> bool:
    ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    return node.kubectl("get", "node", "n1", "-o", ready).stdout == "True"


def the_api_server_reaches_the_kubelet(node: Node) -> None:
    """It verifies the kubelet's certificate, and the kubelet demands one of its clients."""
    done = node.kubectl("get", "--raw", "/api/v1/nodes/n1/proxy/healthz")
    assert done.stdout == "ok", done.stderr
    trust = ("--cacert", node.etc / "pki/ca.crt")
    assert curl(node, f"https://{NODE}:10250/healthz", *trust) == "401"


def kube_proxy_is_known(node: Node) -> None:
    config = node.etc / "kube-proxy.conf"
    assert node.can(config, "watch", "endpointslices.discovery.k8s.io") == "yes"
    assert node.can(config, "get", "secrets") == "no"


def only_the_front_proxy_names_other_users(node: Node) -> None:
    headers = ("-H", "X-Remote-User: somebody", "-H", "X-Remote-Group: system:masters")
    for name, code in (("front-proxy-client", "200"), ("apiserver-etcd-client", "401")):
        own = ("--cert", node.etc / f"pki/{name}.crt", "--key", node.etc / f"pki/{name}.key")
        trust = ("--cacert", node.etc / "pki/ca.crt")
        assert curl(node, f"{SERVER}/api/v1/secrets", *trust, *own, *headers) == code


def curl(node: Node, address: str, *words: object) -> str:
    common = ("--silent", "--output", "/dev/null")
    return node.machine.run("curl", *common, "--write-out", "%{http_code}", *words, address).stdout


def the_others_have_their_leases_and_show_metrics_to_the_administrator(node: Node) -> None:
    for name, port in PORTS.items():
        lease = ("-n", "kube-system", "get", "lease", name, "-o", "jsonpath={.spec.holderIdentity}")
        node.machine.wait(lambda: node.kubectl(*lease).stdout != "", name)  # noqa: B023
        address = f"https://127.0.0.1:{port}"
        assert curl(node, f"{address}/healthz", "--insecure") == "200"
        assert curl(node, f"{address}/metrics", "--insecure") == "403"
        own = ("--cert", node.etc / "pki/apiserver-kubelet-client.crt")
        key = ("--key", node.etc / "pki/apiserver-kubelet-client.key")
        assert curl(node, f"{address}/metrics", "--insecure", *own, *key) == "200"


def a_kubelet_renews_its_certificate_for_as_long_as_was_asked(node: Node) -> None:
    current = node.machine.folder / "kubelet/pki/kubelet-client-current.pem"
    node.machine.wait(
        lambda: current.exists() and lifetime(current) == timedelta(days=3 * 365),
        "the kubelet renews its certificate",
    )


def lifetime(path: Path) -> timedelta:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc
