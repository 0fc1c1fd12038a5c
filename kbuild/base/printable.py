"""Text of strangers as one line that may be shown: on a terminal, on a page, in a metric."""


def printable(text: str) -> str:
    """Return text in which every character that is not printable in Unicode is escaped.

    The escapes are those of Python. They replace control characters, which begin escape sequences,
    marks that reorder text, and lone surrogates, which stand for bytes that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
