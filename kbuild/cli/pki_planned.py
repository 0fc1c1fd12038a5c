"""How ``kbuild pki`` shows a plan, and what is there of it."""

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from kbuild.base.words import counted, shortened
from kbuild.certs.model import SEVERITIES, Inventory
from kbuild.cli.certs import inventory_lines
from kbuild.cli.console import Screen, plain_table
from kbuild.cli.pki_rotation import rotation_document
from kbuild.pki.api import UNFINISHED, UNKNOWN_FINISH, TokenKey, hours, is_unfinished, notes_of
from kbuild.pki.model import Decision, Pair, Plan, Spec

_WIDE = 200  # columns; with fewer, the last columns are too narrow to be read
_SHOWN = 4  # names of a certificate in the table of a plan


def command(name: str, folder: Path) -> str:
    """Return a command for the directory of a plan, as it is typed."""
    words = ["kbuild", "pki", name, *(["--dir", str(folder)] if folder != Path() else [])]
    return f"`{shlex.join(words)}`"


def plan_lines(
    planned: Plan, decisions: tuple[Decision, ...], screen: Screen
) -> Iterator[str | Table]:
    """Yield what is printed of a plan."""
    is_wide = screen.width >= _WIDE
    yield _table(decisions, is_wide=is_wide)
    told = [(each, details) for each in decisions if (details := _details(each))]
    if told and not is_wide:
        yield ""
        table = plain_table("certificate", "why, with which names, and from what")
        table.columns[1].no_wrap, table.columns[1].overflow = False, "fold"
        for each, details in told:
            table.add_row(each.spec.name, details)
        yield table
    yield ""
    yield from planned.notes
    yield from _end(planned, decisions)


def check_lines(
    inventory: Inventory,
    planned: Plan,
    decisions: tuple[Decision, ...],
    keys: tuple[TokenKey, ...],
    screen: Screen,
) -> Iterator[str | Text | Table]:
    """Yield what is printed of an inventory that is compared with a plan."""
    yield from inventory_lines(inventory, screen)
    todo = [each for each in decisions if not each.is_kept]
    if todo:
        yield ""
        yield "not as planned:"
    for each in todo:
        yield f"  {each.spec.name}: {'; '.join(each.reasons) or each.state}"
    yield ""
    yield from notes_of(planned)
    for key in keys:
        told = f"was not compared: {key.unknown}" if key.unknown else "fits the certificate"
        yield f"{key.ca}: its key is on a token, and {told}."
    yield from _end(planned, decisions)
    yield f"{planned.output}: {_findings(inventory)}."


def _end(planned: Plan, decisions: tuple[Decision, ...]) -> Iterator[str]:
    is_known_unfinished = is_unfinished(planned.output)
    if is_known_unfinished is None:
        yield UNKNOWN_FINISH
    elif is_known_unfinished:
        yield UNFINISHED
    todo = sum(not each.is_kept for each in decisions)
    kept = len(decisions) - todo
    yield f"{planned.output}: {counted(todo, 'certificate')} to issue, {kept} as planned."


def _findings(inventory: Inventory) -> str:
    found = [each.severity for each in inventory.findings]
    counts = [f"{found.count(each)} {each}" for each in SEVERITIES if each in found]
    return f"{counted(len(found), 'finding')} ({', '.join(counts)})" if found else "no findings"


def _table(decisions: Iterable[Decision], *, is_wide: bool) -> Table:
    more = ("names", "from", "why") if is_wide else ()
    table = plain_table("certificate", "state", "CA", "lifetime", *more)
    for column in table.columns[4:]:
        column.no_wrap, column.overflow = False, "fold"
    for each in decisions:
        spec = each.spec
        of_ca, lifetime = "", ""
        if isinstance(spec, Spec):
            of_ca, lifetime = spec.issuer or "itself", hours(spec.term.lifetime)
        details = (_names(spec), spec.source, "; ".join(each.reasons)) if is_wide else ()
        table.add_row(spec.name, each.state, of_ca, lifetime, *details)
    return table


def _details(decision: Decision) -> str:
    """Return what the narrow table leaves out; of a certificate that is as planned its reasons."""
    why = "; ".join(decision.reasons)
    if decision.is_kept:
        return why
    names = _names(decision.spec)
    parts = (why, names and f"for {names}", f"from {decision.spec.source}")
    return "; ".join(filter(None, parts))


def _names(spec: Spec | Pair) -> str:
    names = [each.partition(":")[2] for each in spec.wanted.names] if isinstance(spec, Spec) else []
    return shortened(names, _SHOWN)


def plan_document(planned: Plan, decisions: tuple[Decision, ...]) -> dict[str, Any]:
    """Return a plan and what is done about it as a document."""
    return {
        "output": str(planned.output),
        "certificates": [_decision_document(each) for each in decisions],
        "notes": list(planned.notes),
        "rotations": [rotation_document(each) for each in planned.rotations],
        "unfinished": is_unfinished(planned.output),
    }


def _decision_document(decision: Decision) -> dict[str, Any]:
    spec = decision.spec
    shown: dict[str, Any] = {
        "name": spec.name,
        "state": decision.state,
        "reasons": list(decision.reasons),
        "source": spec.source,
        "key": spec.key_kind.shown,
        "keeps_key": decision.keeps_key,
    }
    if isinstance(spec, Spec):
        shown |= {
            "file": str(spec.place),
            "key_uri": str(spec.key_uri) if spec.key_uri else None,
            "issuer": spec.issuer,
            "names": list(spec.wanted.names),
            "usages": list(spec.wanted.usages),
            "is_ca": spec.wanted.is_ca,
            "lifetime_seconds": int(spec.term.lifetime.total_seconds()),
        }
    return shown
