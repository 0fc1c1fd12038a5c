"""The commands that sign CAs again do what the page promises, on a PKI that is thrown away."""

import base64
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from kbuild.advise.api import advise
from kbuild.kubeadm.model import Lifetimes

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


def test_the_archive_holds_no_key(etc_kubernetes: Path) -> None:
    run_step("sign-cas", etc_kubernetes)
    archive = str(etc_kubernetes.parent / "cas.tgz")
    done = subprocess.run(["tar", "tzf", archive], check=True, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == [
        "./ca.crt.new",
        "./etcd/ca.crt.new",
        "./front-proxy-ca.crt.new",
    ]
