"""Parse the value of a setting: text from a flag or a variable, or any TOML value.

Each parser takes the origin of the value, and raises BadSetting that names it.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kbuild.base.errors import BadSetting

Parse = Callable[[str, object], Any]

SIZE_UNITS = ("B", "kB", "MB", "GB", "TB")
EPOCH = datetime.fromtimestamp(0, UTC)
_SECONDS = {"h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600, "y": 365 * 24 * 3600}
_SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def text(name: str, value: object) -> str:
    """Parse text, which must not be empty."""
    if isinstance(value, str) and not value.strip():
        reason, hint = "it is empty", "give a value, or leave it out"
        raise BadSetting(name=name, value=value, reason=reason, hint=hint)
    if not isinstance(value, str):
        hint = "put it in quotes" if isinstance(value, int | float) else "see --help"
        raise BadSetting(name=name, value=value, reason="it must be text", hint=hint)
    if "\0" in value:
        reason, hint = "it contains a NUL character", "remove it"
        raise BadSetting(name=name, value=value, reason=reason, hint=hint)
    return value.strip()


def address(name: str, value: object) -> str:
    """Parse an address; kbuild could not find and hide a password with a space."""
    found = text(name, value)
    # git's user@host:path may contain a password too; a local path has a slash before any @.
    with_user = "://" in found or "@" in found.partition("/")[0]
    if with_user and re.search(r"[\s\\]", found):
        reason, hint = "an address cannot contain a space or a backslash", "write a space as %20"
        raise BadSetting(name=name, value="…", reason=reason, hint=hint)
    if "://" in found:
        try:
            _ = urlsplit(found).port
        except ValueError as error:  # brackets without an end, or a port that is none
            reason, hint = "it is not a valid address", "for example https://host:8443/path"
            raise BadSetting(name=name, value="…", reason=reason, hint=hint) from error
    return found


def address_or_path(name: str, value: object) -> str:
    """Parse an address, or a path on this machine."""
    found = address(name, value)
    if found.startswith("~"):
        path(name, found)
    return found


def path(name: str, value: object) -> Path:
    """Parse a path; ``~`` is expanded."""
    try:
        found = Path(text(name, str(value) if isinstance(value, Path) else value)).expanduser()
        os.fsencode(found)
    except RuntimeError:
        reason, hint = "there is no such user", "write the complete path"
    except UnicodeEncodeError:
        reason, hint = "the locale cannot encode it", "set LC_ALL to a locale with UTF-8"
    else:
        return found
    raise BadSetting(name=name, value=value, reason=reason, hint=hint)


def day(utc: datetime) -> str:
    """Return the date of a UTC moment, such as 2026-01-31."""
    return utc.date().isoformat()


def rfc3339(utc: datetime) -> str:
    """Return a UTC moment as RFC 3339 with whole seconds."""
    # strftime would write the year 1 as 1, without zeros.
    return f"{utc.replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def compact(utc: datetime) -> str:
    """Return a UTC moment as in names of files, such as 20260131T120000Z."""
    return utc.strftime("%Y%m%dT%H%M%SZ")


def switch(name: str, value: object) -> bool:
    """Parse a switch: true or false."""
    if isinstance(value, bool):
        return value
    word = str(value).lower() if isinstance(value, str) or value in (0, 1) else ""
    if word not in _SWITCH:
        reason, hint = "it must be true or false", "write true or false, without quotes"
        raise BadSetting(name=name, value=value, reason=reason, hint=hint)
    return _SWITCH[word]


def moment(name: str, value: object) -> datetime:
    """Parse a date and time with a time zone; the result is UTC in whole seconds."""
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        found = datetime.min  # noqa: DTZ901  # without a time zone, so it is refused below
    if found.tzinfo is None:
        raise BadSetting(
            name=name,
            value=value,
            reason="it must be a date and time with a time zone (RFC 3339)",
            hint="write it like 2026-01-31T12:00:00Z",
        )
    try:
        found = found.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        found = EPOCH - timedelta(days=1)
    if found < EPOCH:
        reason, hint = "it is out of range", "give a time between the years 1970 and 9999"
        raise BadSetting(name=name, value=value, reason=reason, hint=hint)
    return found


class Age(float):
    """An age in seconds, and as the user wrote it."""

    def __new__(cls, seconds: float, written: str) -> "Age":
        """Return an age, such as 86400 seconds that were written as ``1d``."""
        made = super().__new__(cls, seconds)
        made.written = written
        return made

    written: str


def age(name: str, value: object) -> Age:
    """Parse an age such as ``30d``; the result is in seconds."""
    written = value.strip() if isinstance(value, str) else ""
    if match := re.fullmatch(r"(\d{1,6})([hdwy])", written, re.ASCII):
        return Age(float(match[1]) * _SECONDS[match[2]], written)
    hint = "write it like 12h, 30d, 8w or 2y"
    raise BadSetting(name=name, value=value, reason="it must be an age", hint=hint)


def size(
    name: str, value: object, hint: str = "write it like 500MB or 5GB; 0B keeps nothing"
) -> int:
    """Parse a size such as ``5GB``; the result is in bytes."""
    units = {unit.lower(): 1000**power for power, unit in enumerate(SIZE_UNITS)}
    pattern = rf"(\d{{1,9}}(?:\.\d{{1,3}})?) ?({'|'.join(units)})"
    if isinstance(value, str) and (match := re.fullmatch(pattern, value.strip().lower(), re.ASCII)):
        return int(float(match[1]) * units[match[2]])
    raise BadSetting(name=name, value=value, reason="it must be a size", hint=hint)


def whole_number(unit: str, most: int, hint: str, *, least: int = 1) -> Parse:
    """Return a parser of whole numbers from ``least`` to ``most``."""

    def parse(name: str, value: object) -> int:
        digits = value if isinstance(value, int) and not isinstance(value, bool) else None
        if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip(), re.ASCII):
            digits = int(value)
        if digits is None or not least <= digits <= most:
            reason = f"it must be a whole number of {unit} from {least} to {most}"
            raise BadSetting(name=name, value=value, reason=reason, hint=hint)
        return digits

    return parse


@dataclass(frozen=True, slots=True)
class OneOf:
    """A parser that accepts only ``choices``, and replaces other names of them."""

    choices: tuple[str, ...]
    other_names: Mapping[str, str]

    def __call__(self, name: str, value: object) -> str:
        """Parse one of the choices."""
        found = text(name, value)
        found = self.other_names.get(found, found)
        if found not in self.choices:
            reason = f"it must be one of {', '.join(self.choices)}"
            hint = did_you_mean(found, self.choices) or "see --help"
            raise BadSetting(name=name, value=value, reason=reason, hint=hint)
        return found


def one_of(choices: Iterable[str], other_names: Mapping[str, str] | None = None) -> OneOf:
    """Return a parser that accepts only these words, and replaces other names of them."""
    return OneOf(tuple(choices), other_names or {})


def several(parse: Parse) -> Parse:
    """Return a parser of a list, or of text with commas; duplicates are removed."""

    def parse_all(name: str, value: object) -> tuple[Any, ...]:
        items = value if isinstance(value, list | tuple) else [value]
        if not items:
            raise BadSetting(name=name, value=value, reason="it must be a list", hint="see --help")
        for item in items:
            if isinstance(item, str) and "," in item and not all(map(str.strip, item.split(","))):
                reason, hint = "one of its commas has nothing before or after it", "remove a comma"
                raise BadSetting(name=name, value=item, reason=reason, hint=hint)
        single = [
            i for item in items for i in (item.split(",") if isinstance(item, str) else [item])
        ]
        return tuple(dict.fromkeys(parse(name, item) for item in single))

    return parse_all


def hexadecimal(*, least: int, most: int) -> Parse:
    """Return a parser of hexadecimal digits; the result is in lower case."""

    def parse(name: str, value: object) -> str:
        found = text(name, value).lower()
        if not re.fullmatch(rf"[0-9a-f]{{{least},{most}}}", found):
            digits = str(most) if least == most else f"{least} to {most}"
            reason = f"it must be {digits} hexadecimal digits"
            raise BadSetting(name=name, value=value, reason=reason, hint="copy all digits")
        return found

    return parse


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return a question that suggests the closest known word, or empty text."""
    close = difflib.get_close_matches(word, tuple(known), n=1, cutoff=0.7)
    return f"did you mean {prefix}{close[0]}?" if close else ""
