from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kbuild.config.yamltext import Argument, Value, load, put, rename, with_value

PATH = ("controllerManager", "extraArgs", "cluster-signing-duration")
LIST = PATH[:2]
NEW = Argument(name="cluster-signing-duration", value="876000h")

KEYS = st.sampled_from(["a", "apiServer", "certSANs", "controllerManager", "kind", "zone"])
SCALARS = st.one_of(
    st.sampled_from(["", "4m0s", "yes", "1e3", "2020-01-01", "a: b", "#", "- x", "line\nline\n"]),
    st.booleans(),
    st.integers(),
    st.none(),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8
)
MANAGERS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "extraArgs": st.none() | st.dictionaries(st.sampled_from(["v", PATH[2]]), SCALARS),
            "extraVolumes": VALUES,
        },
    ),
)
DOCUMENTS = st.fixed_dictionaries(
    {"kind": st.just("ClusterConfiguration")},
    optional={"controllerManager": MANAGERS, "apiServer": VALUES, "zone": VALUES},
)
STYLES = st.sampled_from([False, True, None])


@pytest.mark.slow
@given(document=DOCUMENTS, flow=STYLES, indent=st.integers(2, 6))
def test_a_value_is_put_and_nothing_else_changes(
    document: dict[str, Any], flow: bool | None, indent: int
) -> None:
    text = yaml.safe_dump(document, default_flow_style=flow, indent=indent)
    changes: list[tuple[tuple[str, ...], Value]] = [
        (PATH, "876000h"),
        (("certificateValidityPeriod",), "876000h"),
        (("serverTLSBootstrap",), True),
    ]
    for path, value in changes:
        text, document = put(text, path, value), with_value(document, path, value)
    assert load(text) == document


@pytest.mark.slow
@given(
    names=st.none() | st.lists(st.sampled_from(["v", "profiling", NEW.name]), unique=True),
    flow=STYLES,
    indent=st.integers(2, 6),
)
def test_an_argument_is_put_into_a_list(
    names: list[str] | None, flow: bool | None, indent: int
) -> None:
    given = None if names is None else [{"name": name, "value": "1"} for name in names]
    document: dict[str, Any] = {"controllerManager": {"extraArgs": given}, "kind": "X"}
    text = yaml.safe_dump(document, default_flow_style=flow, indent=indent)
    assert load(put(text, LIST, NEW)) == with_value(document, LIST, NEW)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: 1\nz: 2\n", "a: 1\nm: v\nz: 2\n"),
        ("a: 1  # why\n", "a: 1  # why\nm: v\n"),
        ("a: 1", "a: 1\nm: v"),
        ("# first\nz: 1\n", "# first\nm: v\nz: 1\n"),
        ("m: old # why\n", "m: v # why\n"),
        ("m:\n", "m: v\n"),
        ("m: 'old'\n", "m: v\n"),
        ('{"a": 1}', '{"m": "v", "a": 1}'),
        ("a:\n- 1\n", "m: v\na:\n- 1\n"),
    ],
)
def test_only_the_line_of_the_key_changes(before: str, after: str) -> None:
    assert put(before, ("m",), "v") == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("c: {}\n", "c:\n  m:\n    x: v\n"),
        ("c:\n", "c:\n  m:\n    x: v\n"),
        ("c: null\n", "c:\n  m:\n    x: v\n"),
        ("c:\n    z: 1\n", "c:\n    m:\n      x: v\n    z: 1\n"),
        ("c:\n  m: {y: 1}\n", 'c:\n  m: {"x": "v", y: 1}\n'),
        ("k: 1\n", "c:\n  m:\n    x: v\nk: 1\n"),
    ],
)
def test_missing_mappings_are_made(before: str, after: str) -> None:
    assert put(before, ("c", "m", "x"), "v") == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("c: {}\n", "c:\n  m:\n  - name: x\n    value: v\n"),
        ("c:\n  m: []\n", "c:\n  m:\n  - name: x\n    value: v\n"),
        ("c:\n  m:\n  - name: x\n    value: old\n", "c:\n  m:\n  - name: x\n    value: v\n"),
        (
            "c:\n  m:\n    - name: a\n      value: b\n",
            "c:\n  m:\n    - name: x\n      value: v\n    - name: a\n      value: b\n",
        ),
        ('{"c": {"m": []}}', '{"c": {"m": [{"name": "x", "value": "v"}]}}'),
        (
            "c: {m: [{name: a, value: b}]}\n",
            'c: {m: [{"name": "x", "value": "v"}, {name: a, value: b}]}\n',
        ),
    ],
)
def test_a_list_of_arguments_is_made_or_extended(before: str, after: str) -> None:
    assert put(before, ("c", "m"), Argument(name="x", value="v")) == after


@pytest.mark.parametrize("head", ["|", "|-", ">-", "|2-", ">  # of old"])
@pytest.mark.parametrize("rest", ["", "- name: b\n  value: c\n", "\n# end\nd: 1\n"])
def test_a_block_of_lines_is_replaced_to_its_end(head: str, rest: str) -> None:
    text = f"c:\n- name: x\n  value: {head}\n    old\n{rest}"
    after = put(text, ("c",), Argument(name="x", value="v"))
    assert after == f"c:\n- name: x\n  value: v\n{rest}"


def test_an_option_gets_its_new_name() -> None:
    assert rename("c:\n  old: 1  # why\n", ("c",), "old", "new") == "c:\n  new: 1  # why\n"
    text = "c:\n- name: old\n  value: 1\n"
    assert rename(text, ("c",), "old", "new") == "c:\n- name: new\n  value: 1\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2\n", "the key a twice"),
        ("a:\n  b: 1\n  b: 2\n", "the key b twice"),
        ("a: [{b: 1, b: 2}]\n", "the key b twice"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("[" * 100 + "]" * 100, "levels"),
        ("- a\n", "not a mapping"),
        ("", "not a mapping"),
        ("? [a]\n: b\n", "not text"),
    ],
)
def test_what_cannot_be_read_in_one_way_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load(text)


@pytest.mark.parametrize("text", ["a: 1\n---\nb: 2\n", "a: [\n", "a: !!python/none x\n", "\x00"])
def test_what_is_not_one_plain_document_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load(text)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("a: text\n", ("a", "b"), "v"),
        ("a: [1]\n", ("a", "b"), "v"),
        ("a: {b: 1}\n", ("a",), Argument(name="x", value="v")),
        ("a: [{name: x, value: 1}, {name: x, value: 2}]\n", ("a",), Argument(name="x", value="v")),
    ],
)
def test_a_place_of_another_kind_is_refused(text: str, path: tuple[str, ...], value: Value) -> None:
    with pytest.raises(ValueError, match=r"not a|twice"):
        put(text, path, value)
