"""An inventory as a calendar (RFC 5545) that reminds of each day on which certificates end.

kubeadm issues the certificates of a node within seconds, so they end together, and one reminder for
all of them is enough. An event keeps its UID, so a calendar that is imported again is updated, as
long as the certificate of that day with the smallest fingerprint is there.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import groupby

from kbuild.base.printable import printable
from kbuild.certs.model import Certificate, Inventory
from kbuild.certs.times import minute

MARK = b"PRODID:-//kbuild//kbuild certs//EN"
_REMIND = (90, 30, 7)  # days before
_MOST_LISTED, _MOST_NAMED = 50, 3
_OCTETS = 75  # RFC 5545 section 3.1, without the line end
# RFC 5545 section 3.3.11. A line end becomes \n; other control characters do not get this far.
_ESCAPES = str.maketrans({"\\": r"\\", ";": r"\;", ",": r"\,", "\n": r"\n"})


def calendar(inventory: Inventory, host: str) -> bytes:
    """Return a calendar with an event for each day on which certificates end.

    ``host`` is the name of the machine on which they were read. Reminders are 90, 30 and 7 days
    before; those that are past already are left out, as are those of expired certificates.
    """
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        MARK.decode(),
        "CALSCALE:GREGORIAN",
        f"X-WR-CALNAME:{_text(f'Certificates on {host}')}",
        *(line for day in _days(inventory) for line in _event(day, inventory.read_at, host)),
        "END:VCALENDAR",
    ]
    return b"".join(_folded(line) for line in lines)


def _days(inventory: Inventory) -> Iterator[list[Certificate]]:
    """Yield the certificates that end on the same day, the same one in several files once."""
    distinct: dict[str, Certificate] = {}
    for certificate in inventory.certificates:
        distinct.setdefault(certificate.fingerprint, certificate)
    by_end = sorted(distinct.values(), key=lambda c: (c.not_after, c.path, c.place, c.fingerprint))
    for _, day in groupby(by_end, key=lambda c: c.not_after.date()):
        yield list(day)


def _event(day: list[Certificate], read_at: datetime, host: str) -> Iterator[str]:
    end = day[0].not_after
    summary = _summary(day, host)
    yield "BEGIN:VEVENT"
    yield f"UID:{min(c.fingerprint for c in day)}@kbuild"
    yield f"DTSTAMP:{_utc(read_at)}"
    yield f"DTSTART:{_utc(end)}"
    yield f"SUMMARY:{_text(summary)}"
    yield f"DESCRIPTION:{_text(*_description(day, read_at, host))}"
    yield "TRANSP:TRANSPARENT"  # nobody is busy at that time
    for days in _REMIND:
        if end - read_at > timedelta(days=days):
            yield "BEGIN:VALARM"
            yield "ACTION:DISPLAY"
            yield f"DESCRIPTION:{_text(f'In {days} days: {summary}')}"
            yield f"TRIGGER:-P{days}D"
            yield "END:VALARM"
    yield "END:VEVENT"


def _summary(day: list[Certificate], host: str) -> str:
    roles = list(dict.fromkeys(c.role or "certificate" for c in day))
    named = ", ".join(roles[:_MOST_NAMED]) + (" …" if len(roles) > _MOST_NAMED else "")
    ends = "Certificate ends" if len(day) == 1 else f"{len(day)} certificates end"
    return f"{ends} on {host}: {named}"


def _description(day: list[Certificate], read_at: datetime, host: str) -> Iterator[str]:
    for certificate in day[:_MOST_LISTED]:
        place = f", {certificate.place}" if certificate.place else ""
        yield f"{minute(certificate.not_after)} {certificate.path}{place}"
        yield f"    {certificate.role}; {certificate.subject}"
    if len(day) > _MOST_LISTED:
        yield f"and {len(day) - _MOST_LISTED} more"
    yield f"Read on {host} at {minute(read_at)} by kbuild certs."


def _text(*lines: str) -> str:
    return "\n".join(map(printable, lines)).translate(_ESCAPES)


def _utc(moment: datetime) -> str:
    return f"{moment.year:04}{moment:%m%dT%H%M%SZ}"  # %Y would write the year 1 as one digit


def _folded(line: str) -> bytes:
    """Return a line in pieces of 75 octets at most, no character cut in two."""
    pieces, piece = [], b""
    for character in line:
        octets = character.encode()
        if len(piece) + len(octets) > _OCTETS:
            pieces.append(piece)
            piece = b" "
        piece += octets
    return b"\r\n".join([*pieces, piece]) + b"\r\n"
