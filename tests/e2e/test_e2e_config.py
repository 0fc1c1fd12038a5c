"""What `kbuild config` writes, used by the real v1.20.2 kubeadm, openssl and a shell."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kbuild.base.sandbox import Files
from kbuild.kubeadm.prove.issued import CAS, KUBECONFIGS, LEAVES, read_certificates
from kbuild.kubeadm.prove.runner import Runner, sandbox_runner
from tests.e2e.command import VERSION, YEARS, Kbuild
from tests.e2e.released import ARCH, ARCHIVE_LOCAL, CENTURY, Releases

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

FLAG = "--cluster-signing-duration=876000h"
MANIFEST = "manifests/kube-controller-manager.yaml"
CONFIG = "--config=/etc/kubernetes/kubeadm.yaml"
# The sandbox has no network, so kubeadm cannot find an address of its own.
NODE = """\
---
apiVersion: kubeadm.k8s.io/v1beta2
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 192.0.2.1}
nodeRegistration: {name: n1}
"""


@pytest.fixture(scope="module")
def kubeadm(releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    binary = releases[ARCHIVE_LOCAL].binary
    runner = sandbox_runner(binary, ARCH, tmp_path_factory.mktemp("sandbox"))
    assert runner is not None
    return runner


def files_of(kbuild: Kbuild, *words: str | Path) -> dict[str, str]:
    """Run kbuild config, and return the files that it wrote."""
    folder = kbuild.home / "made"
    done = kbuild("config", "--version", VERSION, *YEARS, "--output", folder, *words)
    assert done.code == 0, done.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def manifest(kubeadm: Runner, configuration: str) -> list[str]:
    """Return the lines of the controller manager's manifest that kubeadm writes."""
    files: Files = {"kubeadm.yaml": (configuration + NODE).encode()}
    phase = ("init", "phase", "control-plane", "controller-manager", CONFIG)
    _, files = kubeadm.run(phase, files)
    return files[MANIFEST].decode().splitlines()


def documents(text: str) -> dict[str, str]:
    """Return the documents of a YAML file by their kinds."""
    parts = [part.removeprefix("\n") for part in text.split("---\n")]
    return {yaml.safe_load(part)["kind"]: part for part in parts if part.strip()}


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_kubeadm_takes_the_file_and_issues_what_was_asked_for(
    kbuild: Kbuild, kubeadm: Runner
) -> None:
    made = files_of(kbuild)["kubeadm.yaml"]
    files: Files = {"kubeadm.yaml": (made + NODE).encode()}
    migrated, _ = kubeadm.run(
        ("config", "migrate", "--old-config=/etc/kubernetes/kubeadm.yaml"), files
    )
    cluster = yaml.safe_load(documents(migrated)["ClusterConfiguration"])
    assert cluster["controllerManager"]["extraArgs"] == {"cluster-signing-duration": "876000h"}
    assert cluster["kubernetesVersion"] == VERSION

    began = datetime.now(UTC)
    _, files = kubeadm.run(("init", "phase", "certs", "all", CONFIG), files)
    _, files = kubeadm.run(("init", "phase", "kubeconfig", "all", CONFIG), files)
    issued = read_certificates(files)
    assert {*CAS, *LEAVES, *KUBECONFIGS} <= issued.keys()
    for certificate in issued.values():
        assert abs(certificate.not_after - CENTURY - began).total_seconds() < 60, certificate
    assert any(line.strip() == f"- {FLAG}" for line in manifest(kubeadm, made))


def test_the_change_of_a_stored_configuration_is_one_line_of_the_manifest(
    kbuild: Kbuild, kubeadm: Runner
) -> None:
    printed, _ = kubeadm.run(
        ("config", "print", "init-defaults", "--component-configs=KubeletConfiguration"), {}
    )
    stored = documents(printed)
    kinds = {"kubeadm": "ClusterConfiguration", "kubelet": "KubeletConfiguration"}
    for name, kind in kinds.items():
        (kbuild.home / name).write_text(stored[kind])
    words = (
        "--kubeadm-config",
        kbuild.home / "kubeadm",
        "--kubelet-config",
        kbuild.home / "kubelet",
    )
    made = files_of(kbuild, "--for", "living", *words)
    before = manifest(kubeadm, stored["ClusterConfiguration"])
    after = manifest(kubeadm, made["kubeadm-config.yaml"])
    assert {*after} - {*before} == {f"    - {FLAG}"}
    assert len(after) == len(before) + 1
    old, new = (
        yaml.safe_load(text)
        for text in (stored["KubeletConfiguration"], made["kubelet-config.yaml"])
    )
    assert new == {**old, "rotateCertificates": True, "serverTLSBootstrap": True}


KUBECTL = """\
#!{python}
import json, pathlib, sys
requests = json.loads(pathlib.Path({state!r}).read_text())
match sys.argv[1:]:
    case ["get", "certificatesigningrequests", "-o", "jsonpath={{.items[*].metadata.name}}"]:
        print(" ".join(requests), end="")
    case ["get", "certificatesigningrequests", name, "-o", path]:
        field = path.removeprefix("jsonpath={{").removesuffix("}}.")
        print(requests[name].get(field, ""), end=".")
    case ["certificate", "approve", name]:
        print("approved", name)
    case other:
        sys.exit("unknown: " + " ".join(other))
"""


