"""``kbuild pki``: issue and renew the certificates of a cluster without kubeadm."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from kbuild.base.values import day, rfc3339
from kbuild.base.words import counted
from kbuild.certs.api import demand_longer, document
from kbuild.cli.boundary import begin
from kbuild.cli.certs import inventory_lines
from kbuild.cli.console import Screen, plain_table
from kbuild.cli.options import command_app, takes
from kbuild.cli.pki_components import components
from kbuild.pki.api import (
    File,
    Renewal,
    UnknownCertificate,
    carry_out,
    decide,
    demand_as_planned,
    extension,
    gaps,
    hours,
    inventory_of_plan,
    is_unfinished,
    locked,
    plan_of,
    read_nodes,
    with_host,
    write_template,
)
from kbuild.pki.model import Decision, Pair, Plan, Spec, Written
from kbuild.settings import (
    PkiAddHostSettings,
    PkiCheckSettings,
    PkiComponentsSettings,
    PkiExtendCaSettings,
    PkiInitSettings,
    PkiIssueSettings,
    PkiPlanSettings,
    PkiRenewSettings,
    Planned,
)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Certificates, by their names in the plan. Default: all."),
]
_STATES = {"missing": "new"}  # what is said of a certificate once it is written
_SHOWN = 4  # names of a certificate in the table of a plan

app = command_app("Issue and renew the certificates of a cluster without kubeadm.")


@app.command()
@takes(PkiInitSettings)
def init(ctx: typer.Context) -> None:
    """Write a pki.toml with comments, to be edited."""
    settings, screen = begin(ctx, PkiInitSettings)
    path = write_template(settings.dir)
    screen.result(
        {"file": str(path)}, [f"{path}: write your nodes into it, then run `kbuild pki plan`."]
    )


@app.command()
@takes(PkiPlanSettings)
def plan(ctx: typer.Context) -> None:
    """Show what would be issued, from what and why, and change nothing."""
    settings, screen = begin(ctx, PkiPlanSettings)
    planned = _plan(settings, cap=settings.cap)
    decisions = decide(planned, datetime.now(UTC))
    if settings.node_list is not None:
        found = tuple(gaps(planned, read_nodes(settings.node_list)))
        planned = replace(planned, notes=(*planned.notes, *found))
    screen.result(_plan_document(planned, decisions), _plan_lines(planned, decisions))


@app.command()
@takes(PkiIssueSettings)
def issue(ctx: typer.Context) -> None:
    """Issue the certificates that are missing, or not as planned."""
    settings, screen = begin(ctx, PkiIssueSettings)
    _carry_out(screen, lambda: (_plan(settings, cap=settings.cap), ()), decide)


@app.command()
@takes(PkiRenewSettings)
def renew(ctx: typer.Context, names: Names = None) -> None:
    """Issue certificates again with the same names and new dates. CAs are not renewed."""
    settings, screen = begin(ctx, PkiRenewSettings)
    before = timedelta(seconds=settings.before) if settings.before is not None else None
    renewal = Renewal(names=names or (), before=before, new_keys=settings.new_keys)

    def chosen(planned: Plan, now: datetime) -> tuple[Decision, ...]:
        leaves = [each.name for each in planned.specs if not each.wanted.is_ca]
        for name in renewal.names:
            if name not in leaves:
                raise UnknownCertificate(name=name, known=", ".join(leaves))
        return tuple(each for each in decide(planned, now, renewal) if _is_renewed(each))

    _carry_out(screen, lambda: (_plan(settings, cap=settings.cap), ()), chosen)


@app.command(name="add-host")
@takes(PkiAddHostSettings)
def add_host(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the host.")],
    addresses: Annotated[list[str], typer.Argument(metavar="ADDRESS", help="Its addresses.")],
) -> None:
    """Write a host into the plan, and issue only the certificates that must hold it."""
    settings, screen = begin(ctx, PkiAddHostSettings)

    def made() -> tuple[Plan, tuple[File, ...]]:
        return with_host(
            settings.dir,
            name,
            tuple(addresses),
            roles=settings.role,
            certificates=settings.certificate,
            profiles=dict(settings.profile),
            cap=settings.cap,
        )

    _carry_out(screen, made, decide)


@app.command(name="extend-ca")
@takes(PkiExtendCaSettings)
def extend_ca(ctx: typer.Context, names: Names = None) -> None:
    """Issue CAs again with the same keys and names and new dates."""
    settings, screen = begin(ctx, PkiExtendCaSettings)
    _carry_out(
        screen, lambda: (_plan(settings), ()), lambda planned, _: extension(planned, names or ())
    )
    screen.say("distribute the new CAs; what the old ones signed stays valid with both")


@app.command()
@takes(PkiCheckSettings)
def check(ctx: typer.Context) -> None:
    """Show all certificates as `kbuild certs` does, and fail if they are not as planned."""
    settings, screen = begin(ctx, PkiCheckSettings)
    planned, now = _plan(settings), datetime.now(UTC)
    decisions = decide(planned, now)
    inventory = inventory_of_plan(planned, now, screen)
    shown = {**document(inventory), "plan": _plan_document(planned, decisions)}
    screen.result(shown, _check_lines(inventory_lines(inventory, screen), decisions))
    demand_as_planned(decisions, inventory)
    if settings.fail_before is not None:
        demand_longer(inventory, timedelta(seconds=settings.fail_before))


app.command()(takes(PkiComponentsSettings)(components))


def _plan(settings: Planned, *, cap: bool = False) -> Plan:
    return plan_of(settings.dir, profiles=dict(settings.profile), cap=cap)


def _carry_out(
    screen: Screen,
    made: Callable[[], tuple[Plan, tuple[File, ...]]],
    chosen: Callable[[Plan, datetime], tuple[Decision, ...]],
) -> None:
    """Make the plan, again under its lock: another run may have changed its files meanwhile."""
    first, _ = made()
    with locked(first.output, first.key_folders) as is_finished:
        if is_finished:
            screen.say("an earlier run was killed while it replaced files; it is finished now")
        planned, files = made()
        now = datetime.now(UTC).replace(microsecond=0)
        decisions = chosen(planned, now)
        written = carry_out(planned, decisions, now, screen, files)
        for file in files:
            screen.say(f"{file.path}: changed")
    kept = len(decisions) - len(written)
    shown = {
        "output": str(planned.output),
        "written": [_written_document(each) for each in written],
        "kept": kept,
        "notes": list(planned.notes),
    }
    screen.result(shown, _written_lines(planned, written, kept))


def _is_renewed(decision: Decision) -> bool:
    """Tell whether a decision belongs to a renewal: CAs are needed to sign."""
    is_ca = isinstance(decision.spec, Spec) and decision.spec.wanted.is_ca
    return is_ca or decision.state in ("renewed", "kept")


def _written_lines(planned: Plan, written: tuple[Written, ...], kept: int) -> Iterator[str | Table]:
    if written:
        table = plain_table("certificate", "state", "NotAfter", "files")
        table.columns[3].no_wrap, table.columns[3].overflow = False, "fold"
        for each in written:
            names = ", ".join(_below(planned.output, path) for path in each.files)
            table.add_row(
                each.name,
                _STATES.get(each.state, each.state),
                day(each.not_after) if each.not_after else "",
                names,
            )
        yield table
    yield from planned.notes
    verb = "is" if kept == 1 else "are"
    yield f"{planned.output}: {len(written)} issued, {kept} {verb} as planned."


def _plan_lines(planned: Plan, decisions: tuple[Decision, ...]) -> Iterator[str | Table]:
    table = plain_table("certificate", "state", "CA", "lifetime", "names", "from", "why")
    for column in table.columns[4:]:
        column.no_wrap, column.overflow = False, "fold"
    for each in decisions:
        spec = each.spec
        why = "; ".join(each.reasons)
        if isinstance(spec, Pair):
            table.add_row(spec.name, each.state, "", "", "", spec.source, why)
            continue
        names = [name.partition(":")[2] for name in spec.wanted.names]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        table.add_row(
            spec.name,
            each.state,
            spec.issuer or "itself",
            hours(spec.term.lifetime),
            ", ".join(names[:_SHOWN]) + more,
            spec.source,
            why,
        )
    yield table
    yield from planned.notes
    if is_unfinished(planned.output):
        yield "An earlier run was killed while it replaced files. `kbuild pki issue` finishes it."
    todo = sum(not each.is_kept for each in decisions)
    kept = len(decisions) - todo
    yield f"{planned.output}: {counted(todo, 'certificate')} to issue, {kept} as planned."


def _check_lines(
    lines: Iterable[str | Text | Table], decisions: tuple[Decision, ...]
) -> Iterator[str | Text | Table]:
    yield from lines
    todo = [each for each in decisions if not each.is_kept]
    if todo:
        yield ""
        yield "not as planned:"
    for each in todo:
        yield f"  {each.spec.name}: {'; '.join(each.reasons) or each.state}"


def _plan_document(planned: Plan, decisions: tuple[Decision, ...]) -> dict[str, Any]:
    return {
        "output": str(planned.output),
        "certificates": [_decision_document(each) for each in decisions],
        "notes": list(planned.notes),
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
            "issuer": spec.issuer,
            "names": list(spec.wanted.names),
            "usages": list(spec.wanted.usages),
            "is_ca": spec.wanted.is_ca,
            "lifetime_seconds": int(spec.term.lifetime.total_seconds()),
        }
    return shown


def _written_document(written: Written) -> dict[str, Any]:
    return {
        "name": written.name,
        "state": written.state,
        "reasons": list(written.reasons),
        "files": list(map(str, written.files)),
        "not_after": rfc3339(written.not_after) if written.not_after else None,
        "sha256": written.fingerprint,
    }


def _below(output: Path, path: Path) -> str:
    return str(path.relative_to(output) if path.is_relative_to(output) else path)
