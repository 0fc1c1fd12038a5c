"""Write times as people read them."""

from datetime import timedelta

_DAY, _YEAR = 24 * 3600, 365 * 24 * 3600  # seconds; a year as kubeadm has it


def left(time: timedelta) -> str:
    """Return a time in its largest unit, rounded down: ``99y``, ``364d``, ``5h``, ``-3d``."""
    seconds = abs(time.total_seconds())
    sign = "-" if time < timedelta() else ""
    if seconds >= 2 * _YEAR:
        return f"{sign}{seconds // _YEAR:.0f}y"
    if seconds >= 2 * _DAY:
        return f"{sign}{seconds // _DAY:.0f}d"
    return f"{sign}{seconds // 3600:.0f}h"