@dataclass(frozen=True, slots=True)
class Approver:
    """The script of `kbuild config`, with requests that a kubectl of ours tells of."""

    script: Path
    bin: Path

    def __call__(self, requests: Mapping[str, object], *words: str) -> tuple[int, str]:
        """Run it, and return its exit code and all that it printed."""
        (self.bin / "state.json").write_text(json.dumps(requests))
        done = subprocess.run(
            ("sh", self.script, *words),
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", "LC_ALL": "C"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def approve(tmp_path_factory: pytest.TempPathFactory) -> Approver:
    folder = tmp_path_factory.mktemp("approve")
    script = folder / "approve.sh"
    made = files_of(Kbuild(folder, folder / "cache"))
    script.write_text(made["approve-kubelet-serving.sh"])
    kubectl = folder / "kubectl"
    kubectl.write_text(KUBECTL.format(python=sys.executable, state=str(folder / "state.json")))
    kubectl.chmod(0o755)
    return Approver(script, folder)


def pending(
    names: tuple[str, ...], *, node: str = "n1", group: str = "system:nodes", **more: object
) -> dict[str, object]:
    """Return a kubelet's request for a serving certificate, as kubectl shows its fields."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, group),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}"),
        ]
    )
    alternative = [general(name) for name in names]
    made = (
        x509.CertificateSigningRequestBuilder(subject)
        .add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    return {
        ".spec.username": "system:node:n1",
        ".spec.signerName": "kubernetes.io/kubelet-serving",
        ".spec.usages[*]": "digital signature key encipherment server auth",
        ".spec.request": base64.b64encode(made).decode(),
        **more,
    }


def general(name: str) -> x509.GeneralName:
    if name.startswith("spiffe://"):
        return x509.UniformResourceIdentifier(name)
    if name[0].isdigit():
        return x509.IPAddress(ip_address(name))
    return x509.DNSName(name)


GIVEN = ("n1", "192.0.2.1")


@pytest.mark.parametrize("names", [("n1", "192.0.2.1"), ("n1",), ("192.0.2.1",)])
def test_a_request_for_what_a_node_has_is_approved(
    approve: Approver, names: tuple[str, ...]
) -> None:
    assert approve({"csr-1": pending(names)}, *GIVEN) == (0, "approved csr-1\n")


def test_before_1_18_a_request_has_no_signer(approve: Approver) -> None:
    request = pending(("n1",))
    del request[".spec.signerName"]
    assert approve({"csr-1": request}, *GIVEN) == (0, "approved csr-1\n")


@pytest.mark.parametrize(
    "names",
    [
        ("n1", "192.0.2.2"),
        ("n1", "kubernetes.default.svc"),
        ("n1", "spiffe://n1"),
        ("n1\n    evil", "evil.example"),
        ("n1\n    Signature Algorithm: x", "evil.example"),
        ("n1\n  X509v3 Subject Alternative Name: \n DNS:n1", "evil.example"),
        ("*",),
    ],
    ids=range(7),
)
def test_a_request_for_anything_else_is_refused(approve: Approver, names: tuple[str, ...]) -> None:
    code, said = approve({"csr-1": pending(names)}, *GIVEN)
    assert code == 1
    assert said.startswith("csr-1 is not approved: ")


@pytest.mark.parametrize(
    "more", [{"node": "n2"}, {"group": "system:masters"}], ids=["another node", "another group"]
)
def test_a_request_with_another_subject_is_refused(approve: Approver, more: dict[str, str]) -> None:
    code, said = approve(
        {
            "csr-1": pending(
                ("n1",), node=more.get("node", "n1"), group=more.get("group", "system:nodes")
            )
        },
        *GIVEN,
    )
    assert code == 1
    assert "csr-1 is not approved: its subject=" in said


@pytest.mark.parametrize(
    "field",
    [
        {".spec.username": "system:node:n2"},
        {".spec.username": "system:node:n1\n"},
        {".spec.signerName": "kubernetes.io/kube-apiserver-client"},
        {".spec.usages[*]": "digital signature client auth"},
        {".status.conditions[*].type": "Denied"},
    ],
    ids=range(5),
)
def test_other_requests_are_left_alone(approve: Approver, field: dict[str, str]) -> None:
    code, said = approve({"csr-1": {**pending(("n1",)), **field}}, *GIVEN)
    assert code == 1
    assert said.startswith("there is no pending request of system:node:n1")


def test_a_refused_request_keeps_no_other_from_being_approved(approve: Approver) -> None:
    code, said = approve({"old": pending(("192.0.2.9",)), "new": pending(("n1",))}, *GIVEN)
    assert code == 1
    assert (
        said == "old is not approved: it asks for IP:192.0.2.9, which is not given\napproved new\n"
    )


def test_the_addresses_have_to_be_given(approve: Approver) -> None:
    assert approve({"csr-1": pending(("n1",))}, "n1")[0] == 2
