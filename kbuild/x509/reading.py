"""Take apart the content of a file: PEM with several blocks, DER, or PKCS #7."""

import binascii
import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from kbuild.base.files import BROKEN as _BROKEN
from kbuild.x509.facts import CertificateFacts, facts_of
from kbuild.x509.keys import KeyFacts, is_private_key, read_der_key, read_key
from kbuild.x509.pem import Block, damaged_line, looks_like_pem, split_pem

# What parsing a certificate and reading values from it can raise.
BROKEN = (
    *(*_BROKEN, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
)
_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE")
_BUNDLES = ("PKCS7", "CMS")
# Blocks with other labels that have such a word in them are damaged.
_WORDS = ("CERTIFICATE", "PRIVATE KEY")
_OTHER_BLOCKS = ("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST", "ATTRIBUTE CERTIFICATE")
_LONGEST = 200  # characters of what the library says of an error
_SEQUENCE = b"0"  # 0x30, with which all DER here begins
# The filters of warnings belong to all threads.
_QUIET = threading.RLock()


class Unreadable(ValueError):
    """A content holds no certificate, or a broken one; its text says why."""


@dataclass(slots=True)
class Content:
    """What is in a file, in its order; ``problems`` are the parts that cannot be read.

    ``is_der`` tells that it is no PEM, and ``is_pkcs7`` that certificates of it are in PKCS#7.
    """

    certificates: list[CertificateFacts] = field(default_factory=list)
    keys: list[KeyFacts] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_der: bool = False
    is_pkcs7: bool = False

    def __bool__(self) -> bool:
        return bool(self.certificates or self.keys or self.problems)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's warnings about old certificates while a block runs.

    kubeadm's CAs had the serial number 0 until v1.25.11, v1.26.6 and v1.27.3, for example.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_certificate(content: bytes) -> CertificateFacts:
    """Return the first certificate of a PEM file; raises Unreadable."""
    for block in split_pem(content):
        if block.label in _CERTIFICATES:
            return _certificate(block)
    message = "it has no PEM certificate"
    raise Unreadable(message)


def read_content(content: bytes) -> Content:
    """Return every certificate and private key of a file; what is broken becomes a problem."""
    found = Content()
    if looks_like_pem(content):
        for number, block in enumerate(split_pem(content), 1):
            try:
                _read_block(block, found)
            except Unreadable as error:
                found.problems.append(f"block {number} ({block.label}): {error}")
        if not found.problems and (line := damaged_line(content)):
            found.problems.append(f"line {line} begins a certificate, but it is damaged")
    elif content.startswith(_SEQUENCE):
        found.is_der = True
        _read_der(content, found)
    return found


def _read_block(block: Block, found: Content) -> None:
    if is_private_key(block.label):
        found.keys.append(read_key(block))
    elif block.label in _CERTIFICATES:
        found.certificates.append(_certificate(block))
    elif block.label in _BUNDLES:
        found.certificates += _bundle(pkcs7.load_pem_pkcs7_certificates, _pkcs7_text(block))
        found.is_pkcs7 = True
    elif block.label == "TRUSTED CERTIFICATE":
        message = "it is in OpenSSL's own format; convert it with `openssl x509`"
        raise Unreadable(message)
    elif block.label not in _OTHER_BLOCKS and any(word in block.label for word in _WORDS):
        message = "its first line is damaged"
        raise Unreadable(message)


def _certificate(block: Block) -> CertificateFacts:
    if not block.text:
        message = "it is truncated"
        raise Unreadable(message)
    try:
        return facts_of(_der(block.text))
    except BROKEN as error:
        raise _unreadable(error) from error


def _der(text: bytes) -> bytes:
    """Decode a block of PEM; base64 of the standard library is ten times as fast as x509's."""
    body = text.partition(b"\n")[2].rpartition(b"-----END ")[0]
    with contextlib.suppress(binascii.Error):
        if der := binascii.a2b_base64(body.translate(None, b"\r\n"), strict_mode=True):
            return der
    # Headers, or damage, which x509 describes.
    return x509.load_pem_x509_certificate(text).public_bytes(Encoding.DER)


def _pkcs7_text(block: Block) -> bytes:
    if not block.text:
        message = "it is truncated"
        raise Unreadable(message)
    return block.text.replace(b" CMS-----", b" PKCS7-----")


def _bundle(
    load: Callable[[bytes], list[x509.Certificate]], content: bytes
) -> list[CertificateFacts]:
    try:
        return [facts_of(each.public_bytes(Encoding.DER)) for each in load(content)]
    except BROKEN as error:
        raise _unreadable(error) from error


def _read_der(content: bytes, found: Content) -> None:
    """Read DER, which does not say what it is: the first of its kinds that can be parsed."""
    with contextlib.suppress(*BROKEN):
        found.certificates.append(facts_of(content))
        return
    with contextlib.suppress(Unreadable):
        found.certificates += _bundle(pkcs7.load_der_pkcs7_certificates, content)
        found.is_pkcs7 = True
        return
    key = read_der_key(content)
    if key.public_key or key.encrypted:
        found.keys.append(key)


def _unreadable(error: Exception) -> Unreadable:
    reason = (str(error) or type(error).__name__).split("\n", 1)[0][:_LONGEST]
    return Unreadable(f"it is not a certificate that can be read ({reason})")
