"""Keys as sigstore uses them: a PEM of the curve P-256, or cosign's own encrypted file.

Formats of the latter: sigstore/sigstore, pkg/cryptoutils/privatekey.go, and
secure-systems-lab/go-securesystemslib, encrypted/encrypted.go.
"""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from kbuild.errors import BadKey

PASSWORD = "COSIGN_PASSWORD"  # the variable's name, which is cosign's
_COSIGN = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")


def private_key(path: Path) -> Any:  # noqa: ANN401  # slow to import
    """Return a private key; an encrypted one with the password in COSIGN_PASSWORD.

    Raises BadKey.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        load_der_private_key,
        load_pem_private_key,
    )

    password = os.environ.get(PASSWORD, "").encode()
    try:
        text = path.read_bytes()
        if any(label.encode() in text for label in _COSIGN):
            key = load_der_private_key(_cosign_key(text, password), None)
        else:
            encrypted = b"ENCRYPTED" in text
            key = load_pem_private_key(text, password if encrypted else None)
    except OSError as error:
        raise BadKey(path=path, reason=error.strerror) from error
    except (ValueError, KeyError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey(path=path, reason=error) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise BadKey(path=path, reason="it is not of the curve P-256")
    return key


def _cosign_key(text: bytes, password: bytes) -> bytes:
    """Return the PKCS #8 key in cosign's own encrypted file; raises ValueError."""
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    document = json.loads(base64.b64decode(b"".join(text.strip().splitlines()[1:-1])))
    kdf, cipher = document["kdf"], document["cipher"]
    if (kdf["name"], cipher["name"]) != ("scrypt", "nacl/secretbox"):
        message = f"it is encrypted with {kdf['name']} and {cipher['name']}"
        raise ValueError(message)
    cost = kdf["params"]
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
        message = f"its password is not the one in {PASSWORD}"
        raise ValueError(message) from error


def public_key(content: bytes, path: Path) -> Any:  # noqa: ANN401  # slow to import
    """Return the public key in a PEM that was read from ``path``; raises BadKey."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey(path=path, reason="it is no public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
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
