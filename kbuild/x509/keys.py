"""Private keys: which public key each has. No password is asked for."""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from kbuild.x509.facts import der_of
from kbuild.x509.pem import Block

# What stands for a private key in the copy of a file that must not hold it. The content is the DER
# of its public key, or nothing if that is not known.
WITHHELD = "WITHHELD PRIVATE KEY"
_ENCRYPTED = b"Proc-Type: 4,ENCRYPTED"  # of the traditional format; PKCS #8 has a label of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """A private key: the DER of its public key, or why that is not known.

    ``public_key`` is empty if the key is encrypted, or if ``problem`` says why it cannot be read.
    Of a key that was withheld no more than that is known.
    """

    public_key: bytes
    encrypted: bool = False
    problem: str = ""


def is_private_key(label: str) -> bool:
    """Tell whether a block of PEM with this label is a private key."""
    return label.endswith("PRIVATE KEY")


def read_key(block: Block) -> KeyFacts:
    """Return what a block of PEM says of a private key."""
    if not block.text:
        return KeyFacts(public_key=b"", problem="it is truncated")
    if block.label == WITHHELD:
        return KeyFacts(public_key=_public(block.text))
    if block.label == "ENCRYPTED PRIVATE KEY" or _ENCRYPTED in block.text:
        return KeyFacts(public_key=b"", encrypted=True)
    if block.label == "OPENSSH PRIVATE KEY":
        return KeyFacts(public_key=b"", problem="it has OpenSSH's own format")
    return _read(block.text, serialization.load_pem_private_key)


def read_der_key(content: bytes) -> KeyFacts:
    """Return what DER says of a private key, as ``read_key`` does."""
    return _read(content, serialization.load_der_private_key)


def _public(text: bytes) -> bytes:
    label = WITHHELD.encode()
    try:
        return der_of(serialization.load_pem_public_key(text.replace(label, b"PUBLIC KEY")))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return b""


def _read(content: bytes, load: Callable[..., PrivateKeyTypes]) -> KeyFacts:
    try:
        # Only the public half is compared, and the checks of an RSA key take long.
        private = load(content, None, unsafe_skip_rsa_key_validation=True)
        public = der_of(private.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if isinstance(error, TypeError) and "encrypted" in str(error):
            return KeyFacts(public_key=b"", encrypted=True)
        return KeyFacts(public_key=b"", problem="it is not a key that can be read")
    return KeyFacts(public_key=public)
