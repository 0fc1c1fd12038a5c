"""Durations of Go."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.pki.durations import go_duration, hours


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("43800h", 43800 * 3600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5h", 1800),
        ("1.h", 3600),
        ("+8760h0m0s", 8760 * 3600),
        ("0", 0),
        ("1m500ms", 60.5),
        ("2562047h47m16s", 2562047 * 3600 + 47 * 60 + 16),
    ],
)
def test_a_duration_is_that_of_go(text: str, seconds: float) -> None:
    assert go_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "h", "1h 30m", "-1h", "1H", "1e3h", "1_0h", "٥h", "1.h."]
)
def test_what_go_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration of Go"):
        go_duration(text)


@pytest.mark.parametrize(("text", "instead"), [("5y", "43800h"), ("90d", "2160h")])
def test_years_and_days_are_refused_with_the_hours_to_write(text: str, instead: str) -> None:
    with pytest.raises(ValueError, match=instead):
        go_duration(text)


def test_more_than_go_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="292 years"):
        go_duration("2562048h")


@given(st.integers(0, 2_562_047), st.integers(0, 59), st.integers(0, 59))
def test_hours_minutes_and_seconds_add_up(h: int, m: int, s: int) -> None:
    expected = timedelta(hours=h, minutes=m, seconds=s)
    if expected < timedelta(hours=2_562_047):
        assert go_duration(f"{h}h{m}m{s}s") == expected


def test_a_lifetime_is_shown_in_years_or_hours() -> None:
    assert hours(timedelta(days=1825)) == "5 years"
    assert hours(timedelta(days=365)) == "1 year"
    assert hours(timedelta(hours=12)) == "12h"
    assert hours(timedelta(days=366)) == "8784h"
