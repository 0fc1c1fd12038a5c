"""Read the certificates that kubeadm wrote, and make the old CAs that it is given."""

import base64
import binascii
import warnings
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import yaml
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from kbuild.base.files import BROKEN, demand_plain_yaml
from kbuild.base.sandbox import Files

# kubeadm's CAs had the serial number 0 until v1.25.11, v1.26.6 and v1.27.3.
warnings.filterwarnings("ignore", "Parsed a serial number which wasn't positive")

Kind = Literal["ca", "leaf", "kubeconfig"]

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
_MAX_SIZE = 64 << 10  # bytes; kubeadm's largest, a kubeconfig, has 6 KiB
_MAX_DEPTH = 16  # a kubeconfig has four levels
_BROKEN = (
    *(*BROKEN, yaml.YAMLError, binascii.Error, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
)


class UnreadableCertificate(Exception):
    """A file that should hold a certificate does not: its ``path`` and the ``reason``."""

    def __init__(self, path: str, reason: object) -> None:
        self.path, self.reason = path, str(reason) or type(reason).__name__
        super().__init__(f"{path}: {self.reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate: its kind (ca, leaf, kubeconfig), names, dates and fingerprint."""

    kind: Kind
    path: str
    subject: str
    not_before: datetime
    not_after: datetime
    fingerprint: str


def read_certificates(files: Files) -> dict[str, Certificate]:
    """Return every certificate in the files of an /etc/kubernetes, by its relative path.

    A kubeconfig counts with its client certificate. Raises UnreadableCertificate.
    """
    found = {}
    for name, content in sorted(files.items()):
        if name.endswith((".crt", ".conf")):
            try:
                found[name] = _read(name, content)
            except _BROKEN as error:
                raise UnreadableCertificate(name, error) from error
    return found


def make_old_cas(*, born: datetime, ends: datetime) -> dict[str, bytes]:
    """Return the files of the three CAs of a cluster set up at ``born``."""
    files = {}
    for name, subject in CAS.items():
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        certificate = _self_signed(subject, key, born, ends)
        files[name] = certificate.public_bytes(serialization.Encoding.PEM)
        files[name.removesuffix(".crt") + ".key"] = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    return files


def _read(name: str, content: bytes) -> Certificate:
    if len(content) > _MAX_SIZE:
        message = f"it has {len(content)} bytes"
        raise ValueError(message)
    is_kubeconfig = name.endswith(".conf")
    pem = _client_certificate(content) if is_kubeconfig else content
    certificate = x509.load_pem_x509_certificate(pem)
    return Certificate(
        kind="kubeconfig" if is_kubeconfig else _kind(certificate),
        path=name,
        subject=certificate.subject.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _kind(certificate: x509.Certificate) -> Kind:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:  # kubeadm's leaves have none before v1.21
        return "leaf"
    return "ca" if constraints.value.ca else "leaf"


def _client_certificate(content: bytes) -> bytes:
    demand_plain_yaml(content, _MAX_DEPTH)
    [user] = yaml.safe_load(content)["users"]
    return base64.b64decode(user["user"]["client-certificate-data"])


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
