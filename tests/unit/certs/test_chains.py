"""How far certificates are followed to the CAs that were read."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from tests.support.authority import (
    CLIENT,
    DAY,
    NOW,
    PEM,
    YEAR,
    Issued,
    Key,
    control_plane,
    issue,
    kubeconfig,
    new_key,
    write_kubeconfig,
)
from tests.unit.certs.conftest import Read


def certificate(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    issuer: x509.Name,
    key: Key,
    *,
    ca: bool = False,
    years: int = 1,
) -> bytes:
    """Return a certificate without key ids."""
    builder = x509.CertificateBuilder(
        issuer, subject, public, x509.random_serial_number(), NOW - DAY, NOW + years * YEAR
    )
    constraints = x509.BasicConstraints(ca=ca, path_length=None)
    builder = builder.add_extension(constraints, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(PEM)


def name(text: str, kind: _ASN1Type = _ASN1Type.UTF8String) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, kind)])


def chains(read: Read, folder: Path) -> dict[str, str]:
    return {Path(c.path).name: c.chain for c in read(folder).certificates if not c.is_ca}


def test_a_kubeconfig_of_another_cluster_is_intact(tmp_path: Path, read: Read) -> None:
    control_plane(tmp_path / "kubernetes")
    other = issue("kubernetes", ca=True, years=10)
    user = issue("kubernetes-admin", other, usages=(CLIENT,))
    write_kubeconfig(tmp_path / "home/config", kubeconfig("admin", user, other))
    assert set(chains(read, tmp_path).values()) == {"verified"}


def test_a_cross_signed_ca_without_its_other_root(tmp_path: Path, read: Read) -> None:
    one, two, leaf = new_key(), new_key(), new_key()
    files = {
        "leaf.crt": certificate(name("leaf"), leaf.public_key(), name("A"), one),
        "a.crt": certificate(name("A"), one.public_key(), name("A"), one, ca=True),
        "a-by-b.crt": certificate(name("A"), one.public_key(), name("B"), two, ca=True, years=9),
    }
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    assert chains(read, tmp_path) == {"leaf.crt": "verified"}
    (tmp_path / "a.crt").unlink()
    assert chains(read, tmp_path) == {"leaf.crt": "unknown-issuer"}


def test_cas_that_signed_each_other(tmp_path: Path, read: Read) -> None:
    one, two, leaf = new_key(), new_key(), new_key()
    (tmp_path / "all.pem").write_bytes(
        certificate(name("A"), one.public_key(), name("B"), two, ca=True)
        + certificate(name("B"), two.public_key(), name("A"), one, ca=True)
    )
    content = certificate(name("leaf"), leaf.public_key(), name("A"), one)
    (tmp_path / "leaf.crt").write_bytes(content)
    assert chains(read, tmp_path) == {"leaf.crt": "unknown-issuer"}


@pytest.mark.parametrize("has_ids", [True, False])
def test_many_cas_of_one_name(has_ids: bool, tmp_path: Path, read: Read) -> None:
    keys = [new_key() for _ in range(60)]
    for number, key in enumerate(keys):
        if has_ids:
            content = issue("kubernetes", ca=True, key=key).pem
        else:
            public = key.public_key()
            content = certificate(name("kubernetes"), public, name("kubernetes"), key, ca=True)
        (tmp_path / f"ca{number}.crt").write_bytes(content)
    for number in (0, 59):
        key = new_key()
        content = certificate(name("x"), key.public_key(), name("kubernetes"), keys[number])
        (tmp_path / f"x{number}.crt").write_bytes(content)
    assert set(chains(read, tmp_path).values()) == {"verified"}


@pytest.mark.timeout(20)
def test_hundreds_of_certificates_of_one_ca(tmp_path: Path, read: Read) -> None:
    one, two = new_key(), new_key()
    (tmp_path / "all.pem").write_bytes(
        b"".join(
            certificate(name("evil"), one.public_key(), name("evil"), two, ca=True)
            for _ in range(500)
        )
    )
    assert {c.chain for c in read(tmp_path).certificates} == {"bad-signature"}


def test_an_issuer_in_another_encoding(tmp_path: Path, read: Read) -> None:
    key, leaf = new_key(), new_key()
    plain = name("kubernetes", _ASN1Type.PrintableString)
    ca = certificate(name("kubernetes"), key.public_key(), name("kubernetes"), key, ca=True)
    (tmp_path / "ca.crt").write_bytes(ca)
    (tmp_path / "leaf.crt").write_bytes(certificate(name("x"), leaf.public_key(), plain, key))
    assert chains(read, tmp_path) == {"leaf.crt": "verified"}


def test_a_ca_is_no_other_ca_of_its_name(tmp_path: Path, read: Read) -> None:
    key, other = new_key(), new_key()
    content = certificate(name("A"), key.public_key(), name("A"), other, ca=True)
    (tmp_path / "a.crt").write_bytes(content)
    [found] = read(tmp_path).certificates
    assert found.chain == "unknown-issuer"


@pytest.mark.timeout(20)
def test_a_ca_with_an_exponent_that_takes_long(tmp_path: Path, read: Read) -> None:
    key, signer = rsa.generate_private_key(65537, 2048), new_key()
    numbers = rsa.RSAPublicNumbers((1 << 2000) + 1, key.public_key().public_numbers().n)
    ca = certificate(name("A"), numbers.public_key(), name("A"), signer, ca=True)
    (tmp_path / "ca.crt").write_bytes(ca)
    leaf = certificate(name("x"), signer.public_key(), name("A"), key)
    (tmp_path / "leaf.crt").write_bytes(leaf)
    assert chains(read, tmp_path) == {"leaf.crt": "unknown-issuer"}
    assert "weak-key" in {f.kind for f in read(tmp_path).findings if f.path.endswith("ca.crt")}


def test_another_ca_of_the_name_in_a_file_is_a_bad_signature(tmp_path: Path, read: Read) -> None:
    ca: Issued = issue("A", ca=True)
    issue("x", ca).write(tmp_path / "leaf.crt")
    issue("A", ca=True).write(tmp_path / "ca.crt")
    assert chains(read, tmp_path) == {"leaf.crt": "bad-signature"}
