"""Strategies that damage files: byte by byte, and by the structure of JSON."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

# As they stand in a document; most of them no Python value can stand for.
VALUES = (
    *("null", "true", "0", "-1", "1.5", "1e999", "NaN", "-Infinity", "9" * 4000, "9" * 5000),
    *('""', '"x"', '"\\ud800"', '"\\u0000"', '"\\u202e"', f'"{"x" * 5000}"', f'"1.{"9" * 5000}"'),
    *('"v1.20.2"', '"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59-23:59"', '"/dev/zero"'),
    *('"2026-01-02T12:00:00"', '"~nosuchuser/x"', '"AAAA"', '"../../x"', str(2**31), str(2**63)),
    *("[]", "{}", "[null]", "[[]]", '["amd64"]', '{"name": null}', '{"a": 1, "a": 2}'),
    *("[" * 30 + "]" * 30, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000, "[{}," * 3000),
)
BYTES = st.one_of(
    st.binary(max_size=8),
    st.sampled_from([b"\0", b"\xff" * 8, b"\xff\xfe", b"\n", b"\r", b"9" * 5000, b"\x80" * 40]),
    st.sampled_from([b"(" * 2000, b"[" * 2000, b"{a=" * 2000, b"a." * 2000, "ü\u2028".encode()]),
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Replace, insert, remove or repeat a few parts of a content."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        end = min(len(content), at + draw(st.sampled_from([0, 1, 2, 4, 8, 100, 2**30])))
        part = draw(st.one_of(BYTES, st.just(content[at:end] * 2), st.just(b"")))
        content = content[:at] + part + content[end:]
    return content


@st.composite
def restructured(draw: st.DrawFn, text: bytes) -> bytes:
    """Give values of a JSON document another type, or remove or repeat them."""
    document = json.loads(text)
    raw: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        holder, name = draw(st.sampled_from([*_places(document)]))
        match draw(st.sampled_from(["value", "value", "value", "remove", "repeat", "rename"])):
            case "value":
                raw.append(draw(st.sampled_from(VALUES)))
                holder[name] = f"@raw{len(raw) - 1}@"
            case "remove":
                del holder[name]
            case "repeat" if isinstance(holder, list):
                holder += [holder[name]] * draw(st.sampled_from([1, 3, 6000]))
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["", "x", "\ud800", "x" * 300]))] = holder.pop(name)
            case _:
                del holder[name]
        if not document:
            break
    changed = json.dumps(document)
    for number, value in enumerate(raw):
        changed = changed.replace(f'"@raw{number}@"', value)
    return changed.encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each list or object with each index or name in it."""
    names = range(len(value)) if isinstance(value, list) else [*value]
    for name in names:
        yield value, name
        if isinstance(value[name], dict | list):
            yield from _places(value[name])
