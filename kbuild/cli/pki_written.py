"""What a run of ``kbuild pki`` has written, as it is shown."""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from kbuild.base.values import day, rfc3339
from kbuild.cli.asking import secret
from kbuild.cli.console import Screen, plain_table
from kbuild.pki.api import Delivery, Tokens, locked, places_of
from kbuild.pki.model import Plan, Written
from kbuild.settings import Planned

# What is said of a certificate once it is written.
_STATES = {"missing": "new", "resigned": "signed anew"}


@contextlib.contextmanager
def holding(folder: Path, screen: Screen) -> Iterator[None]:
    """Hold the lock of a plan; a killed run is finished first, as it may have split a pair."""
    with locked(*places_of(folder)) as is_finished:
        if is_finished:
            screen.say("an earlier run was killed while it replaced files; it is finished now")
        yield


def tokens_of(settings: Planned, screen: Screen) -> Tokens:
    """Return the tokens of a run; a person is asked for a PIN only on a terminal."""
    return Tokens(settings.pkcs11_module, partial(secret, screen), screen.say)


def written_table(output: Path, written: tuple[Written, ...]) -> Iterator[Table]:
    """Yield a table of what was written, if anything was."""
    if not written:
        return
    table = plain_table("certificate", "state", "NotAfter", "files")
    table.columns[3].no_wrap, table.columns[3].overflow = False, "fold"
    for each in written:
        table.add_row(
            each.name,
            _STATES.get(each.state, each.state),
            day(each.not_after) if each.not_after else "",
            ", ".join(below(output, path) for path in each.files),
        )
    yield table


def reasons(written: tuple[Written, ...]) -> Iterator[str]:
    """Yield why certificates that were there are other ones now."""
    for each in written:
        if each.state == "changed" and each.reasons:
            yield f"{each.name}: {'; '.join(each.reasons)}"


def summary(output: Path, written: tuple[Written, ...], kept: int) -> str:
    """Return the line that tells how much was written, and how much was as planned."""
    verb = "is" if kept == 1 else "are"
    return f"{output}: {len(written)} written, {kept} {verb} as planned."


def delivery_lines(plan: Plan, todo: Iterable[Delivery], until: str = "") -> Iterator[str]:
    """Yield what must be distributed, and what is restarted in which order; nothing if nothing."""
    owners = {path: each.name for each in plan.items for path in each.files}
    for number, delivery in enumerate(todo, 1):
        if number == 1:
            yield ""
            yield f"Distribute these files, and restart in this order{until}:"
        yield f"{number}. {delivery.component}: {delivery.restart}"
        for path, options in delivery.trusted.items():
            yield f"     {below(plan.output, path)} ({', '.join(options)})"
        for _, paths in groupby(delivery.files, owners.get):
            yield f"     {', '.join(below(plan.output, path) for path in paths)}"


def delivery_document(delivery: Delivery) -> dict[str, Any]:
    """Return what a component must get as a part of a document."""
    return {
        "component": delivery.component,
        "trusted": {str(path): list(options) for path, options in delivery.trusted.items()},
        "files": [str(path) for path in delivery.files],
        "restart": delivery.restart,
    }


def written_document(written: Written) -> dict[str, Any]:
    """Return what was written as a part of a document."""
    return {
        "name": written.name,
        "state": written.state,
        "reasons": list(written.reasons),
        "files": list(map(str, written.files)),
        "not_after": rfc3339(written.not_after) if written.not_after else None,
        "sha256": written.fingerprint,
    }


def below(output: Path, path: Path) -> str:
    """Return a path as seen from the output, whole if it is elsewhere."""
    return str(path.relative_to(output) if path.is_relative_to(output) else path)
