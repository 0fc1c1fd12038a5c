"""``kbuild pki``: issue and renew the certificates of a cluster without kubeadm."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any

import typer
from rich.table import Table

from kbuild.base.words import counted
from kbuild.certs.api import demand_longer, document
from kbuild.cli.boundary import begin
from kbuild.cli.console import Screen
from kbuild.cli.options import command_app, takes
from kbuild.cli.pki_components import components
from kbuild.cli.pki_planned import check_lines, command, plan_document, plan_lines
from kbuild.cli.pki_rotation import show_rotations, show_step
from kbuild.cli.pki_written import (
    delivery_document,
    delivery_lines,
    holding,
    reasons,
    summary,
    tokens_of,
    written_document,
    written_table,
)
from kbuild.pki.api import (
    Derived,
    File,
    HostChange,
    Renewal,
    carry_out,
    decide,
    deliveries_of,
    demand_as_planned,
    demand_ends,
    demand_renewable,
    derive,
    extension,
    gaps,
    inventory_of_plan,
    plan_of,
    read_nodes,
    telling_unfinished,
    token_keys,
    with_host,
    without_host,
    write_derived,
    write_template,
)
from kbuild.pki.model import Decision, Plan, Spec
from kbuild.settings import (
    PkiAddHostSettings,
    PkiCheckSettings,
    PkiComponentsSettings,
    PkiExtendCaSettings,
    PkiImportSettings,
    PkiInitSettings,
    PkiIssueSettings,
    PkiPlanSettings,
    PkiRemoveHostSettings,
    PkiRenewSettings,
    PkiRotateCaSettings,
    Planned,
)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Certificates, by their names in the plan. Default: all."),
]

# A plan, what is done about it, and the files of the plan that are changed with it.
_Run = tuple[Plan, tuple[Decision, ...], tuple[File, ...]]

app = command_app("Issue and renew the certificates of a cluster without kubeadm.")


@app.command()
@takes(PkiInitSettings)
def init(ctx: typer.Context) -> None:
    """Write a pki.toml with comments, to be edited."""
    settings, screen = begin(ctx, PkiInitSettings)
    path = write_template(settings.dir)
    screen.result(
        {"file": str(path)},
        [f"{path}: write your nodes into it, then run {command('plan', settings.dir)}."],
    )


@app.command(name="import")
@takes(PkiImportSettings)
def import_(ctx: typer.Context) -> None:
    """Derive a plan from the certificates that are there, which keeps them all."""
    settings, screen = begin(ctx, PkiImportSettings)
    if settings.dry_run:
        derived = derive(settings.dir, settings.without, dict(settings.ca_key))
    else:
        now = datetime.now(UTC).replace(microsecond=0)
        derived = write_derived(settings.dir, settings.without, now, dict(settings.ca_key))
    screen.result(_import_document(derived), _import_lines(derived, settings))


@app.command()
@takes(PkiPlanSettings)
def plan(ctx: typer.Context) -> None:
    """Show what would be issued, from what and why, and change nothing."""
    settings, screen = begin(ctx, PkiPlanSettings)
    with telling_unfinished(settings.dir):
        planned, now = _plan(settings, cap=settings.cap), datetime.now(UTC)
        decisions = decide(planned, now)
        demand_ends(planned, decisions, now)
    if settings.node_list is not None:
        found = tuple(gaps(planned, read_nodes(settings.node_list)))
        planned = replace(planned, notes=(*planned.notes, *found))
    screen.result(plan_document(planned, decisions), plan_lines(planned, decisions, screen))


@app.command()
@takes(PkiIssueSettings)
def issue(ctx: typer.Context) -> None:
    """Issue the certificates that are missing, or not as planned."""
    settings, screen = begin(ctx, PkiIssueSettings)
    encrypts = settings.encrypt_ca_keys

    def made(now: datetime) -> _Run:
        planned = _plan(settings, cap=settings.cap, encrypts_ca_keys=encrypts)
        decisions = decide(planned, now)
        if encrypts:  # which does nothing for the keys that are there
            told = (
                f"{e.spec.name}: {'; '.join(e.reasons)}"
                for e in decisions
                if e.is_kept and e.reasons
            )
            planned = replace(planned, notes=(*planned.notes, *told))
        return planned, decisions, ()

    _carry_out(screen, settings, made)


@app.command()
@takes(PkiRenewSettings)
def renew(ctx: typer.Context, names: Names = None) -> None:
    """Issue certificates again with the same names and new dates. CAs are not renewed."""
    settings, screen = begin(ctx, PkiRenewSettings)
    before = timedelta(seconds=settings.before) if settings.before is not None else None
    renewal = Renewal(names=names or (), before=before, new_keys=settings.new_keys)

    def made(now: datetime) -> _Run:
        planned = _plan(settings, cap=settings.cap)
        demand_renewable(planned, renewal.names)
        decisions = decide(planned, now, renewal)
        return planned, tuple(each for each in decisions if _is_renewed(each)), ()

    _carry_out(screen, settings, made)


@app.command(name="add-host")
@takes(PkiAddHostSettings)
def add_host(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the host.")],
    addresses: Annotated[list[str], typer.Argument(metavar="ADDRESS", help="Its addresses.")],
) -> None:
    """Write a host into the plan, and issue only the certificates that must hold it."""
    settings, screen = begin(ctx, PkiAddHostSettings)

    def changed() -> HostChange:
        planned = partial(_plan, settings, cap=settings.cap)
        roles, certificates = settings.role, settings.certificate
        return with_host(planned, name, tuple(addresses), roles=roles, certificates=certificates)

    _carry_out(screen, settings, partial(_of_host, settings, changed))


@app.command(name="remove-host")
@takes(PkiRemoveHostSettings)
def remove_host(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the host.")],
    addresses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ADDRESS",
            help="Its addresses. With pki.toml: only these, and the node stays. Default: the node.",
        ),
    ] = None,
) -> None:
    """Take a host out of the plan, and issue the certificates that held it without it."""
    settings, screen = begin(ctx, PkiRemoveHostSettings)

    def changed() -> HostChange:
        planned = partial(_plan, settings, cap=settings.cap)
        certificates = settings.certificate
        return without_host(planned, name, tuple(addresses or ()), certificates=certificates)

    _carry_out(screen, settings, partial(_of_host, settings, changed))


@app.command(name="extend-ca")
@takes(PkiExtendCaSettings)
def extend_ca(ctx: typer.Context, names: Names = None) -> None:
    """Issue CAs again with the same keys and names and new dates."""
    settings, screen = begin(ctx, PkiExtendCaSettings)

    def made(_: datetime) -> _Run:
        planned = _plan(settings)
        return planned, extension(planned, names or ()), ()

    _carry_out(screen, settings, made)
    screen.say("what the old CAs signed stays valid with the new ones")


@app.command(name="rotate-ca")
@takes(PkiRotateCaSettings)
def rotate_ca(ctx: typer.Context, names: Names = None) -> None:
    """Replace CAs by ones with new keys, step by step. Without --step, tell which step is next."""
    settings, screen = begin(ctx, PkiRotateCaSettings)
    if settings.step is None:
        with telling_unfinished(settings.dir):
            planned = _plan(settings, cap=settings.cap)
            show_rotations(screen, planned, names or ())
    else:
        encrypts = settings.encrypt_ca_keys
        made = partial(_plan, settings, cap=settings.cap, encrypts_ca_keys=encrypts)
        show_step(screen, settings, made, names or ())


@app.command()
@takes(PkiCheckSettings)
def check(ctx: typer.Context) -> None:
    """Show all certificates as `kbuild certs` does, and fail if they are not as planned."""
    settings, screen = begin(ctx, PkiCheckSettings)
    now = datetime.now(UTC)
    with telling_unfinished(settings.dir):
        planned = _plan(settings)
        decisions = decide(planned, now)
    with tokens_of(settings, screen) as tokens:
        keys = tuple(token_keys(planned, tokens))
    inventory = inventory_of_plan(planned, now, screen)
    shown = {
        **document(inventory),
        "plan": plan_document(planned, decisions),
        "token_keys": [asdict(each) for each in keys],
    }
    screen.result(shown, check_lines(inventory, planned, decisions, keys, screen))
    demand_as_planned(decisions, inventory)
    if settings.fail_before is not None:
        demand_longer(inventory, settings.fail_before)


app.command()(takes(PkiComponentsSettings)(components))


def _plan(settings: Planned, **more: Any) -> Plan:  # noqa: ANN401  # as plan_of
    return plan_of(
        settings.dir,
        profiles=dict(settings.profile),
        signers=dict(settings.signer),
        ca_keys=dict(settings.ca_key),
        **more,
    )


def _of_host(settings: Planned, changed: Callable[[], HostChange], now: datetime) -> _Run:
    """Return what a host changes, with notes on what else is not as planned."""
    change = changed()
    decisions, others = change.decide(now)
    notes = [*change.plan.notes, *change.notes()]
    if others:
        verb = "is" if others == 1 else "are"
        see = command("plan", settings.dir)
        notes.append(f"{counted(others, 'other')} {verb} not as planned; see {see}.")
    return replace(change.plan, notes=tuple(notes)), decisions, change.files


def _carry_out(screen: Screen, settings: Planned, made: Callable[[datetime], _Run]) -> None:
    """Make the plan under its lock, and do what is chosen of it."""
    with tokens_of(settings, screen) as tokens, holding(settings.dir, screen):
        now = datetime.now(UTC).replace(microsecond=0)
        planned, decisions, files = made(now)
        written = carry_out(planned, decisions, now, screen, files, tokens=tokens)
        for file in files:
            screen.say(f"{file.path}: {'changed' if file.content is not None else 'removed'}")
    kept = len(decisions) - len(written)
    todo = tuple(deliveries_of(planned, written))
    shown = {
        "output": str(planned.output),
        "written": [written_document(each) for each in written],
        "removed": [str(file.path) for file in files if file.content is None],
        "kept": kept,
        "distribute": [delivery_document(each) for each in todo],
        "notes": list(planned.notes),
    }
    lines: list[str | Table] = [
        *written_table(planned.output, written),
        *reasons(written),
        *planned.notes,
        summary(planned.output, written, kept),
        *delivery_lines(planned, todo),
    ]
    screen.result(shown, lines)


def _import_lines(derived: Derived, settings: PkiImportSettings) -> Iterator[str]:
    for path, content in derived.files.items():
        if not settings.dry_run:
            yield f"{path}: written"
            continue
        yield f"--- {path}"
        yield from content.decode().splitlines()
    yield from derived.notes
    kept = counted(len(derived.kept), "certificate")
    plan = command("plan", settings.dir)
    yield f"{derived.plan.output}: {kept} kept by this plan. {plan} shows it."


def _import_document(derived: Derived) -> dict[str, Any]:
    return {
        "files": [
            {"path": str(path), "content": content.decode()}
            for path, content in derived.files.items()
        ],
        "kept": [each.name for each in derived.kept],
        "notes": list(derived.notes),
    }


def _is_renewed(decision: Decision) -> bool:
    """Tell whether a decision belongs to a renewal: CAs are needed to sign."""
    is_ca = isinstance(decision.spec, Spec) and decision.spec.wanted.is_ca
    return is_ca or decision.state in ("renewed", "kept")
