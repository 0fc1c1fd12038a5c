"""The commands that sign CAs again do what the page promises, on a PKI that is thrown away."""

import base64
import re
import ssl
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509

from kbuild.advise.api import Advice, Cluster, advise, cluster_of
from kbuild.kubeadm.model import Lifetimes
from tests.unit.advise.test_cluster import LEAF, LONG, NOW, inventory

YEARS, SERIAL = 100, 7
KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
LEAVES = {
    "ca": ("apiserver",),
    "front-proxy-ca": ("front-proxy-client",),
    "etcd/ca": ("etcd/server",),
}


@pytest.fixture
def etc_kubernetes(tmp_path: Path) -> Path:
    """Make the CAs of a cluster as kubeadm does, a leaf of each, and a kubeconfig."""
    folder = tmp_path / "kubernetes"
    (folder / "pki/etcd").mkdir(parents=True)
    for ca, leaves in LEAVES.items():
        new_ca = f"req -x509 {KEY} -set_serial {SERIAL} -days 3650 -subj /CN=kubernetes"
        openssl(folder / "pki", f"{new_ca} -keyout {ca}.key -out {ca}.crt")
        for leaf in leaves:
            sign(folder / "pki", ca, leaf)
    write_kubeconfig(folder / "admin.conf", folder / "pki/ca.crt")
    return folder


def openssl(folder: Path, words: str) -> str:
    command = ["openssl", *words.split()]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def sign(pki: Path, ca: str, leaf: str) -> None:
    key = f"req -new {KEY} -subj /CN=leaf"
    openssl(pki, f"{key} -keyout {leaf}.key -out {leaf}.csr")
    by = f"-CA {ca}.crt -CAkey {ca}.key -set_serial 5 -days 365"
    openssl(pki, f"x509 -req -in {leaf}.csr {by} -out {leaf}.crt")


