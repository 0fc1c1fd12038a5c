"""Write times as people read them."""

from datetime import datetime, timedelta

from kbuild.base.values import day
from kbuild.base.words import counted

_DAY, _YEAR = 24 * 3600, 365 * 24 * 3600  # seconds; a year as kubeadm has it
_UNITS = {"h": "hour", "d": "day", "y": "year"}


def left(time: timedelta) -> str:
    """Return a time in its largest unit, rounded down: ``99y``, ``364d``, ``5h``, ``-3d``."""
    seconds = abs(time.total_seconds())
    sign = "-" if time < timedelta() else ""
    if seconds >= 2 * _YEAR:
        return f"{sign}{seconds // _YEAR:.0f}y"
    if seconds >= 2 * _DAY:
        return f"{sign}{seconds // _DAY:.0f}d"
    return f"{sign}{seconds // 3600:.0f}h"


def in_words(time: timedelta) -> str:
    """Return a time to a certificate's end as ``364 days left`` or ``expired 3 days ago``."""
    return f"{_amount(time)} left" if time >= timedelta() else f"expired {_amount(-time)} ago"


def minute(moment: datetime) -> str:
    """Return a UTC moment as 2026-01-31 12:00 UTC."""
    return f"{day(moment)} {moment:%H:%M} UTC"


def _amount(time: timedelta) -> str:
    short = left(time)
    return counted(int(short[:-1]), _UNITS[short[-1]])
