"""Upstream's signatures, of an instance of sigstore's services on loopback."""

import base64
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from sigstore.models import ClientTrustConfig

from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import Proof, Published, Tag
from kbuild.kubeadm.prove import published as module
from kbuild.kubeadm.prove.errors import PublisherFailed
from kbuild.kubeadm.prove.published import find_published
from kbuild.kubeadm.prove.signature import IDENTITY, ISSUER
from kbuild.release.documents import proof_document
from tests.support.http import served
from tests.support.recorder import Recorder
from tests.support.releases import make_request
from tests.support.sigstore_instance import Instance

KUBEADM = b"a kubeadm"
UPSTREAM = x509.RFC822Name(IDENTITY)


@pytest.fixture(scope="module")
def instance() -> Instance:
    return Instance()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Give the list of the binaries that were run."""
    made: list[Path] = []
    monkeypatch.setattr(module, "read_version", lambda binary, _: made.append(binary))
    return made


@pytest.fixture(autouse=True)
def _trusted(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ClientTrustConfig.from_json(json.dumps(instance.trust_config()))
    monkeypatch.setattr(ClientTrustConfig, "production", lambda *_, **__: config)


class Site:
    """A release site; each file of a release can be written to it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.root, self.address = folder, address

    def write(self, tag: str, **files: bytes) -> None:
        folder = self.root / tag / "bin/linux/amd64"
        folder.mkdir(parents=True)
        (folder / "kubeadm").write_bytes(KUBEADM)
        (folder / "kubeadm.sha256").write_text(hashlib.sha256(KUBEADM).hexdigest())
        for suffix, content in files.items():
            (folder / f"kubeadm.{suffix}").write_bytes(content)

    def find(self, tag: str, workspace: Workspace, recorder: Recorder) -> Published:
        request = make_request(release_site=self.address, stock=True, arch=("amd64",))
        return find_published(Tag(name=tag, commit="f" * 40), request, workspace, recorder)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    with served(tmp_path / "site") as address:
        yield Site(tmp_path / "site", address)


def sign(
    instance: Instance,
    content: bytes = KUBEADM,
    name: x509.GeneralName = UPSTREAM,
    issuer: str = ISSUER,
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
) -> dict[str, bytes]:
    """Sign as cosign does, and return the content of the two files."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    certificate = instance.certify(builder.sign(key, hashes.SHA256()), name, issuer, purpose)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    signature = key.sign(content, ec.ECDSA(hashes.SHA256()))
    return {"sig": base64.b64encode(signature), "cert": base64.b64encode(pem)}


def test_upstreams_signature_is_verified_and_told(
    site: Site, instance: Instance, workspace: Workspace, ran: list[Path]
) -> None:
    site.write("v1.31.2", **sign(instance))
    recorder = Recorder()
    found = site.find("v1.31.2", workspace, recorder)
    assert found.signer == f"{IDENTITY} ({ISSUER})"
    assert len(ran) == 1
    assert any(IDENTITY in line for line in recorder.said)


@pytest.mark.slow
def test_a_binary_that_upstream_did_not_sign_is_refused_before_it_runs(
    site: Site, instance: Instance, workspace: Workspace, ran: list[Path]
) -> None:
    hostile = {
        "v1.31.0": sign(instance, b"another kubeadm"),
        "v1.31.1": sign(instance, name=x509.RFC822Name("somebody@example.org")),
        "v1.31.2": sign(instance, issuer="https://accounts.example.org"),
        "v1.31.3": sign(Instance()),
        "v1.31.4": sign(instance, purpose=ExtendedKeyUsageOID.SERVER_AUTH),
        "v1.31.5": sign(instance) | {"sig": sign(instance)["sig"]},
        "v1.31.6": {"sig": b"", "cert": b""},
        "v1.31.7": {"sig": b"\xff" * 10, "cert": base64.b64encode(b"-----BEGIN nonsense")},
        "v1.31.8": {},
        "v1.31.9": {"sig": sign(instance)["sig"]},
        "v1.26.0": {"cert": sign(instance)["cert"]},
    }
    for number, (tag, files) in enumerate(hostile.items()):
        site.write(tag, **files)
        with pytest.raises(PublisherFailed):
            site.find(tag, workspace.part(str(number)), Recorder())
    assert ran == []


def test_a_certificate_that_no_log_has_seen_is_refused(
    site: Site, instance: Instance, workspace: Workspace, ran: list[Path]
) -> None:
    unlogged = Instance()
    unlogged.ca, unlogged.ca_key = instance.ca, instance.ca_key
    site.write("v1.31.2", **sign(unlogged))
    with pytest.raises(PublisherFailed):
        site.find("v1.31.2", workspace, Recorder())
    assert ran == []


@pytest.mark.parametrize("tag", ["v1.20.2", "v1.25.16", "v1.31.2"])
def test_without_a_signature_it_says_what_the_comparison_is_worth(
    tag: str, site: Site, workspace: Workspace, ran: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if tag == "v1.31.2":
        monkeypatch.setitem(sys.modules, "sigstore", None)  # as if it were not installed
    site.write(tag)
    recorder = Recorder()
    found = site.find(tag, workspace, recorder)
    assert len(ran) == 1
    assert found.signer is None
    [said] = [line for line in recorder.said if "the same site" in line]
    assert (".[keyless]" in said) == (tag == "v1.31.2")
    proof = Proof(
        path=ran[0], arch="amd64", sha256=found.sha256, ran=None, where="", published=found
    )
    document = proof_document(proof)["published"]
    assert document == dataclasses.asdict(found)
    assert document["signer"] is None
