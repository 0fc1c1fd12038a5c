"""Durations as Go writes them, which Kubernetes stores: 8760h0m0s."""

import re
from datetime import timedelta

_PART = re.compile(r"(\d{1,9})(h|m|s)")
_UNITS = {"h": 3600, "m": 60, "s": 1}


def duration(text: str) -> timedelta | None:
    """Return a duration in hours, minutes and whole seconds; None if it is none."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    try:
        return timedelta(seconds=sum(int(number) * _UNITS[unit] for number, unit in parts))
    except OverflowError:
        return None


def as_go(lifetime: timedelta) -> str:
    """Return a lifetime in whole hours, the largest unit that Go knows."""
    return f"{round(lifetime / timedelta(hours=1))}h"
