"""The calendar: what icalendar, an independent parser, reads in it."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import icalendar
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.certs.ics import MARK, calendar
from kbuild.certs.model import Inventory
from tests.support.inventories import HOSTILE, READ_AT, certificate, control_plane, inventory


def parsed(found: Inventory, host: str = "node1") -> Any:
    text = calendar(found, host)
    assert MARK in text
    lines = text.split(b"\r\n")
    assert lines.pop() == b""
    assert all(len(line) <= 75 and b"\n" not in line and b"\r" not in line for line in lines)
    return icalendar.Calendar.from_ical(text)


def events(found: Inventory) -> list[Any]:
    return [event for event in parsed(found).walk("VEVENT") if not event.errors]


def alarms(event: Any) -> list[timedelta]:
    return [alarm["TRIGGER"].dt for alarm in event.walk("VALARM")]


def test_certificates_that_end_on_the_same_day_are_one_event() -> None:
    found = control_plane()
    days = Counter(c.not_after.date() for c in found.certificates)
    shown = events(found)
    assert [event["DTSTART"].dt.date() for event in shown] == sorted(days)
    (many,) = [e for e in shown if days[e["DTSTART"].dt.date()] > 2]
    assert many["SUMMARY"].startswith("4 certificates end on node1: administrator, client, ")
    assert many["DTSTART"].dt == READ_AT + timedelta(days=364)
    assert "/etc/kubernetes/admin.conf, users[kubernetes-admin]" in many["DESCRIPTION"]


def test_an_event_says_what_ends_when_and_where() -> None:
    (event,) = events(inventory(certificate(days=400)))
    assert event["SUMMARY"] == "Certificate ends on node1: API server, server"
    assert event["DTSTART"].dt == READ_AT + timedelta(days=400)
    assert event["DTSTAMP"].dt == READ_AT
    assert "2027-12-31 12:00 UTC /etc/kubernetes/pki/apiserver.crt" in event["DESCRIPTION"]
    assert "CN=kube-apiserver" in event["DESCRIPTION"]
    assert all(a["ACTION"] == "DISPLAY" and a["DESCRIPTION"] for a in event.walk("VALARM"))


def test_it_reminds_before_the_end_but_not_in_the_past() -> None:
    reminders = {
        days: alarms(events(inventory(certificate(days=days)))[0]) for days in (91, 20, -3)
    }
    assert reminders[91] == [timedelta(days=-days) for days in (90, 30, 7)]
    assert reminders[20] == [timedelta(days=-7)]
    assert reminders[-3] == []


def test_the_same_certificate_in_several_files_is_named_once() -> None:
    places = (certificate(f"/pki/{name}", fingerprint="ab" * 32) for name in ("a", "b"))
    (event,) = events(inventory(*places))
    assert event["SUMMARY"].startswith("Certificate ends")


def test_an_event_keeps_its_uid_when_others_join_it() -> None:
    small, large = certificate(fingerprint="0a" * 32), certificate(fingerprint="fe" * 32)
    before, after = events(inventory(small)), events(inventory(large, small))
    assert before[0]["UID"] == after[0]["UID"] == f"{'0a' * 32}@kbuild"
    everything = events(control_plane())
    assert len({event["UID"] for event in everything}) == len(everything)


def test_many_certificates_of_a_day_are_counted() -> None:
    many = (certificate(f"/pki/{n:03}.crt", role=f"role {n:03}") for n in range(500))
    (event,) = events(inventory(*many))
    assert event["SUMMARY"] == "500 certificates end on node1: role 000, role 001, role 002 …"
    assert "and 450 more" in event["DESCRIPTION"]


def test_hostile_names_add_no_event_and_come_back_as_text() -> None:
    found = inventory(certificate(f"/pki/{HOSTILE}", subject=HOSTILE, role=HOSTILE))
    (event,) = parsed(found, HOSTILE).walk("VEVENT")
    assert r"\x00\r\nBEGIN:VEVENT\\n;,\\ \udcff".replace(r"\\", "\\") in event["SUMMARY"]


@pytest.mark.slow
@given(text=st.text(max_size=200), host=st.text(min_size=1, max_size=40))
def test_any_text_comes_back_as_it_was_shown(text: str, host: str) -> None:
    role = "".join(c if c.isprintable() else "?" for c in text) or "x"
    (event,) = parsed(inventory(certificate(role=role)), host).walk("VEVENT")
    assert event["SUMMARY"].endswith(f": {role}")


def test_an_inventory_without_certificates_is_an_empty_calendar() -> None:
    assert parsed(inventory()).walk("VEVENT") == []


def test_years_of_any_age_are_written_in_four_digits() -> None:
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    found = inventory(certificate("/a", not_after=first), certificate("/b", not_after=last))
    assert [event["DTSTART"].dt for event in events(found)] == [first, last]


def test_the_same_inventory_gives_the_same_calendar() -> None:
    assert calendar(control_plane(), "node1") == calendar(control_plane(), "node1")
