"""A private key that is kept elsewhere, such as on a token: only its signatures come here.

The builders of the library take a subclass of its keys, and call its ``sign``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kbuild.x509.private import CURVES

ForeignPublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_LEAST_BITS = 2048  # of an RSA key, as for cfssl
# The DER of DigestInfo before the digest (RFC 8017, section 9.2, note 1).
_DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """What a key that is kept elsewhere can do.

    ``sign`` gets the DigestInfo for RSA, and returns the signature of PKCS #1 v1.5. For ECDSA it
    gets the digest, and returns r and s, one after the other. ``wrong`` is raised if that is no
    signature of the public key.
    """

    public: ForeignPublicKey
    sign: Callable[[bytes], bytes]
    wrong: Exception


def foreign_key(foreign: Foreign) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """Return a key with which certificates and requests can be signed, and nothing else."""
    if isinstance(foreign.public, rsa.RSAPublicKey):
        return _RSA(foreign, foreign.public)
    return _EC(foreign, foreign.public)


def foreign_public(der: bytes) -> ForeignPublicKey:
    """Return a public key from its DER, also in the format of PKCS #1.

    Raises ValueError for a key whose private half signs no certificates here.
    """
    try:
        found = load_der_public_key(der)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    match found:
        case rsa.RSAPublicKey() if found.key_size >= _LEAST_BITS:
            return found
        case rsa.RSAPublicKey():
            message = f"it is RSA with {found.key_size} bits, and {_LEAST_BITS} are the least"
        case ec.EllipticCurvePublicKey() if isinstance(found.curve, tuple(CURVES.values())):
            return found
        case ec.EllipticCurvePublicKey():
            message = f"its curve is {found.curve.name}, and not P-256, P-384 or P-521"
        case _:
            message = "it is neither RSA nor ECDSA"
    raise ValueError(message)


def ecdsa_der(signature: bytes) -> bytes:
    """Return a signature of r and s, one after the other, as X.509 has it.

    Raises ValueError if its length is odd, or it is empty.
    """
    half, odd = divmod(len(signature), 2)
    if odd or not half:
        message = f"a signature of {len(signature)} bytes is not r and s"
        raise ValueError(message)
    r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
    return encode_dss_signature(r, s)


def digest_info(digest: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    """Return what RSA signs in PKCS #1 v1.5, before the padding."""
    return _DIGEST_INFO[algorithm.name] + digest


def _digest(data: Any, algorithm: hashes.HashAlgorithm) -> bytes:  # noqa: ANN401  # any buffer
    made = hashes.Hash(algorithm)
    made.update(data)
    return made.finalize()


def _refuse() -> NoReturn:
    message = "the key is kept elsewhere, and only signs"
    raise TypeError(message)


class _OnlySigns:
    """What a key that is kept elsewhere refuses, whatever its kind."""

    def private_numbers(self) -> NoReturn:
        _refuse()

    def private_bytes(self, *_: object) -> NoReturn:
        _refuse()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: dict[Any, Any]) -> Self:
        return self


class _RSA(_OnlySigns, rsa.RSAPrivateKey):
    def __init__(self, foreign: Foreign, public: rsa.RSAPublicKey) -> None:
        self._foreign, self._public = foreign, public

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public

    def sign(
        self,
        data: Any,  # noqa: ANN401  # any buffer
        padding: AsymmetricPadding,
        algorithm: Prehashed | hashes.HashAlgorithm | Any,  # noqa: ANN401  # NoDigestInfo
    ) -> bytes:
        if not (isinstance(padding, PKCS1v15) and isinstance(algorithm, hashes.HashAlgorithm)):
            _refuse()
        signature = self._foreign.sign(digest_info(_digest(data, algorithm), algorithm))
        try:
            self._public.verify(signature, data, padding, algorithm)
        except InvalidSignature:
            raise self._foreign.wrong from None
        return signature

    def decrypt(self, *_: object) -> NoReturn:
        _refuse()


class _EC(_OnlySigns, ec.EllipticCurvePrivateKey):
    def __init__(self, foreign: Foreign, public: ec.EllipticCurvePublicKey) -> None:
        self._foreign, self._public = foreign, public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    def sign(
        self,
        data: Any,  # noqa: ANN401  # any buffer
        signature_algorithm: ec.EllipticCurveSignatureAlgorithm,
    ) -> bytes:
        algorithm = signature_algorithm.algorithm
        if not isinstance(algorithm, hashes.HashAlgorithm):
            _refuse()
        try:
            signature = ecdsa_der(self._foreign.sign(_digest(data, algorithm)))
            self._public.verify(signature, data, signature_algorithm)
        except (InvalidSignature, ValueError):
            raise self._foreign.wrong from None
        return signature

    def exchange(self, *_: object) -> NoReturn:
        _refuse()
