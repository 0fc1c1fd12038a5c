"""Make, read and write private keys."""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from kbuild.x509.facts import der_of

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
CURVES: dict[int, type[ec.EllipticCurve]] = {
    256: ec.SECP256R1,
    384: ec.SECP384R1,
    521: ec.SECP521R1,
}
_LONGEST_PASSWORD = 1023  # bytes, as the library takes
_SHA512_BITS, _SHA384_BITS = 4096, 3072  # of an RSA key


class BadPrivateKey(ValueError):
    """A private key cannot be read, or is of a kind that signs no certificates here."""


class WrongPassword(BadPrivateKey):
    """A private key is encrypted, and the password is wrong, or there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyKind:
    """The kind of a key: ``rsa`` with its bits, ``ecdsa`` with those of its curve, ``ed25519``."""

    algorithm: str
    size: int

    @property
    def shown(self) -> str:
        """Return the kind in the words of CertificateFacts.key."""
        match self.algorithm:
            case "rsa":
                return f"RSA {self.size}"
            case "ecdsa":
                return f"ECDSA P-{self.size}"
            case _:
                return "Ed25519"


def new_key(kind: KeyKind) -> PrivateKey:
    """Return a new key; other threads run meanwhile."""
    match kind.algorithm:
        case "rsa":
            return rsa.generate_private_key(public_exponent=65537, key_size=kind.size)
        case "ecdsa":
            return ec.generate_private_key(CURVES[kind.size]())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def key_pem(key: PrivateKey, password: str = "", *, pkcs8: bool = False) -> bytes:
    """Return a key as PEM, encrypted if there is a password.

    The format is that which cfssl and kubeadm write, PKCS #1 or SEC 1, or PKCS #8. Ed25519 has
    PKCS #8 only.
    """
    formats = serialization.PrivateFormat
    is_pkcs8 = pkcs8 or isinstance(key, ed25519.Ed25519PrivateKey)
    return key.private_bytes(
        serialization.Encoding.PEM,
        formats.PKCS8 if is_pkcs8 else formats.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(password.encode())
        if password
        else serialization.NoEncryption(),
    )


def public_pem(key: PrivateKey) -> bytes:
    """Return the public half of a key as PEM."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def load_key(pem: bytes, password: Callable[[], str]) -> PrivateKey:
    """Return the private key of a PEM file; raises BadPrivateKey, or WrongPassword.

    ``password`` is asked for only if the key is encrypted, and may return empty text.
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        key = _decrypted(pem, password())
    except (ValueError, UnsupportedAlgorithm) as error:
        message = "it is not a private key that can be read"
        raise BadPrivateKey(message) from error
    if not isinstance(key, PrivateKey):
        message = "it is neither RSA, ECDSA nor Ed25519"
        raise BadPrivateKey(message)
    return key


def is_usable(password: str) -> bool:
    """Tell whether the library takes a password: UTF-8, of at most 1023 bytes."""
    try:
        return len(password.encode()) <= _LONGEST_PASSWORD
    except UnicodeEncodeError:
        return False


def _decrypted(pem: bytes, password: str) -> PrivateKeyTypes:
    if not password:
        message = "it is encrypted, and there is no password"
        raise WrongPassword(message)
    if not is_usable(password):
        message = "it is encrypted, and the password is wrong"
        raise WrongPassword(message)
    try:
        return serialization.load_pem_private_key(pem, password.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        message = "it is encrypted, and the password is wrong"
        raise WrongPassword(message) from error


def public_der(key: PrivateKey) -> bytes:
    """Return the DER of the public half, as CertificateFacts.public_key."""
    return der_of(key.public_key())


def hash_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """Return the hash with which a key signs: the larger the key, the longer.

    It is that of cfssl (DefaultSigAlgo of signer/signer.go at 1.2.0). Ed25519 has its own.
    """
    match key:
        case rsa.RSAPrivateKey():
            if key.key_size >= _SHA512_BITS:
                return hashes.SHA512()
            return hashes.SHA384() if key.key_size >= _SHA384_BITS else hashes.SHA256()
        case ec.EllipticCurvePrivateKey():
            if isinstance(key.curve, ec.SECP521R1):
                return hashes.SHA512()
            return hashes.SHA384() if isinstance(key.curve, ec.SECP384R1) else hashes.SHA256()
        case _:
            return None
