"""Numbers in messages."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 year``, ``2 years``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def years(number: int) -> str:
    """Return a number of years."""
    return counted(number, "year")
