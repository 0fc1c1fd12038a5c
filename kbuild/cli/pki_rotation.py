"""What ``kbuild pki rotate-ca`` does and shows."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from kbuild.base.errors import BadSetting
from kbuild.base.values import day, rfc3339
from kbuild.cli.console import Screen
from kbuild.cli.pki_written import (
    delivery_document,
    delivery_lines,
    holding,
    summary,
    tokens_of,
    written_document,
    written_table,
)
from kbuild.pki.api import (
    Delivery,
    KeyUri,
    Turn,
    Turned,
    UnknownCertificate,
    carry_out,
    deliveries,
    facts_to_know,
    key_uris,
    notes_of,
    rotated,
    turn_of,
)
from kbuild.pki.model import Plan, Rotation, Written
from kbuild.settings import PkiRotateCaSettings

_NEXT = {
    "begin": "the next step is --step leaves, and --step back takes this one back",
    "leaves": "the next step is --step end, and --step back takes this one back",
    "ended": "the rotation has ended",
    "undone": "the rotation was taken back",
}


def show_step(
    screen: Screen,
    settings: PkiRotateCaSettings,
    made: Callable[[], Plan],
    names: Collection[str],
) -> None:
    """Make a step of a rotation, and show what it has written and what is to be done with it."""
    step = settings.step
    assert step is not None
    new_ca_keys = _new_ca_keys(settings)
    with tokens_of(settings, screen) as tokens, holding(settings.dir, screen):
        planned = made()
        now = datetime.now(UTC).replace(microsecond=0)
        turn = turn_of(
            planned,
            step,
            names,
            now,
            new_keys=settings.new_keys,
            new_ca_keys=new_ca_keys,
            tokens=tokens,
        )
        written = carry_out(planned, turn.decisions, now, screen, turn.files, turn.swaps, tokens)
    kept = len(turn.decisions) - len(written)
    is_resigned = any(each.state in ("resigned", "missing") for each in written)
    todo = tuple(deliveries(planned, turn.cas, with_leaves=is_resigned))
    notes = (*turn.notes, *facts_to_know(planned, turn.cas))
    # What it says of the rotation was true before the step.
    said = tuple(note for note in planned.notes if note not in notes_of(planned))
    lines: list[str | Table] = [
        *written_table(planned.output, written),
        *said,
        *(f"{each}: removed" for each in turn.removed),
        summary(planned.output, written, kept),
        *_lines(planned, turn.cas, todo, notes),
    ]
    screen.result(_step_document(planned, step, turn, written, todo, notes), lines)


def _step_document(
    planned: Plan,
    step: str,
    turn: Turn,
    written: tuple[Written, ...],
    todo: tuple[Delivery, ...],
    notes: tuple[str, ...],
) -> dict[str, Any]:
    return {
        "output": str(planned.output),
        "step": step,
        "cas": [_turned_document(each) for each in turn.cas],
        "written": [written_document(each) for each in written],
        "removed": [str(each) for each in turn.removed],
        "kept": len(turn.decisions) - len(written),
        "distribute": [delivery_document(each) for each in todo],
        "notes": list(notes),
    }


def _new_ca_keys(settings: PkiRotateCaSettings) -> dict[str, KeyUri]:
    """Return the keys of new CAs that are on tokens; raises BadSetting or BadKeyUri."""
    if settings.new_ca_key and settings.step != "begin":
        reason, hint = f"the step is {settings.step}", "give it with --step begin"
        raise BadSetting(name="--new-ca-key", value="…", reason=reason, hint=hint)
    return key_uris(dict(settings.new_ca_key), "--new-ca-key")


def show_rotations(screen: Screen, planned: Plan, names: Collection[str]) -> None:
    """Show which CAs are being replaced, and what their machines must have by now."""
    roots = [each.name for each in planned.specs if not each.issuer]
    for name in names:
        if name not in roots:
            raise UnknownCertificate(name=name, known=", ".join(roots))
    cas = tuple(each for each in rotated(planned) if not names or each.spec.name in names)
    todo = tuple(deliveries(planned, cas, with_leaves=True)) if cas else ()
    notes = tuple(facts_to_know(planned, cas))
    shown = {
        "output": str(planned.output),
        "step": None,
        "cas": [_turned_document(each) for each in cas],
        "written": [],
        "removed": [],
        "kept": 0,
        "distribute": [delivery_document(each) for each in todo],
        "notes": list(notes),
    }
    none = [f"{planned.output}: no CA is being replaced; `--step begin` begins."]
    screen.result(shown, _lines(planned, cas, todo, notes) if cas else none)


def rotation_document(rotation: Rotation) -> dict[str, str]:
    """Return a rotation as a part of a document."""
    return asdict(rotation)


def _lines(
    planned: Plan, cas: tuple[Turned, ...], todo: tuple[Delivery, ...], notes: tuple[str, ...]
) -> Iterator[str]:
    for each in cas:
        yield (
            f"{each.spec.name}: the old CA ends on {day(each.old.not_after)}, the new one on"
            f" {day(each.new.not_after)}; {_NEXT[each.after]}."
        )
    is_on = any(each.is_on for each in cas)
    yield from delivery_lines(planned, todo, ", all before the next step" if is_on else "")
    yield ""
    for note in notes:
        yield f"- {note}"


def _turned_document(turned: Turned) -> dict[str, Any]:
    return {
        "name": turned.spec.name,
        "state": turned.after,
        **{
            which: {
                "subject": facts.subject,
                "sha256": facts.fingerprint,
                "not_after": rfc3339(facts.not_after),
            }
            for which, facts in (("old", turned.old), ("new", turned.new))
        },
    }
