"""Wrap the prose of a Markdown text."""

import re
import textwrap
from itertools import groupby

_WIDTH = 80  # characters, as a terminal has
_ITEM = re.compile(r"\s*(?:-|\d+\.) +")
_CODE = re.compile(r"`[^`]*`")
_GLUE = "\0"  # stands for a space that must stay


def wrapped(text: str) -> str:
    """Return a text whose paragraphs and list items have lines of at most 80 characters.

    Headings and blocks of code stay as they are, and no line ends within code. Indented lines are
    of the list item above them.
    """
    made: list[str] = []
    in_code = False
    for is_blank, group in groupby(text.splitlines(), lambda line: not line.strip()):
        lines: list[str] = []
        for line in group:
            is_fence = line.lstrip().startswith("```")
            if is_blank or in_code or is_fence or line.startswith("#"):
                made += [*_paragraph(lines), line]
                lines = []
                in_code ^= is_fence
                continue
            if _ITEM.match(line):
                made += _paragraph(lines)
                lines = []
            lines.append(line)
        made += _paragraph(lines)
    return "\n".join(made) + "\n"


def _paragraph(lines: list[str]) -> list[str]:
    if not lines:
        return []
    item = _ITEM.match(lines[0])
    indent = len(item[0]) if item else len(lines[0]) - len(lines[0].lstrip())
    start = item[0] if item else " " * indent
    rest = " ".join(line.strip() for line in [lines[0][len(start) :], *lines[1:]])
    glued = _CODE.sub(lambda code: code[0].replace(" ", _GLUE), rest)
    wrapped_lines = textwrap.wrap(
        glued,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_GLUE, " ") for line in wrapped_lines]
