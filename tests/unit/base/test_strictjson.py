import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.base.strictjson import load_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@given(value=VALUES, ascii_only=st.booleans())
def test_a_document_is_read_as_json_has_it(value: object, ascii_only: bool) -> None:
    assert load_json(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8")) == value


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 1}',
        b'[{"b": {"a": 1, "\\u0061": 2}}]',
        b"[" * 33 + b"]" * 33,
        b'{"a":' * 33 + b"1" + b"}" * 33,
        b"[NaN]",
        b"[-Infinity]",
        b'"\xff"',
        b"\xef\xbb\xbf1",
        b"",
    ],
)
def test_what_readers_could_understand_in_two_ways_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        load_json(text)


def test_brackets_in_text_are_no_depth() -> None:
    text = json.dumps({"a": "[" * 100 + '\\"' * 3 + "{" * 100}).encode()
    assert load_json(text) == json.loads(text)


@pytest.mark.slow
@pytest.mark.parametrize("part", [b'"', b'\\"', b'"\\', b"[],", b"]", b'{"a":'])
def test_a_megabyte_of_anything_takes_seconds(part: bytes) -> None:
    begun = time.process_time()
    for before in (b"", b'"', b"["):
        with pytest.raises(ValueError, match=r"\w"):
            load_json(before + part * (2**20 // len(part)))
    assert time.process_time() - begun < 5
