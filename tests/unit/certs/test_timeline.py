"""The time line on a terminal: readable for a week and for a century, in any width and locale."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.certs.model import Inventory
from kbuild.certs.naming import columns
from kbuild.certs.timeline import BLOCKS, scale_of, terminal_lines
from tests.support.inventories import (
    HOSTILE,
    READ_AT,
    certificate,
    control_plane,
    finding,
    in_kubeconfig,
    inventory,
)

SPANS = {"7d": 7, "30d": 30, "1y": 365, "10y": 3650, "100y": 36500}


def lines(found: Inventory, width: int = 80, *, blocks: bool = True) -> list[str]:
    return [line.text() for line in terminal_lines(found, width, blocks=blocks)]


def bar(line: str) -> int:
    """Return the length of a bar, in half columns."""
    return 2 * line.count("█") + line.count("▌")


def of_spans(width: int) -> list[str]:
    each = (certificate(f"/pki/{name}.crt", days=days) for name, days in SPANS.items())
    return lines(inventory(*each), width)


@pytest.mark.parametrize("width", [80, 200])
def test_a_week_and_a_century_are_both_legible(width: int) -> None:
    lengths = [bar(line) for line in of_spans(width)[2:-1]]
    assert len(lengths) == len(SPANS)
    # At 80 columns too, each step is at least four half columns longer than the one before.
    assert all(after - before >= 4 for before, after in zip([0, *lengths], lengths, strict=False))


def test_each_bar_ends_below_the_tick_of_its_time() -> None:
    labels, years, *bars, _ = of_spans(120)
    for name, line in zip(SPANS, bars, strict=True):
        end = line.rindex("█") + 1
        tick = labels.index(f" {name}") + 1
        # The last label stands left of its tick, or it would not fit on the line.
        assert abs(end - (tick + len(name) if name == "100y" else tick)) <= 1, line
    assert years.split() == ["2026", "2027", "2036", "2126"]


@pytest.mark.slow
@given(
    width=st.integers(60, 300),
    days=st.lists(st.floats(-4000, 2_900_000), min_size=1, max_size=8),
    name=st.text(min_size=1, max_size=90),
    blocks=st.booleans(),
)
def test_no_line_is_wider_than_the_terminal(
    width: int, days: list[float], name: str, blocks: bool
) -> None:
    each = (
        certificate(f"/pki/{name}", place=f"certificate {i}", days=d) for i, d in enumerate(days)
    )
    shown = lines(inventory(*each), width, blocks=blocks)
    assert all(columns(line) <= width and line.isprintable() for line in shown[:-1])
    assert len({columns(line) for line in shown[2:-1]}) == 1  # so the dates are in one column


def test_expired_certificates_are_marked_in_words() -> None:
    (expired,) = [line for line in lines(control_plane()) if "pki/apiserver.crt" in line]
    assert "expired 12 days ago" in expired
    assert bar(expired) == 0
    assert expired.endswith("2026-11-14")


def test_severities_are_marked_without_colours() -> None:
    shown = {line[3:].split()[0]: line[:3] for line in lines(control_plane(), 120)[2:-1]}
    assert shown["/etc/kubernetes/pki/apiserver.crt"] == "!! "
    assert shown["/etc/kubernetes/pki/etcd/server.crt"] == "!  "
    assert shown["/etc/kubernetes/pki/ca.crt"] == "   "


def test_the_severity_of_a_line_is_the_worst_of_its_findings() -> None:
    one, other = certificate("/a.pem", days=3), in_kubeconfig(days=9)
    place = other.place
    findings = (
        finding("/a.pem", severity="info"),
        finding("/a.pem", severity="critical"),
        finding("/etc/kubernetes/admin.conf", place=place, severity="warning"),
        finding("/etc/kubernetes/admin.conf", place="another", severity="critical"),
    )
    shown = terminal_lines(inventory(one, other, findings=findings), 80, blocks=True)
    assert [line.severity for line in shown] == [None, None, "critical", "warning", None]


def test_a_certificate_that_is_not_valid_yet_begins_later() -> None:
    (line,) = [line for line in lines(control_plane()) if "scheduler" in line]
    assert "·" in line
    assert line.index("·") < line.index("█")


def test_a_locale_without_blocks_gets_ascii() -> None:
    shown = lines(control_plane(), blocks=False)
    assert all(line.isascii() for line in shown)
    assert any("####" in line for line in shown)
    assert not any(set(BLOCKS) & set(line) for line in shown)


def test_hostile_names_stay_on_their_line() -> None:
    shown = lines(inventory(certificate(f"/pki/{HOSTILE}.crt")), 400)
    assert len(shown) == 4
    assert all(line.isprintable() for line in shown)
    assert r"\x1b[2J" in shown[2]


def test_long_names_keep_their_end() -> None:
    paths = (f"/etc/kubernetes/{'very-' * 20}long/{name}.crt" for name in ("a", "b"))
    shown = lines(inventory(*(certificate(path) for path in paths), certificate("/root/c.crt")))
    assert any("…" in line and "long/a.crt " in line for line in shown)


def test_an_empty_inventory_has_no_time_line() -> None:
    assert lines(inventory()) == []


@pytest.mark.parametrize(
    ("days", "end"), [(-5, "1y"), (3, "1y"), (365, "1y"), (365.5, "10y"), (36500, "100y")]
)
def test_the_scale_ends_at_the_first_tick_that_all_fit_in(days: float, end: str) -> None:
    assert scale_of(inventory(certificate(days=days))).ticks()[-1].label == end


def test_a_certificate_without_an_end_fits() -> None:
    forever = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280, section 4.1.2.5
    scale = scale_of(inventory(certificate(days=0, not_after=forever)))
    assert scale.ticks()[-1].label == "10000y"
    assert scale.ticks()[-1].year is None
    assert 0.9 < scale.position(forever) <= 1
    assert scale.position(READ_AT) == 0
