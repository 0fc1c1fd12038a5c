"""Unified diffs that ``git apply`` and ``patch`` accept."""

import difflib
import io

_NO_NEWLINE = "\n\\ No newline at end of file\n"


def unified(before: str, after: str, old_name: str, new_name: str) -> str:
    """Return the difference of two texts, empty if there is none.

    Only line feeds end lines, as in these programs; Python's splitlines knows others too.
    """
    old, new = (io.StringIO(text, newline="\n").readlines() for text in (before, after))
    lines = difflib.unified_diff(old, new, old_name, new_name)
    return "".join(line if line.endswith("\n") else line + _NO_NEWLINE for line in lines)
