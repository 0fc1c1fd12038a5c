"""The files for other programs that an inventory is written to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kbuild.base.reports import write_report
from kbuild.certs import ics, page, prometheus
from kbuild.certs.model import Inventory

_FOR_EVERYBODY = 0o644  # node_exporter reads it as a user of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """Which reports are wanted, and where."""

    html: Path | None = None
    prometheus: Path | None = None
    ics: Path | None = None


def write_reports(
    wanted: Reports, inventory: Inventory, host: str, wrote: Callable[[Path], None]
) -> None:
    """Write the reports one after the other, and tell ``wrote`` of each; ``host`` is this machine.

    Raises NotWritable or DiskFull; what was written before stays.
    """
    for path, content, mark, mode in _made(wanted, inventory, host):
        write_report(path, content, mark=mark, mode=mode)
        wrote(path)


def _made(
    wanted: Reports, inventory: Inventory, host: str
) -> Iterator[tuple[Path, bytes, bytes, int | None]]:
    if wanted.html:
        yield wanted.html, page.page(inventory, host), page.MARK, None
    if wanted.prometheus:
        content = prometheus.metrics(inventory)
        yield wanted.prometheus, content, prometheus.MARK, _FOR_EVERYBODY
    if wanted.ics:
        yield wanted.ics, ics.calendar(inventory, host), ics.MARK, None
