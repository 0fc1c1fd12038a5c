"""What a certificate says, as plain values."""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, TypeVar, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku
from cryptography.x509.oid import NameOID

E = TypeVar("E", bound=x509.ExtensionType)

_MAX_EXPONENT = 1 << 32  # Go refuses larger ones; a signature of such a key takes long to verify
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
# The words of the certificates API (k8s.io/api/certificates/v1/types.go, KeyUsage).
KEY_USAGES = {
    "digital_signature": "digital signature",
    "content_commitment": "content commitment",
    "key_encipherment": "key encipherment",
    "data_encipherment": "data encipherment",
    "key_agreement": "key agreement",
    "key_cert_sign": "cert sign",
    "crl_sign": "crl sign",
}
EXTENDED = {
    Eku.SERVER_AUTH: "server auth",
    Eku.CLIENT_AUTH: "client auth",
    Eku.CODE_SIGNING: "code signing",
    Eku.EMAIL_PROTECTION: "email protection",
    Eku.TIME_STAMPING: "timestamping",
    Eku.OCSP_SIGNING: "ocsp signing",
    Eku.ANY_EXTENDED_KEY_USAGE: "any",
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.5"): "ipsec end system",
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.6"): "ipsec tunnel",
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.7"): "ipsec user",
    x509.ObjectIdentifier("1.3.6.1.4.1.311.10.3.3"): "microsoft sgc",
    x509.ObjectIdentifier("2.16.840.1.113730.4.1"): "netscape sgc",
}
_NAMES: dict[type[x509.GeneralName], str] = {
    x509.DNSName: "DNS",
    x509.IPAddress: "IP",
    x509.UniformResourceIdentifier: "URI",
    x509.RFC822Name: "email",
}


class Extensions:
    """The extensions of a certificate by their classes; the library searches a list each time."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self._found = {type(each.value): each.value for each in certificate.extensions}

    def get(self, kind: type[E]) -> E | None:
        """Return an extension, if there is one of that class."""
        return cast("E | None", self._found.get(kind))


class CertificateFacts(NamedTuple):
    """A certificate, and what it says; a tuple, as a dataclass takes five times as long to make.

    ``der`` is the certificate itself: the library's object takes ten times as much memory.
    ``subject`` and ``issuer`` are as in RFC 4514. ``public_key`` is the DER of the
    SubjectPublicKeyInfo, empty if its kind is not known. ``bits`` is the size of an RSA or DSA
    modulus, 0 for other keys. ``has_large_exponent`` tells whether an RSA key has an exponent that
    programs refuse. ``hash_name`` is that of the signature, such as ``sha256``, empty if
    it has none of its own. ``may_sign`` tells whether it can be a CA: BasicConstraints say so, or
    it has none and is its own issuer. ``serial`` is hexadecimal, as openssl prints it.
    """

    der: bytes
    subject: str
    issuer: str
    common_name: str
    organizations: tuple[str, ...]
    serial: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    is_ca: bool
    may_sign: bool
    key: str
    bits: int
    has_large_exponent: bool
    public_key: bytes
    hash_name: str
    names: tuple[str, ...]
    usages: tuple[str, ...]
    own_key_id: bytes | None
    issuer_key_id: bytes | None
    path_length: int | None

    @property
    def is_self_issued(self) -> bool:
        """Tell whether subject and issuer are the same name."""
        return self.subject == self.issuer


def facts_of(der: bytes) -> CertificateFacts:
    """Return what a certificate says; raises an error of reading.BROKEN if a part is malformed."""
    certificate = x509.load_der_x509_certificate(der)
    subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    named = [(each.oid, str(each.value)) for each in certificate.subject]
    extensions = Extensions(certificate)
    constraints = extensions.get(x509.BasicConstraints)
    is_ca = constraints is not None and constraints.ca
    own_id = extensions.get(x509.SubjectKeyIdentifier)
    issuer_id = extensions.get(x509.AuthorityKeyIdentifier)
    key, bits, public_key, has_large_exponent = _public_key(certificate)
    return CertificateFacts(
        der=der,
        subject=subject,
        issuer=issuer,
        common_name=next((value for oid, value in named if oid == NameOID.COMMON_NAME), ""),
        organizations=tuple(value for oid, value in named if oid == NameOID.ORGANIZATION_NAME),
        serial=_serial(certificate.serial_number),
        fingerprint=hashlib.sha256(der).hexdigest(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        is_ca=is_ca,
        may_sign=is_ca or (constraints is None and subject == issuer),
        key=key,
        bits=bits,
        has_large_exponent=has_large_exponent,
        public_key=public_key,
        hash_name=_hash_name(certificate),
        names=tuple(_names(extensions.get(x509.SubjectAlternativeName))),
        usages=tuple(_usages(extensions)),
        own_key_id=own_id.digest if own_id else None,
        issuer_key_id=issuer_id.key_identifier if issuer_id else None,
        path_length=constraints.path_length if constraints else None,
    )


def der_of(key: PublicKeyTypes) -> bytes:
    """Return the DER of a public key, which is equal for equal keys."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _public_key(certificate: x509.Certificate) -> tuple[str, int, bytes, bool]:
    """Return type and size of a key, the bits of a modulus, its DER, whether its exponent is large.

    The bits are 0 for a key that has no modulus.
    """
    try:
        key = certificate.public_key()
        der = der_of(key)
    except (ValueError, UnsupportedAlgorithm):  # a kind or a curve that the library lacks
        return "unknown", 0, b"", False
    match key:
        case rsa.RSAPublicKey():
            is_large = key.public_numbers().e >= _MAX_EXPONENT
            return f"RSA {key.key_size}", key.key_size, der, is_large
        case dsa.DSAPublicKey():
            return f"DSA {key.key_size}", key.key_size, der, False
        case ec.EllipticCurvePublicKey():
            return f"ECDSA {_CURVES.get(key.curve.name, key.curve.name)}", 0, der, False
        case _:
            return type(key).__name__.removesuffix("PublicKey"), 0, der, False


def _serial(number: int) -> str:
    digits = f"{abs(number):X}"
    return ("-" if number < 0 else "") + "0" * (len(digits) % 2) + digits


def _hash_name(certificate: x509.Certificate) -> str:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return ""
    return algorithm.name if algorithm else ""


def _names(found: x509.SubjectAlternativeName | None) -> Iterator[str]:
    for name in found or ():
        if kind := _NAMES.get(type(name)):
            yield f"{kind}:{name.value}"
        elif isinstance(name, x509.DirectoryName):
            yield f"DirName:{name.value.rfc4514_string()}"
        else:
            yield "other"


def _usages(extensions: Extensions) -> Iterator[str]:
    usage = extensions.get(x509.KeyUsage)
    if usage:
        yield from (word for name, word in KEY_USAGES.items() if getattr(usage, name))
    for each in extensions.get(x509.ExtendedKeyUsage) or ():
        yield EXTENDED.get(each, each.dotted_string)
