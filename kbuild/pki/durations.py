"""Durations as Go writes them, which the files of cfssl have."""

import re
from datetime import timedelta
from fractions import Fraction

_UNITS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),  # U+00B5
    "μs": Fraction(1, 10**6),  # U+03BC, which Go takes too
    "ms": Fraction(1, 10**3),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_PART = re.compile(r"(\d*\.?\d*)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_LONGEST = 100  # characters
_MOST = Fraction((1 << 63) - 1, 10**9)  # seconds; Go's time.Duration ends there, 292 years


def go_duration(text: str) -> timedelta:
    """Return a duration such as ``43800h`` or ``1h30m``; raises ValueError that says what it is.

    As time.ParseDuration of Go: a sequence of numbers with units up to hours. Parts of a
    microsecond are cut off. Negative ones are refused: no certificate ends before it begins.
    """
    rest, total = text.removeprefix("+"), Fraction(0)
    if len(text) > _LONGEST or not rest:
        raise ValueError(_why(text))
    if rest == "0":
        return timedelta()
    while rest:
        part = _PART.match(rest)
        if part is None or part[1] in ("", "."):
            raise ValueError(_why(text))
        total += (
            Fraction(part[1].rstrip(".") if part[1][0] != "." else f"0{part[1]}") * _UNITS[part[2]]
        )
        rest = rest[part.end() :]
    if total > _MOST:
        message = f"{text!r} is longer than the 292 years that Go's durations hold"
        raise ValueError(message)
    return timedelta(microseconds=int(total * 10**6))


def _why(text: str) -> str:
    if years := re.fullmatch(r"(\d{1,3}) ?y(?:ears?)?", text, re.ASCII):
        return f"{text!r} is no duration of Go, which has no years; write {int(years[1]) * 8760}h"
    if days := re.fullmatch(r"(\d{1,6}) ?d(?:ays?)?", text, re.ASCII):
        return f"{text!r} is no duration of Go, which has no days; write {int(days[1]) * 24}h"
    return f"{text[:_LONGEST]!r} is no duration of Go; write hours, such as 43800h for five years"


def go_text(lifetime: timedelta) -> str:
    """Return a duration as Go writes it: ``43800h``, and with what is left ``8760h5s``."""
    seconds = int(lifetime.total_seconds())
    parts = ((seconds // 3600, "h"), (seconds % 3600 // 60, "m"), (seconds % 60, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0"


def hours(lifetime: timedelta) -> str:
    """Return a lifetime for people: years of 365 days if it is whole ones, or else hours."""
    year, hour = timedelta(days=365), timedelta(hours=1)
    if lifetime >= year and lifetime % year == timedelta():
        count = lifetime // year
        return f"{count} year{'' if count == 1 else 's'}"
    if lifetime % hour == timedelta():
        return f"{lifetime // hour}h"
    return str(lifetime)
