"""PKCS#11 URIs, which name a key on a token (RFC 7512)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from kbuild.base.values import did_you_mean
from kbuild.pki.errors import BadKeyUri

SCHEME = "pkcs11:"
PIN = "PKCS11_PIN"  # the name of the variable of the environment
TOKEN_PARTS = (
    *("token", "manufacturer", "serial", "model"),
    *("slot-id", "slot-description", "slot-manufacturer"),
    *("library-manufacturer", "library-description", "library-version"),
)
_PATH = (*TOKEN_PARTS, "object", "type", "id")
_QUERY = ("pin-source", "pin-value", "module-name", "module-path")
# pk11-pchar and pk11-qchar of section 2.3: what may stand there without a percent sign.
_VALUE = {
    "": re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=&-]|%[0-9A-Fa-f]{2})*", re.ASCII),
    "?": re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=/?|-]|%[0-9A-Fa-f]{2})*", re.ASCII),
}
_ENCODE = "write other characters with a percent sign, such as %20 for a space"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUri:
    """A private key on a token; what is empty or None is not asked for.

    ``token`` holds the parts that tell which token it is. ``module`` and ``pin_source`` are files.
    There is no PIN in it.
    """

    text: str
    token: tuple[tuple[str, str], ...] = ()
    label: str = ""
    id: bytes = b""
    module: Path | None = None
    pin_source: Path | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def key(self) -> tuple[object, ...]:
        """Return what tells which key it is, however the URI is written."""
        return self.token, self.label, self.id, self.module


def key_uri(text: str, where: str) -> KeyUri:
    """Parse the PKCS#11 URI of a private key; ``where`` tells who wrote it. Raises BadKeyUri.

    Neither the error nor the result has a PIN in it: a URI that has one is refused.
    """
    if not text.lower().startswith(SCHEME):
        hint = "write it like pkcs11:token=NAME;object=NAME"
        raise BadKeyUri(where=where, reason=f"it does not begin with {SCHEME}", hint=hint)
    path, _, query = text[len(SCHEME) :].partition("?")
    found = dict(_parts(path.split(";") if path else [], _PATH, "", where))
    asked = dict(_parts(query.split("&") if query else [], _QUERY, "?", where))
    _refuse(found, asked, where)
    module = asked.get("module-path")
    return KeyUri(
        text=text,
        token=tuple(
            (name, _text(found[name], name, where)) for name in TOKEN_PARTS if name in found
        ),
        label=_text(found.get("object", b""), "object", where),
        id=found.get("id", b""),
        module=_absolute(_text(module, "module-path", where), "module-path", where)
        if module
        else None,
        pin_source=_pin_source(_text(asked.get("pin-source", b""), "pin-source", where), where),
    )


def _parts(
    parts: list[str], known: tuple[str, ...], place: str, where: str
) -> Iterator[tuple[str, bytes]]:
    seen = set()
    for part in parts:
        name, equals, value = part.partition("=")
        if name not in known:
            hint = did_you_mean(name, known) or f"the attributes are {', '.join(known)}"
            # Not the part itself: it might be a half of a PIN.
            reason = f"it has an unknown attribute after {place or SCHEME}"
            raise BadKeyUri(where=where, reason=reason, hint=hint)
        if name in seen or not (equals and value):
            reason = f"{name} is there twice" if name in seen else f"{name} has no value"
            raise BadKeyUri(where=where, reason=reason, hint="give it once, with its value")
        if not _VALUE[place].fullmatch(value):
            reason = f"{name} has a character that cannot stand there"
            raise BadKeyUri(where=where, reason=reason, hint=_ENCODE)
        seen.add(name)
        yield name, unquote_to_bytes(value)


def _refuse(found: dict[str, bytes], asked: dict[str, bytes], where: str) -> None:
    if "pin-value" in asked:
        reason = "it holds a PIN, which others could read"
        hint = f"put the PIN into a file for pin-source or into the variable {PIN}, and change it"
        raise BadKeyUri(where=where, reason=reason, hint=hint)
    if "module-name" in asked:
        hint = "name its file: module-path=/usr/lib/…/module.so"
        raise BadKeyUri(where=where, reason="kbuild looks for no module by its name", hint=hint)
    if found.get("type", b"private") != b"private":
        reason = "its type is not private, and a CA signs with a private key"
        raise BadKeyUri(where=where, reason=reason, hint="leave out type, or write type=private")


def _text(value: bytes, name: str, where: str) -> str:
    try:
        found = value.decode()
    except UnicodeDecodeError as error:
        reason = f"{name} is not UTF-8"
        raise BadKeyUri(where=where, reason=reason, hint="correct it") from error
    if "\0" in found:
        raise BadKeyUri(where=where, reason=f"{name} has a NUL character", hint="remove it")
    return found


def _pin_source(text: str, where: str) -> Path | None:
    if not text:
        return None
    hint = "name a file: pin-source=file:/etc/kbuild/pin"
    if text.startswith("|"):
        raise BadKeyUri(where=where, reason="kbuild runs no program for a PIN", hint=hint)
    if not text.startswith("file:"):
        return _absolute(text, "pin-source", where)
    try:
        host, path = urlsplit(text).netloc, text.removeprefix("file:")
    except ValueError:
        host, path = "?", ""
    if host not in ("", "localhost"):
        raise BadKeyUri(where=where, reason="pin-source is on another machine", hint=hint)
    return _absolute(path.removeprefix(f"//{host}"), "pin-source", where)


def _absolute(text: str, name: str, where: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        hint = f"write it like {name}=/etc/…"
        raise BadKeyUri(where=where, reason=f"{name} is not an absolute path", hint=hint)
    return path
