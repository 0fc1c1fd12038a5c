"""Issue certificates."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from kbuild.x509.facts import EXTENDED, KEY_USAGES
from kbuild.x509.private import KeyKind, PrivateKey, hash_for, key_pem, new_key

# In the order in which Go writes them (ToRDNSequence of crypto/x509/pkix/pkix.go, go1.15).
SUBJECT_FIELDS = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER,
}
_OIDS = {word: oid for oid, word in EXTENDED.items()}
_PEM = serialization.Encoding.PEM
_MAKE_NAME: dict[str, Callable[[str], x509.GeneralName]] = {
    "DNS": x509.DNSName,
    "email": x509.RFC822Name,
    "URI": x509.UniformResourceIdentifier,
}
_NAME_ORDER = ("DNS", "email", "IP", "URI")  # of Go's marshalSANs
_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*", re.ASCII)  # isPrintable of encoding/asn1

# Each field with its values, as in SUBJECT_FIELDS.
Subject = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCA:
    """A CA's certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a certificate shall say.

    ``names`` and ``usages`` are in the words of CertificateFacts. ``path_length`` is None for no
    limit.
    """

    subject: Subject
    names: tuple[str, ...] = ()
    usages: tuple[str, ...]
    is_ca: bool = False
    path_length: int | None = None
    crl_url: str = ""
    ocsp_url: str = ""
    issuer_urls: tuple[str, ...] = ()
    ocsp_no_check: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A CA that signs: its certificate as DER, and its key."""

    der: bytes
    key: PrivateKey


def make_ca(subject: str, *, born: datetime, ends: datetime) -> NewCA:
    """Return a new self-signed CA with an RSA key of 2048 bits; ``subject`` is its common name.

    It is like kubeadm's (NewSelfSignedCACert of client-go's util/cert/cert.go at v0.20.2).
    """
    key = new_key(KeyKind(algorithm="rsa", size=2048))
    name = name_of((("CN", (subject,)),))
    builder = (
        _builder(name, name, key, born, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            _key_usage(("digital signature", "key encipherment", "cert sign")), critical=True
        )
    )
    certificate = builder.sign(key, hash_for(key)).public_bytes(_PEM)
    return NewCA(certificate=certificate, key=key_pem(key))


def issue(
    wanted: Wanted, key: PrivateKey, signer: Signer | None, *, born: datetime, ends: datetime
) -> bytes:
    """Return a certificate as PEM, signed by a CA, or by itself without one.

    Its extensions are those of cfssl: BasicConstraints always, SubjectKeyIdentifier, and
    AuthorityKeyIdentifier unless it is signed by itself. Raises ValueError for a value that X.509
    does not allow.
    """
    subject = name_of(wanted.subject)
    ca = x509.load_der_x509_certificate(signer.der) if signer else None
    builder = _builder(subject, ca.subject if ca else subject, key, born, ends)
    for extension, is_critical in _extensions(wanted, key, ca):
        builder = builder.add_extension(extension, critical=is_critical)
    by = signer.key if signer else key
    return builder.sign(by, hash_for(by)).public_bytes(_PEM)


def extend(der: bytes, key: PrivateKey, *, born: datetime, ends: datetime) -> bytes:
    """Return a self-signed certificate again, as PEM, with other dates and another serial number.

    The name and the extensions are the same bytes, so what it has signed stays valid.
    """
    old = x509.load_der_x509_certificate(der)
    builder = _builder(old.subject, old.issuer, key, born, ends)
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(key, hash_for(key)).public_bytes(_PEM)


