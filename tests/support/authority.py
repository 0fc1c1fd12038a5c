"""Certificates, keys and kubeconfigs for tests; the keys are elliptic, which is quick."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
YEAR = 365 * DAY
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
PEM = serialization.Encoding.PEM
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
# Much quicker than the one in Python; a PyYAML that was built without libyaml lacks it.
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)

    def write(self, path: Path, key: Path | None = None) -> None:
        """Write it to a file, with its key beside it, ``ca.crt`` and ``ca.key``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.pem)
        where = key or path.with_suffix(".key")
        where.write_bytes(self.key_pem)
        where.chmod(0o600)


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key, password: bytes | None = None) -> bytes:
    encryption: Any = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption)


def issue(
    common_name: str,
    by: Issued | None = None,
    *,
    years: float = 1,
    born: datetime = NOW - DAY,
    organization: str = "",
    usages: Iterable[x509.ObjectIdentifier] = (SERVER,),
    ca: bool = False,
    key: Key | None = None,
    names: Iterable[str] = ("kubernetes",),
) -> Issued:
    """Return a certificate that is born a day before NOW, signed by a CA or by itself."""
    key = key or new_key()
    subject = _name(common_name, organization)
    issuer = by.certificate.subject if by else subject
    signer = by.key if by else key
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=born,
        not_valid_after=born + years * YEAR,
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
    )
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    if not ca:
        alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return Issued(builder.sign(signer, hashes.SHA256()), key)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def kubeconfig(user: str, issued: Issued, ca: Issued, **instead: str) -> bytes:
    """Return a kubeconfig that embeds all; ``instead`` replaces fields of the user."""
    fields = {
        "client-certificate-data": base64.b64encode(issued.pem).decode(),
        "client-key-data": base64.b64encode(issued.key_pem).decode(),
    }
    if instead:
        fields = {name.replace("_", "-"): value for name, value in instead.items()}
    data = base64.b64encode(ca.pem).decode()
    cluster = {"server": "https://192.0.2.1:6443", "certificate-authority-data": data}
    return yaml.dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "kubernetes", "cluster": cluster}],
            "contexts": [{"name": "it", "context": {"cluster": "kubernetes", "user": user}}],
            "current-context": "it",
            "users": [{"name": user, "user": fields}],
        },
        Dumper=DUMPER,
    ).encode()


def control_plane(folder: Path, *, ca_years: float = 10, leaf_years: float = 1) -> Issued:
    """Write an /etc/kubernetes as kubeadm makes it, and return its cluster CA."""
    ca = issue("kubernetes", years=ca_years, ca=True)
    etcd = issue("etcd-ca", years=ca_years, ca=True)
    ca.write(folder / "pki/ca.crt")
    etcd.write(folder / "pki/etcd/ca.crt")
    for name, by, usages in (
        ("apiserver", ca, (SERVER,)),
        ("apiserver-kubelet-client", ca, (CLIENT,)),
        ("apiserver-etcd-client", etcd, (CLIENT,)),
        ("etcd/server", etcd, (SERVER, CLIENT)),
        ("etcd/peer", etcd, (SERVER, CLIENT)),
    ):
        leaf = issue(f"kube-{name}"[-60:], by, years=leaf_years, usages=usages)
        leaf.write(folder / f"pki/{name}.crt")
    admin = issue(
        "kubernetes-admin", ca, years=leaf_years, organization="system:masters", usages=(CLIENT,)
    )
    write_kubeconfig(folder / "admin.conf", kubeconfig("kubernetes-admin", admin, ca))
    return ca


def write_kubeconfig(path: Path, content: bytes) -> None:
    """Write a kubeconfig as kubeadm does, for its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)


def _name(common_name: str, organization: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)
