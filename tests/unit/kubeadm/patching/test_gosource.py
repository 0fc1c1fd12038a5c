"""Durations read out of Go source."""

import contextlib
from itertools import accumulate
from operator import mul

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.kubeadm.patching.goconst import MAX_DURATION, UNITS, GoSourceError
from kbuild.kubeadm.patching.gosource import added_duration, const_value

HOUR = 3600 * 10**9
NUMBERS = st.integers(min_value=0, max_value=400)
SPELLINGS = st.sampled_from(["{}", "0x{:x}", "0X{:X}", "0o{:o}", "0b{:b}", "({})"])


def constant(expression: str, before: str = "") -> int:
    return const_value(f"package a\n\n{before}\nconst X = {expression}\n", "X")


def function(value: str, more: str = "") -> str:
    body = f"\tnow := time.Now()\n{more}\n\treturn T{{NotAfter: {value}, IsCA: true}}"
    return f"package a\n\nconst year = time.Hour * 24 * 365\n\nfunc F(c C) T {{\n{body}\n}}\n"


@pytest.mark.slow
@given(st.lists(st.tuples(NUMBERS, SPELLINGS), min_size=1, max_size=5), st.sampled_from([*UNITS]))
def test_a_product_is_what_it_is_in_python(numbers: list[tuple[int, str]], unit: str) -> None:
    text = " * ".join([unit, *(spelling.format(number) for number, spelling in numbers)])
    steps = list(accumulate((UNITS[unit], *(number for number, _ in numbers)), mul))
    if max(steps) > MAX_DURATION:
        with pytest.raises(GoSourceError, match="overflows"):
            constant(text)
    else:
        assert constant(text) == steps[-1]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("time.Hour * 24 * 365", 8760 * HOUR),
        ("365 * 24 * time.Hour", 8760 * HOUR),
        ("(3*365 + 1) * 24 * time.Hour", 1096 * 24 * HOUR),
        ("time.Duration(8_760) * time.Hour", 8760 * HOUR),
        ("time.Hour /* an hour */ * 0x10", 16 * HOUR),
        ("010 * time.Hour", 8 * HOUR),
        ("(time.Minute - time.Hour) / 7", -(59 * 60 * 10**9 // 7)),
        ("time.Hour - time.Minute*2 + time.Second", HOUR - 119 * 10**9),
        ("year * 100", 876000 * HOUR),
    ],
)
def test_expression(expression: str, expected: int) -> None:
    assert constant(expression, "const year time.Duration = time.Hour * 24 * 365") == expected


def test_go_holds_292_years() -> None:
    assert constant("time.Hour * 24 * 365 * 292") == 292 * 8760 * HOUR
    with pytest.raises(GoSourceError, match="overflows"):
        constant("time.Hour * 24 * 365 * 293")


@pytest.mark.parametrize(
    "expression",
    ["1.5 * time.Hour", "other.Hour * 2", "time.Fortnight", "f(3)", "time.Hour / 0", "X * 2",
     "time.Hour << 2", '"8760h"', "time.Duration(1, 2)", "unknown", "iota", "089 * time.Hour"],
)  # fmt: skip
def test_what_is_not_understood_is_an_error(expression: str) -> None:
    with pytest.raises(GoSourceError):
        constant(expression)


def test_groups_and_lists_of_names() -> None:
    source = "package a\nconst (\n\tA, B = 1, time.Hour\n\t// word\n\tC = B * 2\n\tD\n)\n"
    assert [const_value(source, name) for name in "ABC"] == [1, HOUR, 2 * HOUR]
    with pytest.raises(GoSourceError, match="D is not declared exactly once with a value"):
        const_value(source, "D")


