"""Make certificate authorities."""

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCA:
    """A CA's certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def make_ca(subject: str, *, born: datetime, ends: datetime) -> NewCA:
    """Return a new self-signed CA with an RSA key of 2048 bits; ``subject`` is its common name.

    It is like kubeadm's (NewSelfSignedCACert of client-go's util/cert/cert.go at v0.20.2).
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return NewCA(
        certificate=_self_signed(subject, key, born, ends).public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )


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
