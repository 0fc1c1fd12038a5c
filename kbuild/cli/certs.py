"""``kbuild certs``: what expires when, and what is wrong with the certificates of a cluster."""

import os.path
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from kbuild.certs.model import Certificate, Finding, Inventory
from kbuild.cli.boundary import begin
from kbuild.cli.console import plain_table
from kbuild.cli.options import command_app, takes
from kbuild.settings import CertsSettings

_WIDE = 120  # characters; below, only what matters most is shown

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
    from kbuild.certs.api import demand_longer, document, places_to_read, take_inventory

    settings, screen = begin(ctx, CertsSettings)
    places = places_to_read(paths or ())
    inventory = take_inventory(places, datetime.now(UTC), screen)
    screen.result(document(inventory), _lines(inventory, screen.width))
    if settings.fail_before is not None:
        demand_longer(inventory, timedelta(seconds=settings.fail_before))


def _lines(inventory: Inventory, width: int) -> Iterator[str | Table]:
    copies = {c.fingerprint for c in inventory.certificates if c.is_ca and not c.place}
    rows = [c for c in inventory.certificates if not (c.place and c.fingerprint in copies)]
    is_wide = width >= _WIDE
    folder = "" if is_wide else _common_folder(rows)
    if folder:
        yield f"Below {folder}:"
    if rows:
        yield _table(inventory, rows, folder, is_wide=is_wide)
    hidden = len(inventory.certificates) - len(rows)
    if hidden:
        copies_of = "1 copy" if hidden == 1 else f"{hidden} copies"
        yield f"Not shown: {copies_of} of these CAs in other files."
    if not inventory.certificates:
        yield f"No certificates below {', '.join(inventory.paths)}."
    severity = ""
    for finding in inventory.findings:
        if finding.severity != severity:
            severity = finding.severity
            yield ""
            yield f"{severity}:"
        yield from _finding_lines(finding)


def _common_folder(rows: list[Certificate]) -> str:
    """Return the folder that all paths begin with, with a slash at its end, or an empty text."""
    folder = os.path.commonpath([each.path for each in rows if each.path[:1] == "/"] or [""])
    is_of_all = len(folder) > 1 and all(each.path.startswith(f"{folder}/") for each in rows)
    return f"{folder}/" if is_of_all else ""


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
            f"{each.path.removeprefix(folder)} {each.place if is_wide else ''}".rstrip(),
            each.role,
            f"{each.not_after:%Y-%m-%d}",
            left(each.time_left(inventory.read_at)),
            *details,
        )
    return table


def _finding_lines(finding: Finding) -> Iterator[str]:
    where = f"{finding.path} {finding.place}".rstrip()
    yield f"  {where}: {finding.reason} [{finding.kind}]"
    yield f"    {finding.command}"
