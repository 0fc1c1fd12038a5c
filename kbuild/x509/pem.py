"""Split PEM (RFC 7468) into its blocks, in a time that grows with the size only."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 #.]{1,40})-----")
# In small letters; the base64 of a certificate begins with MI.
_LIKE_BEGIN = re.compile(
    rb"begin[ \t]{1,8}[a-z0-9 #.]{0,40}?(?:certificate|pkcs7)(?! req)[^\n]{0,40}\n[ \t#>]{0,8}mi"
)


class Block(NamedTuple):
    """A block of PEM with its two lines; ``text`` is empty if one of them is missing."""

    label: str
    text: bytes


def looks_like_pem(content: bytes) -> bool:
    """Tell whether a content has a line of PEM, or a damaged first line of a certificate."""
    return b"-----BEGIN " in content or b"-----END " in content or _likely(content)


def has_pem(content: bytes) -> bool:
    """Tell whether a content has a block of PEM, of any kind."""
    return _LINE.search(content) is not None


def damaged_line(content: bytes) -> int:
    """Return the number of the first line that begins a certificate and is damaged; 0 for none.

    Such as one with four dashes or small letters. Programs pass over what it begins.
    """
    small = content.lower()
    if small.count(b"begin") == content.count(b"-----BEGIN CERTIFICATE-----"):
        return 0
    if b"certificate" not in small and b"pkcs7" not in small:  # a private key
        return 0  # which is far quicker than to look at each line, too
    intact = {line.start(1) for line in _LINE.finditer(content)}
    for line in _LIKE_BEGIN.finditer(small):
        if line.start() not in intact:
            return content.count(b"\n", 0, line.start()) + 1
    return 0


def _likely(content: bytes) -> bool:
    return _LIKE_BEGIN.search(content.lower()) is not None


def split_pem(content: bytes) -> Iterator[Block]:
    """Yield the blocks of a content; what is between them is passed over."""
    label, start = "", -1
    for line in _LINE.finditer(content):
        name = line[2].decode()
        if line[1] == b"BEGIN":
            if start >= 0:
                yield Block(label=label, text=b"")
            label, start = name, line.start()
        elif start < 0:
            yield Block(label=name, text=b"")
        elif name == label:
            yield Block(label=label, text=content[start : line.end()])
            start = -1
    if start >= 0:
        yield Block(label=label, text=b"")
