"""Numbers and lists in messages."""

from collections.abc import Iterable, Sequence


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 year``, ``2 years``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def years(number: int) -> str:
    """Return a number of years."""
    return counted(number, "year")


def listed(words: Iterable[str]) -> str:
    """Return words as a list: ``a``, ``a and b``, ``a, b and c``; there must be one."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def shortened(words: Sequence[str], most: int, between: str = ", ") -> str:
    """Return the first words, and how many more there are: ``a, b and 3 more``."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return between.join(words[:most]) + more
