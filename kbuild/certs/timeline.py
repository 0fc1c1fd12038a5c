"""The time line: how long each certificate still lasts, on one scale for days and for centuries.

The scale is logarithmic from now on: a point at ``t`` from now is at log(1 + t / 7 days). So seven
days and a hundred years are both legible, and so is the difference between 30 and 60 days. A year
has 365 days, as in kbuild's lifetimes.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from kbuild.base.values import day
from kbuild.certs.model import Certificate, Inventory, Severity
from kbuild.certs.naming import columns, short_names, worst
from kbuild.certs.times import in_words

_UNIT = timedelta(days=7)
_TICKS = {
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "1y": timedelta(days=365),
    "10y": timedelta(days=3650),
    "100y": timedelta(days=36500),
    "1000y": timedelta(days=365000),
    "10000y": timedelta(days=3650000),
}
_SHORTEST = _TICKS["1y"]
_NOW = "now"

# What the locale has to be able to write for bars of blocks; the consoles of Linux have them too.
BLOCKS = "█▌·│…"

_DATE_WIDTH, _MARK_WIDTH, _GAPS = 10, 3, 2
_NARROWEST_BAR, _NARROWEST_NAME = 20, 16
_NAME_SHARE = 0.4  # of the width, at most
_MARKS: dict[Severity | None, str] = {"critical": "!!", "warning": "!", "info": "", None: ""}


class _Characters(NamedTuple):
    full: str
    half: str
    before: str
    tick: str
    cut: str


_BLOCKS, _ASCII = _Characters(*tuple(BLOCKS)), _Characters(*tuple("##.|~"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A point of the scale: ``position`` is from 0 to 1, ``year`` that of the calendar."""

    label: str
    position: float
    year: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The scale of an inventory, from now to the first tick that no certificate outlasts."""

    now: datetime
    end: timedelta

    def position(self, moment: datetime) -> float:
        """Return where a moment is, from 0 for now or earlier to 1 for the end or later."""
        return self._position(moment - self.now)

    def ticks(self) -> tuple[Tick, ...]:
        """Return the ticks, beginning with now."""
        shown = {label: time for label, time in _TICKS.items() if time <= self.end}
        return (
            Tick(label=_NOW, position=0.0, year=self.now.year),
            *(
                Tick(label=label, position=self._position(time), year=self._year(time))
                for label, time in shown.items()
            ),
        )

    def _position(self, left: timedelta) -> float:
        share = math.log1p(max(left / _UNIT, 0.0)) / math.log1p(self.end / _UNIT)
        return min(share, 1.0)

    def _year(self, time: timedelta) -> int | None:
        """Return the year of a tick, None if it is this one or has more than four digits."""
        try:
            return (self.now + time).year if time >= _TICKS["1y"] else None
        except OverflowError:
            return None


def scale_of(inventory: Inventory) -> Scale:
    """Return the scale on which all certificates of an inventory fit; it shows a year at least."""
    now = inventory.read_at
    longest = max((c.time_left(now) for c in inventory.certificates), default=_SHORTEST)
    ends = [time for time in _TICKS.values() if time >= _SHORTEST]
    return Scale(now=now, end=next(time for time in ends if time >= min(longest, ends[-1])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a line; ``kind`` tells how it is coloured."""

    text: str
    kind: Literal["text", "dim", "bar", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the time line on a terminal. Names in it come from strangers, and are raw text."""

    parts: tuple[Part, ...]
    severity: Severity | None = None

    def text(self) -> str:
        """Return the line without colours."""
        return "".join(part.text for part in self.parts).rstrip()


def terminal_lines(inventory: Inventory, width: int, *, blocks: bool) -> Iterator[Line]:
    """Yield the scale, a line for each certificate, and a legend.

    ``width`` is that of the terminal, in columns. ``blocks`` tells whether BLOCKS can be written.
    """
    if not inventory.certificates:
        return
    scale, severities = scale_of(inventory), worst(inventory)
    characters = _BLOCKS if blocks else _ASCII
    names = short_names(inventory.certificates)
    fixed = _MARK_WIDTH + _DATE_WIDTH + _GAPS
    most = max(_NARROWEST_NAME, int(width * _NAME_SHARE))
    name_width = min(max(map(columns, names)), most)
    bar_width = max(width - fixed - name_width, _NARROWEST_BAR)
    ticks = _tick_columns(scale, bar_width)
    indent = " " * (_MARK_WIDTH + name_width + 1)
    for labels in (((t.label, c) for t, c in ticks), _years(ticks)):
        yield Line(parts=(Part(text=indent + _ruler(labels, bar_width), kind="dim"),))
    empty = _ruler(((characters.tick, column) for _, column in ticks), bar_width)
    for certificate, name in zip(inventory.certificates, names, strict=True):
        severity = severities.get((certificate.path, certificate.place))
        mark = _MARKS[severity].ljust(_MARK_WIDTH)
        yield Line(
            parts=(
                Part(text=f"{mark}{_fitted(name, name_width, characters.cut)} ", kind="text"),
                *_bar(certificate, scale, empty, characters),
                Part(text=f" {day(certificate.not_after)}", kind="text"),
            ),
            severity=severity,
        )
    signs = f"!! critical, ! warning, {characters.before} not valid yet"
    legend = f"logarithmic, in years of 365 days; {signs}"
    yield Line(parts=(Part(text=legend, kind="dim"),))


def _bar(
    certificate: Certificate, scale: Scale, empty: str, characters: _Characters
) -> tuple[Part, ...]:
    """Return the bar of a certificate, which is as wide as ``empty``."""
    width = len(empty)
    if certificate.not_after < scale.now:
        text = in_words(certificate.time_left(scale.now))[:width]
        return (
            Part(text=text, kind="expired"),
            Part(text=" " + empty[len(text) + 1 :] if len(text) < width else "", kind="dim"),
        )
    begin = round(scale.position(certificate.not_before) * width)
    halves = max(round(scale.position(certificate.not_after) * width * 2) - begin * 2, 1)
    drawn = characters.full * (halves // 2) + characters.half * (halves % 2)
    return (
        Part(text=characters.before * begin, kind="dim"),
        Part(text=drawn, kind="bar"),
        Part(text=empty[begin + len(drawn) :], kind="dim"),
    )


def _tick_columns(scale: Scale, width: int) -> list[tuple[Tick, int]]:
    """Return the ticks with their columns; one that would touch the label before it is left out."""
    kept: list[tuple[Tick, int]] = []
    free = 0
    for tick in scale.ticks():
        column = min(round(tick.position * width), width - 1)
        start = min(column, width - len(tick.label))
        if start >= free:
            kept.append((tick, column))
            free = start + max(len(tick.label), len(str(tick.year or ""))) + 1
    return kept


def _years(ticks: Iterable[tuple[Tick, int]]) -> Iterator[tuple[str, int]]:
    return ((str(tick.year), column) for tick, column in ticks if tick.year is not None)


def _ruler(labels: Iterable[tuple[str, int]], width: int) -> str:
    """Return a line with each label at its column, or left of it at the right edge."""
    line = [" "] * width
    for label, column in labels:
        start = max(min(column, width - len(label)), 0)
        line[start : start + len(label)] = label
    return "".join(line)


def _fitted(name: str, width: int, cut: str) -> str:
    """Return a name in so many columns; of a long one the end is kept, which tells most."""
    spare = width - columns(name)
    if spare >= 0:
        return name + " " * spare
    while columns(name) >= width:
        name = name[1:]
    return cut + name + " " * (width - columns(name) - 1)
