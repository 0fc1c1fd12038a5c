"""``kbuild pki`` and the real etcd and Kubernetes v1.20.2, with the flags that kbuild writes.

The programs run in a network of their own, without container engine. A kubelet needs one, and ends
soon without: until then it renews its certificate. For the rest the test speaks to the API server
with the kubelet's kubeconfig, and answers in its place.
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
from datetime import timedelta
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
        "--container-runtime=remote",
        "--container-runtime-endpoint=unix://{data}/none.sock",
        "--fail-swap-on=false",
        "--cgroups-per-qos=false",
        "--enforce-node-allocatable=",
    ),
}


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
            if name == "kubelet":
                continue
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
        ' && mount --bind "$0" /etc/hosts && echo ready && exec sleep infinity'
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

    def restart_api_server(self) -> None:
        self.machine.stop("kube-apiserver")
        self.start("kube-apiserver")
        self.machine.wait(self.is_ready, "kube-apiserver")

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


def test_a_cluster_of_kbuild_pki_lives_through_renewal_a_new_address_and_a_longer_ca(
    node: Node,
) -> None:
    the_administrator_may_do_everything(node)
    a_kubelet_is_its_node_and_no_other(node)
    the_api_server_reaches_the_kubelet(node)
    kube_proxy_is_known(node)
    only_the_front_proxy_names_other_users(node)
    the_others_have_their_leases_and_show_metrics_to_the_administrator(node)
    a_kubelet_renews_its_certificate_for_as_long_as_was_asked(node)
    before = node.machine.folder / "before.conf"
    shutil.copy2(node.admin, before)

    kbuild("pki", "renew", "--new-keys", "--dir", node.plan)
    after_a_change(node, before)

    assert "certificate is valid for" in ask(node, VIP)
    kbuild("pki", "add-host", VIP_NAME, VIP, "--role", "vip", "--dir", node.plan)
    after_a_change(node, before)
    assert ask(node, VIP) == ask(node, VIP_NAME) == "ok"

    text = (node.plan / "pki.toml").read_text()
    (node.plan / "pki.toml").write_text(text.replace("ca-years = 20", "ca-years = 50"))
    kbuild("pki", "extend-ca", "--dir", node.plan)
    after_a_change(node, before)
    node.machine.all_run()


def after_a_change(node: Node, before: Path) -> None:
    """Distribute what is new, restart the API server, and ask with both kubeconfigs."""
    node.copy(node.write_units("--signing-years", 3))
    node.restart_api_server()
    for config in (before, node.admin):
        done = node.kubectl("get", "namespaces", "-o", "name", config=config)
        assert "namespace/kube-system" in done.stdout.split(), done.stderr
    the_api_server_reaches_the_kubelet(node)


def ask(node: Node, address: str) -> str:
    done = node.kubectl("get", "--raw", "/readyz", "--server", f"https://{address}:6443")
    return done.stdout or done.stderr


def the_administrator_may_do_everything(node: Node) -> None:
    done = node.kubectl("get", "namespaces", "-o", "name")
    assert "namespace/kube-system" in done.stdout.split(), done.stderr
    assert node.can(node.admin, "*", "*") == "yes"


def a_kubelet_is_its_node_and_no_other(node: Node) -> None:
    config = node.etc / "kubelet.conf"
    own, other = (
        node.kubectl("create", "-f", "-", config=config, stdin=node_object(name))
        for name in ("n1", "n2")
    )
    assert own.returncode == 0, own.stderr
    assert other.returncode == 1
    assert 'node "n1" is not allowed to modify node "n2"' in other.stderr
    assert node.can(config, "get", "secrets") == "no"


def node_object(name: str) -> str:
    status = {
        "addresses": [{"type": "InternalIP", "address": NODE}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }
    meta = {"name": name}
    return json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": status})


def the_api_server_reaches_the_kubelet(node: Node) -> None:
    """Serve with the kubelet's certificate, and demand one of its client CA, as a kubelet does."""
    told = dict(word[2:].split("=", 1) for word in flags(node.units / KUBELET))
    own = ("-cert", told["tls-cert-file"], "-key", told["tls-private-key-file"])
    trust = ("-CAfile", told["client-ca-file"], "-Verify", "1", "-verify_return_error")
    node.machine.start("openssl", "s_server", "-accept", f"{NODE}:10250", "-www", *own, *trust)
    try:
        node.machine.wait(
            lambda: "s_server" in node.kubectl("get", "--raw", "/api/v1/nodes/n1/proxy/").stdout,
            "the API server reaches the kubelet",
        )
    finally:
        node.machine.stop("openssl")


KUBELET = "nodes/n1/kubelet.service.d/20-kbuild-pki.conf"


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
    for name, port in (("kube-controller-manager", 10257), ("kube-scheduler", 10259)):
        lease = ("-n", "kube-system", "get", "lease", name, "-o", "jsonpath={.spec.holderIdentity}")
        node.machine.wait(lambda: node.kubectl(*lease).stdout != "", name)  # noqa: B023
        address = f"https://127.0.0.1:{port}"
        assert curl(node, f"{address}/healthz", "--insecure") == "200"
        assert curl(node, f"{address}/metrics", "--insecure") == "403"
        own = ("--cert", node.etc / "pki/apiserver-kubelet-client.crt")
        key = ("--key", node.etc / "pki/apiserver-kubelet-client.key")
        assert curl(node, f"{address}/metrics", "--insecure", *own, *key) == "200"


def a_kubelet_renews_its_certificate_for_as_long_as_was_asked(node: Node) -> None:
    """Allow it with the bindings of `kbuild config`, and restart the kubelet as systemd does."""
    folder = node.machine.folder / "config"
    kbuild(
        *("config", "--version", VERSION, "--ca-years", 20, "--leaf-years", 10, "--output", folder)
    )
    done = node.kubectl("apply", "-f", folder / "without-kubeadm/kubelet-client-csr.yaml")
    assert done.returncode == 0, done.stderr
    current = node.machine.folder / "kubelet/pki/kubelet-client-current.pem"

    def is_renewed() -> bool:
        process = node.machine.running.get("kubelet")
        if process is None or process.poll() is not None:
            node.start("kubelet")
        return current.exists() and lifetime(current) == timedelta(days=3 * 365)

    node.machine.wait(is_renewed, "the kubelet renews its certificate")
    node.machine.stop("kubelet")


def lifetime(path: Path) -> timedelta:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc
