"""Read keys for sigstore: PEM of the curve P-256, or cosign's own encrypted file.

Formats of the latter: sigstore/sigstore, pkg/cryptoutils/privatekey.go, and
secure-systems-lab/go-securesystemslib, encrypted/encrypted.go.
"""

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kbuild.base.files import BROKEN, read_file, reason_of
from kbuild.base.strictjson import load_json
from kbuild.release.errors import BadKey

PASSWORD = "COSIGN_PASSWORD"  # the same variable as for cosign
MAX_KEY = 8 * 1024  # bytes; cosign's file has 700, and checking a huge RSA key takes hours
_COSIGN = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")
# The only costs that go-securesystemslib decrypts, as N, r and p; others could take hours.
_ENCRYPTED_PEM = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----([^-]*)")
_SCRYPT = bytes.fromhex("2b06010401da47040b")  # its object identifier: RFC 7914, section 7
_INTEGER, _CONSTRUCTED = 2, 0x20  # tags of DER
_MAX_ITERATIONS = 5_000_000  # take three seconds; OWASP recommends 600,000 of PBKDF2-SHA256
_NO_PASSWORD = f"it is encrypted, and {PASSWORD} is not set"
_WRONG_PASSWORD = f"its password is not the one in {PASSWORD}"
_SCRYPT_COSTS = tuple((1 << power, 8, 1) for power in (15, 16, 17))


class _Unusable(Exception):
    """Why a key cannot be used."""


def private_key(path: Path) -> Any:  # noqa: ANN401  # slow to import
    """Return a private key, decrypted with the password in COSIGN_PASSWORD if needed.

    Raises BadKey.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        load_der_private_key,
        load_pem_private_key,
    )

    password = os.environb.get(PASSWORD.encode(), b"")
    try:
        text = read_file(path, MAX_KEY)
        if any(label.encode() in text for label in _COSIGN):
            key = load_der_private_key(_cosign_key(text, password), None)
        elif b"ENCRYPTED" in text:
            _demand_password(text, password)
            key = load_pem_private_key(text, password)
        else:
            key = load_pem_private_key(text, None)
    except OSError as error:
        raise BadKey(path=path, reason=reason_of(error)) from error
    except _Unusable as error:
        raise BadKey(path=path, reason=str(error)) from error
    except (*BROKEN, UnsupportedAlgorithm) as error:
        wrong = "Incorrect password" in str(error)
        reason = _WRONG_PASSWORD if wrong else "it is not a private key in PEM, or is damaged"
        raise BadKey(path=path, reason=reason, details=reason_of(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise BadKey(path=path, reason="it is not of the curve P-256")
    return key


def _cosign_key(text: bytes, password: bytes) -> bytes:
    """Return the PKCS #8 key in cosign's own encrypted file.

    Raises _Unusable, or the errors of reading a document.
    """
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    document = load_json(base64.b64decode(b"".join(text.strip().splitlines()[1:-1])))
    kdf, cipher = document["kdf"], document["cipher"]
    if (kdf["name"], cipher["name"]) != ("scrypt", "nacl/secretbox"):
        message = f"it is encrypted with {kdf['name']} and {cipher['name']}, not as cosign does it"
        raise _Unusable(message)
    cost = kdf["params"]
    if (cost["N"], cost["r"], cost["p"]) not in _SCRYPT_COSTS:
        message = "its scrypt parameters are none that cosign uses"
        raise _Unusable(message)
    secret = hashlib.scrypt(
        password,
        salt=base64.b64decode(kdf["salt"]),
        n=cost["N"],
        r=cost["r"],
        p=cost["p"],
        maxmem=256 * cost["N"] * cost["r"],
        dklen=32,
    )
    try:
        ciphertext = base64.b64decode(document["ciphertext"])
        return SecretBox(secret).decrypt(ciphertext, base64.b64decode(cipher["nonce"]))
    except CryptoError as error:
        raise _Unusable(_WRONG_PASSWORD if password else _NO_PASSWORD) from error


def _demand_password(text: bytes, password: bytes) -> None:
    """Require a password for an encrypted PEM, and limit the cost of checking it to seconds.

    Raises _Unusable or ValueError.
    """
    if not password:
        raise _Unusable(_NO_PASSWORD)
    for body in _ENCRYPTED_PEM.findall(text):
        [key, *_] = _der_values(base64.b64decode(body))
        [algorithm, *_] = _der_values(key[1])
        if _SCRYPT in algorithm[1]:
            message = "its password is hashed with scrypt; use PBKDF2: openssl pkcs8 -topk8"
            raise _Unusable(message)
        if max(_der_integers(algorithm[1]), default=0) > _MAX_ITERATIONS:
            message = f"its password is hashed more than {_MAX_ITERATIONS} times"
            raise _Unusable(message)


def _der_integers(data: bytes) -> Iterator[int]:
    for tag, content in _der_values(data):
        if tag == _INTEGER:
            yield int.from_bytes(content, "big")
        elif tag & _CONSTRUCTED:
            yield from _der_integers(content)


def _der_values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each value in DER; raises ValueError or IndexError."""
    while data:
        tag, size, at = data[0], data[1], 2
        if size & 0x80:
            at += size & 0x7F
            size = int.from_bytes(data[2:at], "big")
        if at + size > len(data):
            message = "a part of it lies beyond its end"
            raise ValueError(message)
        yield tag, data[at : at + size]
        data = data[at + size :]


def public_key(content: bytes, path: Path) -> Any:  # noqa: ANN401  # slow to import
    """Return the public key in a PEM that was read from ``path``; raises BadKey."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        is_private = b"PRIVATE KEY-----" in content
        reason = (
            "it is a private key, not the public one"
            if is_private
            else "it is not a public key in PEM"
        )
        raise BadKey(path=path, reason=reason, details=str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise BadKey(path=path, reason="it is not of the curve P-256")
    return key


def pem(public: Any) -> bytes:  # noqa: ANN401  # slow to import
    """Return a public key as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    text: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text


def fingerprint(public: Any) -> bytes:  # noqa: ANN401  # slow to import
    """Return the sha256 of a public key in DER."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()
