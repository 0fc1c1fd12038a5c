"""Parse untrusted JSON: one meaning for every reader, and limited depth."""

import json
import re
from collections import Counter
from typing import Any

_MAX_DEPTH = 32  # a release's own documents have about ten levels
# Strings are skipped. The last one may have no end, so that no part of it is read twice.
_MARKS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)


def load_json(text: bytes) -> Any:  # noqa: ANN401  # as json.loads
    """Parse a JSON document.

    A duplicate key in an object is refused: readers choose differently, so one value could be
    checked and the other used. Raises ValueError.
    """
    _check_depth(text)
    return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)


def _check_depth(text: bytes) -> None:
    depth = 0
    for mark in _MARKS.finditer(text):
        depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(mark[0], 0)
        if depth > _MAX_DEPTH:
            message = f"it is nested deeper than {_MAX_DEPTH} levels"
            raise ValueError(message)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        message = f"it has the key {twice!r} twice in one object"
        raise ValueError(message)
    return found


def _refuse(constant: str) -> None:
    message = f"{constant} is not JSON"
    raise ValueError(message)
