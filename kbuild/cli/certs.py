"""``kbuild certs``: what expires when, and what is wrong with the certificates of a cluster."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from kbuild.base.values import day
from kbuild.certs.model import Certificate, Finding, Inventory, Severity
from kbuild.cli.boundary import begin
from kbuild.cli.console import Screen, plain_table, visible
from kbuild.cli.options import command_app, takes
from kbuild.settings import CertsSettings

_WIDE = 120  # characters; below, only what matters most is shown
_COLOURS: dict[Severity | None, str] = {
    "critical": "red",
    "warning": "yellow",
    "info": "blue",
    None: "green",
}

app = command_app()


@app.command()
@takes(CertsSettings)
def certs(
    ctx: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            readable=False,
            help="Files and directories. Default: the usual places of this machine.",
        ),
    ] = None,
) -> None:
    """List certificates, when each expires, and what is wrong with them."""
    from kbuild.certs.api import (
        Reports,
        demand_longer,
        document,
        places_to_read,
        take_inventory,
        write_reports,
    )

    settings, screen = begin(ctx, CertsSettings)
    places = places_to_read(paths or ())
    inventory = take_inventory(places, datetime.now(UTC), screen, settings.exclude)
    reports = Reports(html=settings.html, prometheus=settings.prometheus, ics=settings.ics)
    write_reports(
        reports, inventory, socket.gethostname(), lambda path: screen.say(f"wrote {path}")
    )
    screen.result(
        document(inventory), inventory_lines(inventory, screen, as_bars=settings.timeline)
    )
    if settings.fail_before is not None:
        demand_longer(inventory, settings.fail_before)


def inventory_lines(
    inventory: Inventory, screen: Screen, *, as_bars: bool = False
) -> Iterator[str | Text | Table]:
    """Yield what is printed of an inventory: its certificates, then its findings."""
    from kbuild.certs.api import common_folder, without_copies

    rows = without_copies(inventory.certificates)
    is_wide = screen.width >= _WIDE and not as_bars
    folder = "" if is_wide else common_folder(rows)
    if folder:
        yield f"Below {folder}:"
    if rows and as_bars:
        yield from _bars(replace(inventory, certificates=tuple(rows)), screen)
    elif rows:
        yield _table(inventory, rows, folder, is_wide=is_wide)
    hidden = len(inventory.certificates) - len(rows)
    if hidden:
        copies_of = "1 copy" if hidden == 1 else f"{hidden} copies"
        yield f"Not shown: {copies_of} of these CAs in other files."
    if not inventory.certificates:
        yield f"There is no certificate in {', '.join(inventory.paths)}."
    severity = ""
    for finding in inventory.findings:
        if finding.severity != severity:
            severity = finding.severity
            yield ""
            yield f"{severity}:"
        yield from _finding_lines(finding)


def _bars(inventory: Inventory, screen: Screen) -> Iterator[Text]:
    from kbuild.certs.api import BLOCKS, terminal_lines

    for line in terminal_lines(inventory, screen.drawing_width, blocks=screen.can_show(BLOCKS)):
        colour = _COLOURS[line.severity]
        styles = {"text": "", "dim": "dim", "bar": colour, "expired": "bold red"}
        yield Text.assemble(*((visible(part.text), styles[part.kind]) for part in line.parts))


def _table(inventory: Inventory, rows: list[Certificate], folder: str, *, is_wide: bool) -> Table:
    from kbuild.certs.api import left

    more = ("key", "chain", "owner") if is_wide else ()
    table = plain_table("certificate", "what", "NotAfter", "left", *more)
    for column in table.columns[:2]:
        column.no_wrap, column.overflow = False, "fold"
    for each in rows:
        owner = f"{each.owner.user}:{each.owner.group} {each.owner.mode:04o}"
        details = (each.key, each.chain, owner) if is_wide else ()
        table.add_row(
            f"{each.path.removeprefix(folder)} {_place(each, is_wide=is_wide)}".rstrip(),
            each.role,
            day(each.not_after),
            left(each.time_left(inventory.read_at)),
            *details,
        )
    return table


def _place(certificate: Certificate, *, is_wide: bool) -> str:
    """Return where in its file a certificate is; of a bundle always, as it has several rows."""
    return certificate.place if is_wide or certificate.place.startswith("certificate ") else ""


def _finding_lines(finding: Finding) -> Iterator[str]:
    where = f"{finding.path} {finding.place}".rstrip()
    yield f"  {where}: {finding.reason} [{finding.kind}]"
    yield f"    {finding.command}"
