"""Sign with keys on PKCS#11 tokens. Only this module talks to them, through python-pkcs11.

A PIN is tried once: after some wrong ones a token locks itself.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kbuild.base.errors import KbuildError
from kbuild.base.files import read_file, reason_of
from kbuild.base.words import counted
from kbuild.pki.errors import (
    BadPinFile,
    KeyNotCertain,
    KeyNotOnToken,
    MechanismMissing,
    ModuleNotLoaded,
    ModuleNotNamed,
    NoPin,
    PinLocked,
    Pkcs11ExtraMissing,
    PublicKeyNotFound,
    TokenFailed,
    TokenKeyNotUsable,
    TokenNotCertain,
    TokenNotThere,
    TokenRemoved,
    WrongPin,
)
from kbuild.pki.key_uris import PIN, KeyUri
from kbuild.x509.api import (
    Foreign,
    ForeignPublicKey,
    PrivateKey,
    der_of,
    foreign_key,
    foreign_public,
)

if TYPE_CHECKING:
    import pkcs11

Ask = Callable[[str], str | None]
_MAX_PIN = 1024  # bytes
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH
_PARTS: dict[str, Callable[[Any, Any], object]] = {
    "token": lambda _, token: token.label,
    "manufacturer": lambda _, token: token.manufacturer_id,
    "serial": lambda _, token: token.serial.decode(errors="replace").rstrip(),
    "model": lambda _, token: token.model,
    "slot-id": lambda _, token: token.slot.slot_id,
    "slot-description": lambda _, token: token.slot.slot_description,
    "slot-manufacturer": lambda _, token: token.slot.manufacturer_id,
    "library-manufacturer": lambda module, _: module.manufacturer_id,
    "library-description": lambda module, _: module.library_description,
    "library-version": lambda module, _: ".".join(map(str, module.library_version)),
}


@dataclass(slots=True)
class _Open:
    """A token that is logged in to."""

    token: "pkcs11.Token"
    session: "pkcs11.Session"
    pin: str = field(repr=False)


class Tokens:
    """The tokens of a run, each opened when it is needed, and closed at the end.

    ``module`` is that of URIs that name none. ``ask`` asks a person for a PIN, and returns None if
    nobody can answer. ``warn`` gets what a person should know. All methods raise an error of
    kbuild.pki.errors.
    """

    def __init__(
        self,
        module: Path | None = None,
        ask: Ask = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._module, self._ask, self._warn = module, ask, warn
        self._opened: dict[tuple[str, int], _Open] = {}
        self._keys: dict[KeyUri, PrivateKey] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self._opened.values():
            with contextlib.suppress(Exception):  # it may have been removed
                each.session.close()
        self._opened.clear()
        self._keys.clear()

    def key(self, uri: KeyUri) -> PrivateKey:
        """Return the private key that a URI names; it signs on the token."""
        _demand_library()
        if uri not in self._keys:
            with _telling(uri):
                self._keys[uri] = self._key(uri)
        return self._keys[uri]

    def public_key(self, uri: KeyUri) -> bytes:
        """Return the DER of the public half, as CertificateFacts.public_key. No PIN is asked for.

        Raises PublicKeyNotFound also if a token shows it only to those who have the PIN.
        """
        _demand_library()
        with _telling(uri), self._token(uri)[1].open() as session:
            return der_of(_public(uri, session, uri.id, uri.label))

    def _key(self, uri: KeyUri) -> PrivateKey:
        import pkcs11

        opened = self._open(uri)
        key = _private(uri, opened.session)
        public = _public(uri, opened.session, key.id, key.label, key)
        is_rsa = key.key_type == pkcs11.KeyType.RSA
        mechanism = pkcs11.Mechanism.RSA_PKCS if is_rsa else pkcs11.Mechanism.ECDSA
        if mechanism not in opened.token.slot.get_mechanisms():
            raise MechanismMissing(token=opened.token.label, mechanism=f"CKM_{mechanism.name}")
        if not isinstance(key, pkcs11.SignMixin):
            raise TokenKeyNotUsable(uri=uri, reason="it may not sign (CKA_SIGN)")
        pin = {"pin": opened.pin} if opened.pin and _asks_always(key) else {}

        def sign(data: bytes) -> bytes:
            with _telling(uri):
                return key.sign(data, mechanism=mechanism, **pin)

        wrong = TokenFailed(uri=uri, reason="its signature does not fit its public key")
        return foreign_key(Foreign(public=public, sign=sign, wrong=wrong))

    def _open(self, uri: KeyUri) -> _Open:
        """Return the token of a URI, after logging in to it."""
        import pkcs11

        module, token = self._token(uri)
        place = module.so, token.slot.slot_id
        if place not in self._opened:
            pin = self._pin(uri, token)
            has_pad = pkcs11.TokenFlag.PROTECTED_AUTHENTICATION_PATH in token.flags
            asks = pkcs11.TokenFlag.LOGIN_REQUIRED in token.flags
            if asks and has_pad and not pin:
                self._warn(f"enter the PIN at the token {token.label} itself")
            given = (pin or pkcs11.PROTECTED_AUTH) if asks else None
            try:
                session = token.open(user_pin=given)
            except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange):
                raise WrongPin(token=token.label, source=_source(uri)) from None
            self._opened[place] = _Open(token=token, session=session, pin=pin)
        return self._opened[place]

    def _token(self, uri: KeyUri) -> "tuple[Any, pkcs11.Token]":
        """Return the module of a URI, and the only token that is the one of the URI."""
        module = self._load(uri)
        found = [each for each in _tokens(module) if _is_that(module, each, uri)]
        if not found:
            others = ", ".join(each.label or "one without a name" for each in _tokens(module))
            raise TokenNotThere(uri=uri, others=others or "none")
        if len(found) > 1:
            serials = ", ".join(each.serial.decode(errors="replace").rstrip() for each in found)
            raise TokenNotCertain(uri=uri, serials=serials)
        return module, found[0]

    def _load(self, uri: KeyUri) -> Any:  # noqa: ANN401  # pkcs11.lib is a function at run time
        import pkcs11

        path = uri.module or self._module
        if path is None:
            raise ModuleNotNamed(uri=uri)
        if path != self._module:
            path = _trusted(path)
        try:
            return pkcs11.lib(str(path))
        except pkcs11.PKCS11Error as error:
            said = str(error).removeprefix(f"OS exception while loading {path}: ")
            reason = said or f"it answers {type(error).__name__}"
            raise ModuleNotLoaded(path=path, reason=reason) from error

    def _pin(self, uri: KeyUri, token: "pkcs11.Token") -> str:
        """Return the PIN, empty if the token wants none or asks for it itself."""
        import pkcs11

        flags, known = token.flags, pkcs11.TokenFlag
        if known.LOGIN_REQUIRED not in flags:
            return ""
        if known.USER_PIN_LOCKED in flags:
            raise PinLocked(token=token.label, reason="is locked")
        if known.USER_PIN_FINAL_TRY in flags:
            raise PinLocked(token=token.label, reason="has one try left before it is locked")
        if known.USER_PIN_COUNT_LOW in flags:
            self._warn(f"the token {token.label} was given a wrong PIN; some more lock it")
        if uri.pin_source is not None:
            return _pin_of(uri.pin_source)
        if given := os.environ.get(PIN, ""):
            return given
        if known.PROTECTED_AUTHENTICATION_PATH in flags:
            return ""
        if pin := self._ask(f"PIN of the token {token.label}"):
            return pin
        raise NoPin(token=token.label, variable=PIN)


def _demand_library() -> None:
    """Check that python-pkcs11 is installed; raises Pkcs11ExtraMissing."""
    try:
        import pkcs11  # noqa: F401  # that it can be imported
    except ImportError as error:
        raise Pkcs11ExtraMissing(library="python-pkcs11") from error


def _tokens(module: Any) -> "Iterator[pkcs11.Token]":  # noqa: ANN401  # as above
    import pkcs11

    for slot in module.get_slots(token_present=True):
        with contextlib.suppress(pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
            token = slot.get_token()
            if pkcs11.TokenFlag.TOKEN_INITIALIZED in token.flags:
                yield token


def _is_that(module: Any, token: "pkcs11.Token", uri: KeyUri) -> bool:  # noqa: ANN401  # as above
    return all(str(_PARTS[name](module, token)) == value for name, value in uri.token)


def _trusted(path: Path) -> Path:
    """Return the file of a module that a URI names, without links: kbuild runs its code.

    Raises ModuleNotLoaded if others than root can change it or put another one in its place. A
    sticky directory does not help: others can still make the name before root does.
    """
    real = Path(os.path.realpath(path))
    try:
        found = [(each, each.stat()) for each in (real, *real.parents)]
    except OSError as error:
        raise ModuleNotLoaded(path=path, reason=reason_of(error)) from error
    for each, status in found:
        if status.st_uid != 0 or status.st_mode & _WRITABLE:
            which = "it" if each == real else f"the directory {each}"
            reason = f"a URI named it, and {which} does not belong to root alone"
            raise ModuleNotLoaded(path=path, reason=reason)
    return real


def _pin_of(path: Path) -> str:
    try:
        mode, content = path.stat().st_mode, read_file(path, _MAX_PIN)
        pin = content.decode().removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        reason = "it is not UTF-8" if isinstance(error, ValueError) else reason_of(error)
        raise BadPinFile(path=path, reason=reason) from None
    if mode & stat.S_IROTH:
        raise BadPinFile(path=path, reason="everybody may read it")
    if not pin or "\n" in pin:
        raise BadPinFile(path=path, reason="it is not one line")
    return pin


def _source(uri: KeyUri) -> str:
    if uri.pin_source is not None:
        return str(uri.pin_source)
    return f"the variable {PIN}" if os.environ.get(PIN) else "the prompt"


def _private(uri: KeyUri, session: "pkcs11.Session") -> "pkcs11.PrivateKey":
    import pkcs11

    found = _objects(session, pkcs11.ObjectClass.PRIVATE_KEY, uri.id, uri.label)
    if not found:
        raise KeyNotOnToken(uri=uri)
    if len(found) > 1:
        raise KeyNotCertain(uri=uri, count=counted(len(found), "private key"))
    key: pkcs11.PrivateKey = found[0]
    return key


def _objects(session: "pkcs11.Session", kind: Any, id_: bytes, label: str) -> list[Any]:  # noqa: ANN401  # an enum of pkcs11
    import pkcs11

    asked = {pkcs11.Attribute.ID: id_, pkcs11.Attribute.LABEL: label}
    given = {name: value for name, value in asked.items() if value}
    return list(session.get_objects({pkcs11.Attribute.CLASS: kind, **given}))


def _public(
    uri: KeyUri,
    session: "pkcs11.Session",
    id_: bytes,
    label: str,
    private: Any = None,  # noqa: ANN401  # pkcs11.PrivateKey
) -> ForeignPublicKey:
    """Return the public key of a private one: what the token has with its identifiers.

    A private RSA key says itself what its public half is.
    """
    import pkcs11
    from pkcs11.util.ec import encode_ec_public_key
    from pkcs11.util.rsa import encode_rsa_public_key

    is_rsa = private is not None and private.key_type == pkcs11.KeyType.RSA
    kind = pkcs11.ObjectClass.PUBLIC_KEY
    found = [private] if is_rsa else _objects(session, kind, id_, label)
    if len(found) != 1:
        raise PublicKeyNotFound(uri=uri, count=counted(len(found), "public key"))
    try:
        match found[0].key_type:
            case pkcs11.KeyType.RSA:
                der = encode_rsa_public_key(found[0])
            case pkcs11.KeyType.EC:
                der = encode_ec_public_key(found[0])
            case other:
                message = f"it is of the kind {getattr(other, 'name', other)}"
                raise ValueError(message)
        return foreign_public(der)
    except ValueError as error:
        raise TokenKeyNotUsable(uri=uri, reason=str(error)) from error


def _asks_always(key: "pkcs11.PrivateKey") -> bool:
    """Tell whether a key wants the PIN for each signature, as that of a PIV card for signatures."""
    import pkcs11

    try:
        return bool(key[pkcs11.Attribute.ALWAYS_AUTHENTICATE])
    except pkcs11.PKCS11Error:
        return False


@contextlib.contextmanager
def _telling(uri: KeyUri) -> Iterator[None]:
    """Turn an error of python-pkcs11 into one of kbuild.pki.errors."""
    try:
        yield
    except KbuildError:
        raise
    except Exception as error:
        raise _told(uri, error) from error


def _told(uri: KeyUri, error: Exception) -> Exception:
    import pkcs11

    name = type(error).__name__
    match error:
        case pkcs11.DeviceRemoved() | pkcs11.TokenNotPresent() | pkcs11.SessionHandleInvalid():
            return TokenRemoved(uri=uri)
        case pkcs11.SessionClosed() | pkcs11.ObjectHandleInvalid() | pkcs11.SlotIDInvalid():
            return TokenRemoved(uri=uri)
        case pkcs11.PinLocked() | pkcs11.PinExpired() | pkcs11.UserPinNotInitialized():
            states = {"PinLocked": "is locked", "PinExpired": "has expired"}
            return PinLocked(token=_name_of(uri), reason=states.get(name, "was never set"))
        case pkcs11.MechanismInvalid() | pkcs11.FunctionNotSupported():
            return MechanismMissing(token=_name_of(uri), mechanism="signing with this key")
        case pkcs11.PKCS11Error():
            reason = f"it answers {name}" + (f" ({error})" if str(error) else "")
            return TokenFailed(uri=uri, reason=reason)
        case _:
            return error


def _name_of(uri: KeyUri) -> str:
    return dict(uri.token).get("token", str(uri))