@pytest.mark.parametrize(
    "source",
    ["package a\nconst X = 1\nconst X = 2\n", "package a\nvar X = 1\n", "package a\n",
     "package a\nfunc F() {\n\tconst X = 1\n}\n", "package a\nconst X = Y\nconst Y = X\n"],
)  # fmt: skip
def test_a_constant_is_declared_once_in_the_package(source: str) -> None:
    with pytest.raises(GoSourceError, match="not declared exactly once"):
        const_value(source, "X")


@pytest.mark.parametrize("source", ["package a\nconst X = = 1\n", "const (\n", "\x00", "<<<<<<< X"])
def test_malformed_go_is_an_error(source: str) -> None:
    with pytest.raises(GoSourceError):
        const_value(source, "X")


@pytest.mark.slow
@given(st.text(max_size=60))
def test_any_text_is_a_value_or_an_error_of_ours(text: str) -> None:
    source = f"package a\nconst X = {text}\nfunc F() {{\n\tx := {text}\n}}\n"
    with contextlib.suppress(GoSourceError):
        assert isinstance(const_value(source, "X"), int)
    with contextlib.suppress(GoSourceError):
        assert isinstance(added_duration(source, "F", "x"), int)


@pytest.mark.parametrize(
    "value",
    ["now.Add(year * 10).UTC()", "now.Add(year * 10)", "time.Now().Add(10 * year).UTC()",
     "now.Add( /* ten */ year * 10).UTC()"],
)  # fmt: skip
def test_what_a_field_adds(value: str) -> None:
    assert added_duration(function(value), "F", "NotAfter") == 87600 * HOUR


def test_what_a_variable_adds() -> None:
    source = function("end", "\tend := now.Add(year * 3).UTC()")
    assert added_duration(source, "F", "end") == 3 * 8760 * HOUR


@pytest.mark.parametrize(
    "value",
    ["now.AddDate(10, 0, 0).UTC()", "now.Add(year).Add(year)", "cfg.now().Add(year)", "end",
     "now.Add()", "now.Add(other.Year)", "now.UTC()", "now.Sub(year)"],
)  # fmt: skip
def test_another_form_is_an_error(value: str) -> None:
    with pytest.raises(GoSourceError):
        added_duration(function(value), "F", "NotAfter")


@pytest.mark.parametrize(
    "more", ["\tyear := time.Hour", "\tconst year = 1", "\tother := T{NotAfter: now.Add(1)}"]
)
def test_a_name_or_field_that_stands_twice_is_an_error(more: str) -> None:
    with pytest.raises(GoSourceError):
        added_duration(function("now.Add(year)", more), "F", "NotAfter")


def test_a_parameter_may_hide_a_constant() -> None:
    source = function("now.Add(year)").replace("c C", "year D")
    with pytest.raises(GoSourceError, match="year may be declared again"):
        added_duration(source, "F", "NotAfter")


def test_a_missing_function_is_named() -> None:
    with pytest.raises(GoSourceError, match="there is no function G"):
        added_duration(function("now.Add(year)"), "G", "NotAfter")


@pytest.mark.timeout(20)
def test_constants_made_of_one_another_are_computed_once_each() -> None:
    chain = "".join(f"const c{n} = c{n + 1} + c{n + 1}\n" for n in range(100))
    assert constant("c0", f"{chain}const c100 = 0") == 0


@pytest.mark.parametrize("more", ["", "\tother := " + "(" * 3000 + "1" + ")" * 3000])
def test_an_expression_without_end_is_an_error(more: str) -> None:
    deep = "(" * 3000 + "year" + ")" * 3000
    with pytest.raises(GoSourceError, match="too deep"):
        constant(deep, "const year = 1")
    with pytest.raises(GoSourceError, match="too deep"):
        added_duration(function(f"now.Add({deep})", more), "F", "NotAfter")


@pytest.mark.timeout(20)
def test_many_names_take_no_more_time_than_they_have_to() -> None:
    names = ", ".join(f"n{n}" for n in range(5000))
    with pytest.raises(GoSourceError):
        added_duration(function(f"now.Add(f({names}))"), "F", "NotAfter")
