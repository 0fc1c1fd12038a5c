"""Read the certificates that kubeadm wrote, and write the old CA that it is given."""

import base64
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

# kubeadm's CAs had the serial number 0 until v1.25.11, v1.26.6 and v1.27.3.
warnings.filterwarnings("ignore", "Parsed a serial number which wasn't positive")

CAS = {
    "pki/ca.crt": "kubernetes",
    "pki/front-proxy-ca.crt": "front-proxy-ca",
    "pki/etcd/ca.crt": "etcd-ca",
}
LEAVES = (
    "pki/apiserver.crt",
    "pki/apiserver-kubelet-client.crt",
    "pki/apiserver-etcd-client.crt",
    "pki/front-proxy-client.crt",
    "pki/etcd/server.crt",
    "pki/etcd/peer.crt",
    "pki/etcd/healthcheck-client.crt",
)
KUBECONFIGS = ("admin.conf", "kubelet.conf", "controller-manager.conf", "scheduler.conf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate: its kind (ca, leaf, kubeconfig), names, dates and fingerprint."""

    kind: str
    path: str
    subject: str
    not_before: datetime
    not_after: datetime
    fingerprint: str


def read_certificates(folder: Path) -> dict[str, Certificate]:
    """Return every certificate below ``folder`` (an /etc/kubernetes) by its relative path.

    A kubeconfig counts with its client certificate. Raises ValueError on unreadable ones.
    """
    found = {}
    for path in sorted([*folder.rglob("*.crt"), *folder.glob("*.conf")]):
        name = path.relative_to(folder).as_posix()
        found[name] = _read(name, path)
    return found


def write_old_cas(folder: Path, *, born: datetime, ends: datetime) -> None:
    """Write the three CAs of a cluster set up at ``born``, as kubeadm lays them out."""
    for name, subject in CAS.items():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        certificate = _self_signed(subject, key, born, ends)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = path.with_suffix(".key")
        private.touch(mode=0o600)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )


def _read(name: str, path: Path) -> Certificate:
    pem = _client_certificate(path) if path.suffix == ".conf" else path.read_bytes()
    certificate = x509.load_pem_x509_certificate(pem)
    return Certificate(
        kind="kubeconfig" if path.suffix == ".conf" else _kind(certificate),
        path=name,
        subject=certificate.subject.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _kind(certificate: x509.Certificate) -> str:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:  # kubeadm's leaves have none before v1.21
        return "leaf"
    return "ca" if constraints.value.ca else "leaf"


def _client_certificate(path: Path) -> bytes:
    try:
        [user] = yaml.safe_load(path.read_text())["users"]
        return base64.b64decode(user["user"]["client-certificate-data"])
    except (KeyError, TypeError, yaml.YAMLError) as error:
        message = f"{path.name} holds no client certificate"
        raise ValueError(message) from error


def _self_signed(
    subject: str, key: rsa.RSAPrivateKey, born: datetime, ends: datetime
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        key_cert_sign=True,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=born,
        not_valid_after=ends,
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