def write_kubeconfig(path: Path, ca: Path) -> None:
    data = base64.b64encode(ca.read_bytes()).decode()
    path.write_text(f"clusters:\n- cluster:\n    certificate-authority-data: {data}\n  name: a\n")


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def run_step(name: str, folder: Path) -> str:
    """Run a step of the plan, in a folder that stands for /etc/kubernetes."""
    advice = advise("v1.20.2", "living", Lifetimes(ca_years=YEARS, leaf_years=YEARS))
    [step] = [step for step in advice.steps if step.name == name]
    script = "\n".join(["set -e", *step.commands])
    for real, here in (("/etc/kubernetes", folder), ("/root/", f"{folder.parent}/")):
        script = script.replace(real, str(here))
    done = subprocess.run(
        ["bash"], input=script, cwd=folder.parent, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_cas_are_signed_again_and_put_in_place(etc_kubernetes: Path) -> None:
    pki = etc_kubernetes / "pki"
    before = {ca: read(pki / f"{ca}.crt") for ca in LEAVES}

    verified = run_step("sign-cas", etc_kubernetes).splitlines()
    assert len(verified) == len(LEAVES)
    assert all(line.endswith(": OK") for line in verified)
    assert {ca: read(pki / f"{ca}.crt") for ca in LEAVES} == before  # nothing is in place yet

    run_step("spread-cas", etc_kubernetes)
    for ca, old in before.items():
        new = read(pki / f"{ca}.crt")
        assert new.not_valid_after_utc - new.not_valid_before_utc == timedelta(days=365 * YEARS)
        assert new.public_key() == old.public_key()
        assert (new.subject, new.issuer, new.serial_number) == (old.subject, old.issuer, SERIAL)
        assert key_id(new) == key_id(old)
    assert list(pki.rglob("*.new")) == []
    told = (etc_kubernetes / "admin.conf").read_text()
    data = base64.b64encode((pki / "ca.crt").read_bytes()).decode()
    assert f"    certificate-authority-data: {data}\n" in told


def key_id(certificate: x509.Certificate) -> bytes:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


@pytest.mark.slow
def test_old_and_new_certificates_are_valid_under_both_cas(etc_kubernetes: Path) -> None:
    pki = etc_kubernetes / "pki"
    old = (pki / "ca.crt").read_bytes()
    run_step("sign-cas", etc_kubernetes)
    run_step("spread-cas", etc_kubernetes)
    sign(pki, "ca", "new")
    (pki / "old-ca.crt").write_bytes(old)
    for ca in ("old-ca", "ca"):
        for leaf in ("apiserver", "new"):
            assert openssl(pki, f"verify -CAfile {ca}.crt {leaf}.crt") == f"{leaf}.crt: OK\n"


@pytest.fixture
def machine(etc_kubernetes: Path) -> Path:
    """Complete a control plane, with programs that only tell how they were called."""
    root = etc_kubernetes.parent
    for name in ("controller-manager", "scheduler", "kubelet"):
        write_kubeconfig(etc_kubernetes / f"{name}.conf", etc_kubernetes / "pki/ca.crt")
        with (etc_kubernetes / f"{name}.conf").open("a") as file:
            file.write("    server: https://lb:6443\n")
    for path in (
        "root",
        "usr/bin",
        "bin",
        "var/lib/kubelet/pki",
        "var/lib/etcd",
        "kubernetes/manifests",
    ):
        (root / path).mkdir(parents=True)
    for pod in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        (etc_kubernetes / f"manifests/{pod}.yaml").touch()
    (root / "var/lib/kubelet/pki/kubelet-client-current.pem").touch()
    for name in ("kbuild", "kubeadm", "kubectl", "systemctl", "sleep", "sh"):
        program = root / "bin" / name
        program.write_text(f'#!/bin/bash\necho {name} "$@" >>{root}/calls\n')
        program.chmod(0o755)
    program = root / "bin/openssl"
    program.write_text(
        f'#!/bin/bash\necho openssl "$@" >>{root}/calls\nif [[ $1 = s_client ]]; then\n'
        f"  echo ok; cat {etc_kubernetes}/pki/apiserver.crt\n"
        'else exec /usr/bin/openssl "$@"; fi\n'
    )
    program.chmod(0o755)
    (root / "root/kubeadm-linux-amd64").touch()
    with (root / "bin/kubeadm").open("a") as file:
        # As `kubeadm init phase kubeconfig NAME` does.
        file.write(
            f'[[ "$*" != *"phase kubeconfig"* ]] || echo "    server: https://own:6443"'
            f" >{etc_kubernetes}/$4.conf\n"
        )
    with (root / "bin/kubectl").open("a") as file:
        file.write(
            f'[[ "$*" != *"snapshot save"* ]] || touch {root}/var/lib/etcd/before.db\n'
            '[[ "$*" != *use-context* ]] || echo x >$3\n'
        )
    return root


def run_plan(machine: Path, advice: Advice, names: Collection[str] = ()) -> tuple[str, str]:
    """Run steps in their order in one shell that goes on after errors; return what they print."""
    steps = [step for step in advice.steps if not names or step.name in names]
    typed = [command for step in steps for command in step.commands]
    script = "\n".join([f"cd {machine}/var", *typed, "pwd"])
    for path in ("/etc/kubernetes", "/root", "/var/lib", "/usr/bin"):
        here = machine / path.removeprefix("/").removeprefix("etc/")
        script = re.sub(rf"(?<![\w/]){path}(?![\w-])", str(here), script)
    environment = {"PATH": f"{machine}/bin:/usr/bin:/bin", "HOME": str(machine / "root")}
    done = subprocess.run(
        ["bash"], input=script, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout, done.stderr


def living(cluster: Cluster | None = None) -> Advice:
    return advise("v1.20.2", "living", Lifetimes(ca_years=YEARS, leaf_years=YEARS), cluster)


@pytest.mark.slow
def test_all_steps_run_one_after_the_other_in_one_shell(machine: Path) -> None:
    told, errors = run_plan(machine, living())
    assert "Error" not in errors
    assert "No such file" not in errors
    assert told.endswith(f"{machine}/var\n")  # no step leaves the shell somewhere else
    kubernetes = machine / "kubernetes"
    new = read(kubernetes / "pki/ca.crt")
    assert new.not_valid_after_utc - new.not_valid_before_utc == timedelta(days=365 * YEARS)
    data = base64.b64encode((kubernetes / "pki/ca.crt").read_bytes()).decode()
    for name in ("admin", "kubelet", "scheduler"):
        assert f"authority-data: {data}\n" in (kubernetes / f"{name}.conf").read_text()
    assert len(list((kubernetes / "manifests").iterdir())) == 4
    before = machine / "root/kubernetes-before"
    assert read(before / "pki/ca.crt") != new
    assert (machine / "root/etcd-before.db").exists()
    # A second run does not write over the copy.
    run_plan(machine, living())
    assert read(before / "pki/ca.crt") != new
    assert not (before / "kubernetes").exists()


def test_without_the_archive_nothing_changes(machine: Path) -> None:
    (machine / "kubernetes/pki/ca.crt").unlink()  # so that a line that runs all the same shows
    before = {path: path.read_bytes() for path in machine.rglob("*.c*") if path.is_file()}
    told, errors = run_plan(machine, living(), ["spread-cas"])
    assert "tar: " in errors
    assert told == f"{machine}/var\n"
    assert {path: path.read_bytes() for path in before} == before


def test_the_way_back_from_expired_certificates_runs(machine: Path) -> None:
    cluster = cluster_of(inventory(replace(LEAF, not_after=NOW)), LONG)
    names = ("recover-kubelet", "renew", "restart", "bootstrap", "rejoin")
    told, errors = run_plan(machine, living(cluster), names)
    assert errors == ""
    assert told == f"ok\n{machine}/var\n"
    calls = (machine / "calls").read_text().splitlines()
    file = f"--config {machine}/root/kubeadm.yaml"
    assert calls[:3] == [
        f"kubeadm certs renew all {file}",
        f"kubeadm init phase kubeconfig kubelet {file}",
        "systemctl restart kubelet",
    ]
    assert calls[-2:] == ["systemctl stop kubelet", "systemctl start kubelet"]
    root = machine / "root"
    made = (machine / "kubernetes/bootstrap-kubelet.conf").stat()
    assert made.st_mode & 0o777 == 0o600
    assert (root / "etcd-before").is_dir()
    assert len(list((machine / "kubernetes/manifests").iterdir())) == 4
    # The kubelet keeps talking to the load balancer.
    assert (root / "kubelet.conf.expired").read_text() == "    server: https://lb:6443\n"


def test_the_archive_holds_no_key(etc_kubernetes: Path) -> None:
    run_step("sign-cas", etc_kubernetes)
    archive = str(etc_kubernetes.parent / "cas.tgz")
    done = subprocess.run(["tar", "tzf", archive], check=True, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == [
        "./ca.crt.new",
        "./etcd/ca.crt.new",
        "./front-proxy-ca.crt.new",
    ]


class ApiServer(BaseHTTPRequestHandler):
    """Answers as kube-apiserver does: it is ready when it is asked for the second time."""

    asked: list[str]

    def do_GET(self) -> None:
        """Note the path, and say whether it is ready."""
        self.asked.append(self.path)
        ready = len(self.asked) > 1
        self.send_response(200 if ready else 500)
        self.end_headers()
        self.wfile.write(b"ok" if ready else b"[-]etcd failed: reason withheld\n")

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def api_server(etc_kubernetes: Path) -> Iterator[tuple[int, list[str], list[str | None]]]:
    """Serve at a free port; tell it, what was asked for, and by which names."""
    asked: list[str] = []
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pki = etc_kubernetes / "pki"
    context.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    handler = type("Handler", (ApiServer,), {"asked": asked})
    with HTTPServer(("localhost", 0), handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked, names
        server.shutdown()


def typed(name: str, port: int) -> str:
    """Return what the last command of a step prints, asked of another port."""
    [step] = [step for step in living().steps if step.name == name]
    command = step.commands[-1].replace(":6443", f":{port}")
    done = subprocess.run(
        ["bash", "-c", command], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


def test_the_restart_waits_until_the_api_server_is_ready(
    api_server: tuple[int, list[str], list[str | None]],
) -> None:
    port, asked, _ = api_server
    assert typed("restart", port) == "ok\n"
    assert asked == ["/readyz", "/readyz"]


def test_the_end_of_the_loopback_certificate_is_shown(
    api_server: tuple[int, list[str], list[str | None]],
) -> None:
    port, _, names = api_server
    assert typed("look-again", port).startswith("notAfter=")
    assert names == ["apiserver-loopback-client"]
