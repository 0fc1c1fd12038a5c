"""A token as python-pkcs11 shows one, with the keys of this process in it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag
from pkcs11.util.ec import decode_ec_public_key
from pkcs11.util.rsa import decode_rsa_public_key

from kbuild.x509.api import PrivateKey, der_of

MODULE = "/usr/lib/fake.so"
PIN = "1234"
_HASHES: dict[int, type[SHA256 | SHA384 | SHA512]] = {32: SHA256, 48: SHA384, 64: SHA512}
_INITIALIZED = TokenFlag.TOKEN_INITIALIZED | TokenFlag.LOGIN_REQUIRED


class _Object:
    """An object on a token: its attributes, as the library reads them."""

    def __init__(self, attributes: dict[Attribute, Any]) -> None:
        self.attributes = attributes
        self.id, self.label = attributes[Attribute.ID], attributes[Attribute.LABEL]
        self.key_type = attributes[Attribute.KEY_TYPE]

    def __getitem__(self, name: Attribute) -> Any:
        if name not in self.attributes:
            raise pkcs11.AttributeTypeInvalid
        return self.attributes[name]


class _Private(_Object, pkcs11.SignMixin):
    """A private key, which signs what PKCS#11 gives it: a DigestInfo, or a digest."""

    def __init__(self, attributes: dict[Attribute, Any], key: Any, token: "FakeToken") -> None:
        super().__init__(attributes)
        self.key, self.token = key, token

    def _sign(self, data: bytes, *_: Any, mechanism: Any = None, **more: Any) -> bytes:
        self.token.signatures += 1
        self.token.pins += [more["pin"]] if "pin" in more else []
        if self.token.fails is not None and self.token.signatures > self.token.fails_after:
            raise self.token.fails
        if isinstance(self.key, rsa.RSAPrivateKey):
            assert mechanism is Mechanism.RSA_PKCS
            digest = data[19:]
            made = self.key.sign(digest, padding.PKCS1v15(), Prehashed(_HASHES[len(digest)]()))
        else:
            assert mechanism is Mechanism.ECDSA
            made = _raw(self.key, data)
        return made[:-1] + bytes([made[-1] ^ 1]) if self.token.lies else made


def _raw(key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
    size = (key.key_size + 7) // 8
    der = key.sign(digest, ec.ECDSA(Prehashed(_HASHES[len(digest)]())))
    return b"".join(part.to_bytes(size, "big") for part in decode_dss_signature(der))


@dataclass
class FakeToken:
    """A token; ``fails`` is raised by each signature after the first ``fails_after`` ones."""

    label: str = "kb"
    serial: bytes = b"01"
    flags: TokenFlag = _INITIALIZED
    mechanisms: set[Mechanism] = field(
        default_factory=lambda: {Mechanism.RSA_PKCS, Mechanism.ECDSA}
    )
    fails: Exception | None = None
    fails_after: int = 0
    lies: bool = False
    manufacturer_id: str = "fake"
    model: str = "model 1"
    objects: list[_Object] = field(default_factory=list)
    tries: list[object] = field(default_factory=list)
    pins: list[str] = field(default_factory=list)
    signatures: int = 0
    closed: int = 0

    def hold(
        self, name: str, key: PrivateKey, id_: bytes = b"\1", *, shows: bool = True, **more: object
    ) -> None:
        """Put a key pair on the token, and only its private half if ``shows`` is false."""
        named = {Attribute.LABEL: name, Attribute.ID: id_}
        der = der_of(key.public_key())
        if isinstance(key, rsa.RSAPrivateKey):
            public = decode_rsa_public_key(_pkcs1(key))
        else:
            public = decode_ec_public_key(der)
        if shows:
            self.objects.append(_Object({**public, **named}))
        private = {**public, **named, Attribute.CLASS: ObjectClass.PRIVATE_KEY}
        always = bool(more.get("always"))
        private |= {Attribute.ALWAYS_AUTHENTICATE: always}
        if public[Attribute.KEY_TYPE] == KeyType.EC:
            del private[Attribute.EC_POINT]
        self.objects.append(_Private(private, key, self))

    @property
    def slot(self) -> SimpleNamespace:
        return SimpleNamespace(
            slot_id=int(self.serial),
            slot_description="a slot",
            manufacturer_id="fake",
            get_mechanisms=lambda: self.mechanisms,
            get_token=lambda: self,
        )

    def open(self, user_pin: object = None) -> "_Session":
        if user_pin is not None:
            self.tries.append(user_pin)
            if user_pin not in (PIN, pkcs11.PROTECTED_AUTH):
                raise pkcs11.PinIncorrect
        return _Session(self, is_user=user_pin is not None)


class _Session:
    def __init__(self, token: FakeToken, *, is_user: bool) -> None:
        self.token, self.is_user = token, is_user

    def __enter__(self) -> "_Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.token.closed += 1

    def get_objects(self, asked: dict[Attribute, Any]) -> Iterator[_Object]:
        for each in self.token.objects:
            is_private = isinstance(each, _Private)
            if (self.is_user or not is_private) and asked.items() <= each.attributes.items():
                yield each


def _pkcs1(key: rsa.RSAPrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)


def insert(patch: pytest.MonkeyPatch, *tokens: FakeToken) -> None:
    """Let a module have these tokens in its slots."""
    module = SimpleNamespace(
        so=MODULE,
        manufacturer_id="fake",
        library_description="fake module",
        library_version=(2, 6),
        get_slots=lambda token_present: [each.slot for each in tokens if token_present],
    )

    def lib(path: str) -> object:
        if path != MODULE:
            message = f"OS exception while loading {path}: {path}: cannot open"
            raise pkcs11.PKCS11Error(message)
        return module

    patch.setattr(pkcs11, "lib", lib)
