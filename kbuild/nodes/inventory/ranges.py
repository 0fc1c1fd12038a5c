"""Names of hosts with ranges, such as ``node[01:20].example.org`` and ``db[a:f]:2222``."""

import re
from string import ascii_letters

MOST = 10_000  # hosts of one line
_COLONS = 3  # a range has two, with a step
_RANGE = re.compile(r"\[([^\[\]]*)\]")
_BRACKETED = re.compile(r"\[([^\[\]]+)\]:([0-9]{1,5})", re.ASCII)
_WITH_PORT = re.compile(r"((?:[^:\[\]]|\[[^\[\]]*\])+):([0-9]{1,5})", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


def expand(pattern: str) -> tuple[list[str], str]:
    """Return the names that a pattern of Ansible stands for, and its port, which may be empty.

    Raises ValueError with the reason. The rules are those of ansible/plugins/inventory/__init__.py
    and ansible/parsing/utils/addresses.py (v2.16).
    """
    found = _BRACKETED.fullmatch(pattern)
    if found and _is_address(found[1]):
        return [found[1]], found[2]
    found = _WITH_PORT.fullmatch(pattern)
    pattern, port = (found[1], found[2]) if found else (pattern, "")
    if pattern.endswith(":"):
        message = f"no port follows the colon of {ascii(pattern)[:80]}"
        raise ValueError(message)
    return _expand(pattern), port


def _is_address(text: str) -> bool:
    """Tell whether this is not a range: ``[::1]:22`` is an address with a port."""
    return text.count(":") >= _COLONS or "::" in text or ":" not in text


def _expand(pattern: str) -> list[str]:
    names = [""]
    end = 0
    for found in _RANGE.finditer(pattern):
        words = _words(found[1])
        if len(names) * len(words) > MOST:
            message = f"a range stands for more than {MOST} hosts"
            raise ValueError(message)
        before = pattern[end : found.start()]
        names = [f"{name}{before}{word}" for name in names for word in words]
        end = found.end()
    if any(c in "[]" for c in _RANGE.sub("", pattern)):
        message = f"a bracket in {ascii(pattern)[:80]} is not closed"
        raise ValueError(message)
    return [name + pattern[end:] for name in names]


def _words(text: str) -> list[str]:
    bounds = text.split(":")
    message = f"[{ascii(text)[1:-1][:80]}] is not a range such as [01:20], [a:f] or [0:20:2]"
    if len(bounds) not in (2, 3):
        raise ValueError(message)
    first, last, step = bounds[0] or "0", bounds[1], int(_digits(bounds[2:] or ["1"], message))
    if step < 1:
        raise ValueError(message)
    if len(first) == len(last) == 1 and first in ascii_letters and last in ascii_letters:
        words = list(ascii_letters[ascii_letters.index(first) : ascii_letters.index(last) + 1])
        words = words[::step]
    else:
        words = _numbers(_digits([first], message), _digits([last], message), step)
    if not words:
        message = f"the range [{text}] is empty"
        raise ValueError(message)
    return words


def _digits(texts: list[str], message: str) -> str:
    if not _NUMBER.fullmatch(texts[0]):
        raise ValueError(message)
    return texts[0]


def _numbers(first: str, last: str, step: int) -> list[str]:
    width = len(first) if first.startswith("0") and len(first) > 1 else 0
    if width and width != len(last):
        message = f"the range [{first}:{last}] needs bounds of the same length"
        raise ValueError(message)
    numbers = range(int(first), int(last) + 1, step)
    if len(numbers) > MOST:
        message = f"a range stands for more than {MOST} hosts"
        raise ValueError(message)
    return [str(number).zfill(width) for number in numbers]
