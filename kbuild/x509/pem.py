"""Split PEM (RFC 7468) into its blocks, in a time that grows with the size only."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 #.]{1,40})-----")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of PEM with its two lines; ``text`` is empty if the second one is missing."""

    label: str
    text: bytes


def looks_like_pem(content: bytes) -> bool:
    """Tell whether a content has the first line of a block of PEM."""
    return b"-----BEGIN " in content


def split_pem(content: bytes) -> Iterator[Block]:
    """Yield the blocks of a content; what is between them is passed over."""
    label, start = "", -1
    for line in _LINE.finditer(content):
        name = line[2].decode()
        if line[1] == b"BEGIN":
            if start >= 0:
                yield Block(label=label, text=b"")
            label, start = name, line.start()
        elif start >= 0 and name == label:
            yield Block(label=label, text=content[start : line.end()])
            start = -1
    if start >= 0:
        yield Block(label=label, text=b"")
