"""Take values out of a table of JSON or TOML: each key is known, each value of the right type."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.base.values import did_you_mean
from kbuild.pki.errors import BadPkiFile, UnknownPkiKey

_TYPES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    dict: "a table",
    list: "a list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """A table of a file; ``where`` tells which one, in messages."""

    path: Path
    where: str
    values: Mapping[str, Any]

    def text(self, name: str, default: str = "") -> str:
        """Return text, without spaces around it."""
        return str(self._value(name, str, default)).strip()

    def number(self, name: str, default: int = 0) -> int:
        """Return a whole number."""
        return int(self._value(name, int, default))

    def switch(self, name: str, default: bool = False) -> bool:  # noqa: FBT001, FBT002  # as the others
        """Return true or false."""
        return bool(self._value(name, bool, default))

    def texts(self, name: str, default: Iterable[str] = ()) -> tuple[str, ...]:
        """Return a list of texts."""
        found = self._value(name, list, list(default))
        for each in found:
            if not isinstance(each, str):
                raise self.bad(reason=f"{self.named(name)} must be a list of texts")
        return tuple(found)

    def table(self, name: str) -> Mapping[str, Any] | None:
        """Return a table inside this one, None if there is none."""
        found = self._value(name, dict, None)
        return found if isinstance(found, dict) else None

    def tables(self, name: str) -> list[Mapping[str, Any]]:
        """Return a list of tables."""
        found: list[Mapping[str, Any]] = self._value(name, list, [])
        for each in found:
            if not isinstance(each, dict):
                raise self.bad(reason=f"{self.named(name)} must be a list of tables")
        return found

    def named(self, name: str) -> str:
        """Return a key with its place, for messages."""
        return f"{self.where}.{name}".lstrip(".")

    def bad(
        self, reason: str, hint: str = "correct it, then run the same command again"
    ) -> BadPkiFile:
        """Return the error for a value that cannot be."""
        return BadPkiFile(path=self.path, reason=reason, hint=hint)

    def _value(self, name: str, kind: type, default: Any) -> Any:  # noqa: ANN401  # any JSON
        found = self.values.get(name)
        if found is None:  # also null, which Go leaves as it was
            return default
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise self.bad(reason=f"{self.named(name)} must be {_TYPES[kind]}")
        return found


def fields_of(
    path: Path, where: str, values: object, known: Iterable[str], *, ignores_case: bool = False
) -> Fields:
    """Return a table whose keys are all known; raises UnknownPkiKey or BadPkiFile.

    With ``ignores_case`` a key is told in any case, as Go's encoding/json does.
    """
    if not isinstance(values, dict):
        reason = f"{where or 'the document'} must be a table"
        raise BadPkiFile(path=path, reason=reason, hint="see docs/pki.md for an example")
    names = tuple(known)
    spelt = {name.lower(): name for name in names} if ignores_case else {n: n for n in names}
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = spelt.get(key.lower() if ignores_case else key)
        if name is None:
            close = did_you_mean(key, names) or f"the keys are {', '.join(names)}"
            place = f"key in {where}" if where else "key"
            raise UnknownPkiKey(path=path, where=place, name=key, suggestion=close)
        if name in found:
            reason = f"{where} has {name!r} twice, in two spellings".lstrip()
            raise BadPkiFile(path=path, reason=reason, hint="remove one of them")
        found[name] = value
    return Fields(path=path, where=where, values=found)