def certificate_pem(der: bytes) -> bytes:
    """Return a certificate as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(_PEM)


def request(wanted: Wanted, key: PrivateKey) -> bytes:
    """Return a certificate request as PEM, with the names, and for a CA its constraints."""
    builder = x509.CertificateSigningRequestBuilder(subject_name=name_of(wanted.subject))
    if wanted.names:
        builder = builder.add_extension(_alternative(wanted.names), critical=False)
    if wanted.is_ca:
        constraints = x509.BasicConstraints(ca=True, path_length=wanted.path_length)
        builder = builder.add_extension(constraints, critical=True)
    return builder.sign(key, hash_for(key)).public_bytes(_PEM)


def name_of(subject: Subject) -> x509.Name:
    """Return a subject as X.509 has it; raises ValueError for a value that it does not allow.

    Its bytes are those of Go: a PrintableString if possible. Go compares issuers by their bytes.
    """
    return x509.Name(
        [
            x509.RelativeDistinguishedName(
                [_attribute(f, value) for value in sorted(values, key=_der)]
            )
            for f, values in subject
        ]
    )


def _der(value: str) -> tuple[int, bool, bytes]:
    """Sort values of one field as DER sorts their encodings, so that a name reads as it is read."""
    encoded = value.encode()
    return len(encoded), _PRINTABLE.fullmatch(value) is not None, encoded


def _attribute(field: str, value: str) -> x509.NameAttribute[str]:
    is_printable = _PRINTABLE.fullmatch(value) is not None
    kind = _ASN1Type.PrintableString if is_printable else _ASN1Type.UTF8String
    return x509.NameAttribute(SUBJECT_FIELDS[field], value, kind)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, born: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=born,
        not_valid_after=ends,
    )


def _extensions(
    wanted: Wanted, key: PrivateKey, ca: x509.Certificate | None
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """Yield the extensions of a certificate in Go's order, and whether each is critical."""
    if any(word in KEY_USAGES.values() for word in wanted.usages):
        yield _key_usage(wanted.usages), True
    if extended := [_OIDS[word] for word in wanted.usages if word in _OIDS]:
        yield x509.ExtendedKeyUsage(extended), False
    yield x509.BasicConstraints(ca=wanted.is_ca, path_length=wanted.path_length), True
    yield x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
    if ca is not None:
        yield _authority(ca), False
    if access := list(_access(wanted)):
        yield x509.AuthorityInformationAccess(access), False
    if wanted.names:
        yield _alternative(wanted.names), not wanted.subject
    if wanted.crl_url:
        point = x509.DistributionPoint(
            [x509.UniformResourceIdentifier(wanted.crl_url)], None, None, None
        )
        yield x509.CRLDistributionPoints([point]), False
    if wanted.ocsp_no_check:
        yield x509.OCSPNoCheck(), False


def _authority(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the identifier of a CA's key: its own, or that of its key if it says none."""
    try:
        own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        digest = x509.SubjectKeyIdentifier.from_public_key(ca.public_key()).digest
        return x509.AuthorityKeyIdentifier(digest, None, None)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _access(wanted: Wanted) -> Iterator[x509.AccessDescription]:
    kinds = AuthorityInformationAccessOID
    urls = [(kinds.OCSP, wanted.ocsp_url)] if wanted.ocsp_url else []
    for kind, url in (*urls, *((kinds.CA_ISSUERS, each) for each in wanted.issuer_urls)):
        yield x509.AccessDescription(kind, x509.UniformResourceIdentifier(url))


def _key_usage(words: Iterable[str]) -> x509.KeyUsage:
    asked = set(words)
    flags = {name: word in asked for name, word in KEY_USAGES.items()}
    return x509.KeyUsage(**flags, encipher_only=False, decipher_only=False)


def _alternative(names: Iterable[str]) -> x509.SubjectAlternativeName:
    sorted_names = sorted(names, key=lambda name: _NAME_ORDER.index(name.partition(":")[0]))
    return x509.SubjectAlternativeName(map(_general_name, sorted_names))


def _general_name(name: str) -> x509.GeneralName:
    kind, _, value = name.partition(":")
    if kind == "IP":
        return x509.IPAddress(ipaddress.ip_address(value))
    return _MAKE_NAME[kind](value)
