"""``kbuild nodes``: the commands, and what those that change nodes have in common."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TextIO

import typer
from platformdirs import user_state_path
from rich.table import Table

from kbuild.base.errors import BadSetting, NotWritable
from kbuild.base.files import reason_of
from kbuild.base.values import compact, rfc3339
from kbuild.base.words import counted
from kbuild.cli.asking import answer, secret
from kbuild.cli.boundary import begin
from kbuild.cli.check import demand_whole
from kbuild.cli.console import Screen, plain_table, visible
from kbuild.cli.nodes_check import show_check
from kbuild.cli.nodes_renew import (
    ControlPlanner,
    control_planes,
    obeying_stored,
    planned,
    renewal_of,
    show_kept,
    undo_of,
)
from kbuild.cli.options import ReleaseFolder, command_app, takes
from kbuild.nodes.api import (
    Access,
    Connection,
    HostsRefused,
    HostsUnreachable,
    Issues,
    Kubeadm,
    NoPassword,
    NotConfirmed,
    Prover,
    Run,
    RunFailed,
    RunInterrupted,
    Watcher,
    Wishes,
    Worker,
    carry_out,
    connections,
    demand_idle,
    demand_readable,
    each_once,
    expired_workers,
    list_backups,
    not_root,
    plan_install,
    plan_rollback,
    read_hosts,
    remove_token,
    run_name,
    survey,
    worker_advice,
)
from kbuild.nodes.model import Host, HostFacts, HostPlan, Outcome, Refusal, State, Step
from kbuild.release.api import Checked, Demands, NotARelease, binary_name, check_folder
from kbuild.settings import (
    ChangesNodes,
    NodesCheckSettings,
    NodesInstallSettings,
    NodesRenewSettings,
    NodesRollbackSettings,
    NodesUndoSettings,
    OnNodes,
    ReplacesKubeadm,
    RestartsControlPlanes,
)

SUDO_PASSWORD = "SUDO_PASSWORD"  # the name of the variable

Planner = Callable[[list[HostFacts], str], tuple[list[HostPlan], list[Refusal]]]

app = command_app("Install kubeadm on nodes, renew their certificates, and take both back.")


@app.command()
@takes(NodesInstallSettings)
def install(ctx: typer.Context, folder: ReleaseFolder) -> None:
    """Replace kubeadm on hosts with that of a release, and keep the old one."""
    settings, screen = begin(ctx, NodesInstallSettings)
    hosts = _hosts(settings, screen)
    screen.stage("release")
    kubeadms = _kubeadms(folder, Demands(key=settings.key))

    def planner(facts: list[HostFacts], at: str) -> tuple[list[HostPlan], list[Refusal]]:
        return plan_install(facts, Wishes(kubeadms=kubeadms, at=at, hold=settings.hold))

    _change(settings, screen, hosts, planner)
    if not settings.dry_run:
        screen.say("certificates are as they were; renew those of the control planes with:")
        screen.say("kbuild nodes renew, with the same hosts")


@app.command()
@takes(NodesRollbackSettings)
def rollback(ctx: typer.Context) -> None:
    """Bring back a kubeadm that was on hosts before."""
    settings, screen = begin(ctx, NodesRollbackSettings)
    hosts = _hosts(settings, screen)
    if settings.list:
        with connections(hosts) as connected:
            facts = _asked(settings, screen, connected)
        _show_backups(facts, screen)
        return
    _change(settings, screen, hosts, lambda facts, at: plan_rollback(facts, settings.to or "", at))


@app.command()
@takes(NodesCheckSettings)
def check(
    ctx: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH", help="More files and directories of the nodes to read certificates in."
        ),
    ] = None,
) -> None:
    """Show what is on hosts, what they serve and what will expire, and change nothing."""
    settings, screen = begin(ctx, NodesCheckSettings)
    known = dict(_known(settings.release))
    show_check(settings, screen, _hosts(settings, screen), known, tuple(paths or ()))


def _known(folders: Iterable[Path]) -> Iterator[tuple[str, Issues]]:
    """Yield the lifetimes that the kubeadms of releases issue, by sha256."""
    for folder in folders:
        for release in check_folder(folder, Demands()):
            demand_whole(release)
            for _, kubeadm in _binaries(release):
                yield kubeadm.sha256, kubeadm.issues


@app.command()
@takes(NodesRenewSettings)
def renew(ctx: typer.Context) -> None:
    """Renew the certificates of control planes, one after the other. Name all of them."""
    settings, screen = begin(ctx, NodesRenewSettings)
    _change_control_planes(settings, screen, renewal_of(settings))


@app.command()
@takes(NodesUndoSettings)
def undo(ctx: typer.Context) -> None:
    """Bring back the certificates that control planes had before they were renewed."""
    settings, screen = begin(ctx, NodesUndoSettings)
    if settings.list:
        hosts = _hosts(settings, screen)
        with connections(hosts) as connected:
            facts = _asked(settings, screen, connected)
            found, unreachable = list_backups(facts, connected, settings.parallel)
        if unreachable:
            raise _too_many(len(hosts), unreachable, [])
        show_kept(found, screen)
        return
    _change_control_planes(settings, screen, undo_of(settings))


def _hosts(settings: OnNodes, screen: Screen) -> tuple[Host, ...]:
    access = Access(
        user=settings.user or "",
        sudo=settings.sudo or settings.ask_sudo_password,
        sudo_password=_sudo_password(settings, screen),
        ssh_config=settings.ssh_config,
        known_hosts=settings.known_hosts,
    )
    demand_readable(access)
    return read_hosts(settings.hosts, settings.inventory, settings.limit, access)


def _sudo_password(settings: OnNodes, screen: Screen) -> str:
    """Return the password of sudo, or an empty text; raises NoPassword or BadSetting."""
    if not settings.ask_sudo_password:
        password = os.environ.get(SUDO_PASSWORD, "")
    else:
        given = secret(screen, "password of sudo on the hosts")
        if given is None:
            raise NoPassword(variable=SUDO_PASSWORD)
        password = given
    if not password.isprintable():  # what follows a line break would be run as a command
        reason, hint = "it has a control character", "give it without a line break at its end"
        raise BadSetting(name=SUDO_PASSWORD, value="…", reason=reason, hint=hint)
    return password


def _kubeadms(folder: Path, demands: Demands) -> dict[str, Kubeadm]:
    """Return the binaries of a release that is whole and meets the demands, by architecture."""
    releases = check_folder(folder, demands)
    for release in releases:
        demand_whole(release)
    if len(releases) > 1:
        raise NotARelease(path=folder, reason="it holds several releases; name one")
    return dict(_binaries(releases[0]))


def _binaries(release: Checked) -> Iterator[tuple[str, Kubeadm]]:
    assert release.statement is not None
    asked = release.statement.asked
    years = asked["lifetimes"]
    for arch in asked["arches"]:
        name = binary_name(arch, asked["layout"])
        file = release.folder / name
        yield (
            arch,
            Kubeadm(
                file=file,
                sha256=release.statement.subjects[name]["sha256"],
                size=file.stat().st_size,
                version=asked["version"],
                issues=Issues(ca_years=years["ca_years"], leaf_years=years["leaf_years"]),
            ),
        )


def _survey(
    settings: ChangesNodes, screen: Screen, connected: Mapping[str, Connection]
) -> tuple[list[HostFacts], list[Refusal]]:
    """Ask all hosts what they are like; say of each whether it answers."""
    screen.stage("hosts")

    def told(done: int, total: int) -> None:
        screen.advance("hosts asked", done, total)

    facts, unreachable = survey(connected, settings.parallel, settings.path or "", told)
    screen.close()
    answered = f"{len(facts)} of " if unreachable else "all " if len(facts) > 1 else ""
    screen.say(f"{answered}{counted(len(connected), 'host')} answered")
    return facts, unreachable


def _asked(
    settings: ChangesNodes, screen: Screen, connected: Mapping[str, Connection]
) -> list[HostFacts]:
    """Return what all hosts are like, for somebody who wants to see their backups.

    Raises HostsUnreachable, or HostsRefused for a user who cannot see them.
    """
    facts, unreachable = _survey(settings, screen, connected)
    if unreachable:
        raise _too_many(len(connected), unreachable, [])
    if strangers := [stranger for each in facts for stranger in not_root(each)]:
        raise _too_many(len(connected), [], strangers)
    return facts


def _too_many(
    hosts: int, unreachable: list[Refusal], refused: list[Refusal], options: str = "--limit"
) -> HostsUnreachable | HostsRefused:
    """Return the error of a run that has not begun, which names all hosts that cannot take part."""
    both = [*unreachable, *refused]
    count = f"{len({each.host for each in both})} of {counted(hosts, 'host')}"
    or_else = f", or leave hosts out with {options}"
    details = "\n".join(map(str, both))
    if unreachable:
        return HostsUnreachable(count=count, or_else=or_else, details=details)
    return HostsRefused(count=count, or_else=or_else, details=details)


def _left_out(state: State, refusals: list[Refusal]) -> Iterator[Outcome]:
    """Yield what became of hosts that cannot take part, each with all of its reasons."""
    for host in dict.fromkeys(each.host for each in refusals):
        mine = [each for each in refusals if each.host == host]
        reason = "; ".join(each.reason for each in mine)
        todo = "; ".join(each.todo for each in mine)
        yield Outcome(host=host, state=state, reason=reason, todo=todo)


def _change(
    settings: ReplacesKubeadm, screen: Screen, hosts: tuple[Host, ...], planner: Planner
) -> None:
    now = compact(datetime.now(UTC))
    with connections(hosts) as connected:
        facts, unreachable = _survey(settings, screen, connected)
        machines, others = each_once(facts)
        plans, refused = planner(machines, now)
        refused += others
        left_out = [*_left_out("unreachable", unreachable), *_left_out("refused", refused)]
        if len(left_out) > settings.max_fail:
            options = "--limit or --max-fail N"
            raise _too_many(len(hosts), unreachable, refused, options)
        for each in left_out:
            screen.say(f"{each.host}: {each.state}: {each.reason}")
        run = Run(
            name=run_name(),
            parallel=settings.parallel,
            max_fail=settings.max_fail - len(left_out),
            take_over=settings.take_over,
        )
        _run(
            *(settings, screen, run, plans, left_out),
            lambda watcher: carry_out(plans, connected, run, watcher),
        )


def _change_control_planes(
    settings: RestartsControlPlanes, screen: Screen, planner: ControlPlanner
) -> None:
    hosts = _hosts(settings, screen)
    with connections(hosts) as connected:
        everyone, by_force = connected.values(), settings.take_over
        demand_idle(everyone, settings.parallel, screen.say, by_force=by_force)
        facts, unreachable = _survey(settings, screen, connected)
        facts, others = each_once(facts)
        if unreachable or others:
            raise _too_many(len(hosts), unreachable, others)
        planes = control_planes(facts, connected, settings.parallel, screen)
        expired: list[Worker] = []
        if isinstance(settings, NodesRenewSettings):
            if not any(each.needs_repair for each in planes):
                planes = obeying_stored(planes, connected, settings)
            workers = [each for each in facts if not each.is_control_plane]
            expired = expired_workers(workers, connected, settings.parallel, screen.say)
        plans, token = planned(planes, expired, connected, planner)
        # No plan of a control plane is independent, so never two at once, and none after one has
        # failed.
        run = Run(
            name=run_name(),
            parallel=settings.parallel,
            max_fail=0,
            take_over=settings.take_over,
            locks_all=True,
        )
        prover = Prover(planes={p.name: p for p in planes}, connections=connected)

        def carry(watcher: Watcher) -> Iterable[Outcome]:
            try:
                return carry_out(plans, connected, run, watcher, prover)
            finally:
                remove_token(token, connected, watcher.tell)

        _run(settings, screen, run, plans, [], carry)
        for line in worker_advice(planes[0], expired):
            screen.say(line)


def _run(
    settings: ChangesNodes,
    screen: Screen,
    run: Run,
    plans: list[HostPlan],
    left_out: list[Outcome],
    carry: Callable[[Watcher], Iterable[Outcome]],
) -> None:
    """Show plans, or ask whether to carry them out, do it, and report what became of each host."""
    if settings.dry_run:
        screen.result(_plan_document(plans, left_out), list(_plan_lines(plans)))
        return
    _confirm(settings, screen, plans)
    screen.stage("nodes")
    with _log(run.name) as log:
        watcher = _Watcher(screen, log, len({plan.host.name for plan in plans}))
        with _interrupts_told(plans, watcher):
            outcomes = carry(watcher)
        _report([*outcomes, *left_out], plans, run, screen)


def _confirm(settings: ChangesNodes, screen: Screen, plans: list[HostPlan]) -> None:
    changed = [plan for plan in plans if plan.steps]
    for line in _plan_lines(plans):
        if isinstance(line, str):
            screen.say(line)
    if not changed or settings.yes:
        return
    count = counted(len({plan.host.name for plan in changed}), "host")
    if settings.json or not answer(screen, lambda: typer.confirm(f"Change {count}?", err=True)):
        raise NotConfirmed(count=count)


@contextlib.contextmanager
def _interrupts_told(plans: list[HostPlan], watcher: "_Watcher") -> Iterator[None]:
    """Raise RunInterrupted, which names what became of each host, for an interrupted run."""
    try:
        yield
    except KeyboardInterrupt:
        hosts: dict[str, list[str]] = {}
        busy = {plan.host.name for plan in plans if plan.steps}
        for name in dict.fromkeys(plan.host.name for plan in plans):
            begun = "failed" if name in watcher.doing else "not-started"
            state = watcher.states.get(name, begun if name in busy else "unchanged")
            hosts.setdefault(state, []).append(name)
        details = "\n".join(f"{state}: {', '.join(names)}" for state, names in hosts.items())
        raise RunInterrupted(details=details) from None


class _Watcher:
    """Shows what happens on each host, and writes it to the log of the run; threads call it."""

    def __init__(self, screen: Screen, log: TextIO, count: int) -> None:
        self._screen, self._file, self._count = screen, log, count
        self.doing: dict[str, str] = {}  # of the hosts that have begun
        self.states: dict[str, State] = {}  # of the hosts that have ended
        self._one_at_a_time = threading.RLock()

    def step(self, host: str, step: Step, number: int, of: int) -> None:
        with self._one_at_a_time:
            self.doing[host] = f"{number} of {of}: {step.name}"
            self._screen.follow(host, self.doing[host], 0, None)

    def sent(self, host: str, done: int, total: int) -> None:
        with self._one_at_a_time:
            self._screen.follow(host, self.doing[host], done, total, "bytes")

    def ended(self, outcome: Outcome) -> None:
        where = f" in the step {outcome.step}: {outcome.reason}" if outcome.step else ""
        with self._one_at_a_time:
            self.states[outcome.host] = outcome.state
            self._screen.leave(outcome.host)
            self._screen.advance("hosts that have ended", len(self.states), self._count)
            self.tell(f"{outcome.host}: {outcome.state}{where}")

    def tell(self, text: str) -> None:
        with self._one_at_a_time:
            self._screen.say(text)
            self.note(text)

    def note(self, text: str) -> None:
        with self._one_at_a_time, contextlib.suppress(OSError):  # its disk may be full
            self._file.write(f"{rfc3339(datetime.now(UTC))} {visible(text)}\n")
            self._file.flush()


@contextlib.contextmanager
def _log(name: str) -> Iterator[TextIO]:
    """Open the log of a run, which only its user may read."""
    folder = user_state_path("kbuild") / "runs"
    path = folder / f"{name}.log"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NotWritable(path=path, reason=reason_of(error)) from error
    with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
        yield file


def _report(outcomes: list[Outcome], plans: list[HostPlan], run: Run, screen: Screen) -> None:
    notes: dict[str, list[str]] = {}
    for plan in plans:
        notes.setdefault(plan.host.name, []).extend(plan.notes)
    document = {
        "run": run.name,
        "hosts": [
            {
                "host": each.host,
                "state": each.state,
                "step": each.step,
                "reason": each.reason,
                "notes": notes.get(each.host, []),
            }
            for each in outcomes
        ],
    }
    failed = [each for each in outcomes if each.state not in ("changed", "unchanged")]
    table = plain_table("host", "state", "step", "reason")
    for each in outcomes:
        table.add_row(each.host, each.state, each.step, each.reason)
    screen.result(document, [table])
    if failed:
        good = len(outcomes) - len(failed)
        raise RunFailed(
            count=f"{len(failed)} of {counted(len(outcomes), 'host')}",
            rest=f"{good} {'is' if good == 1 else 'are'} as requested",
            details="\n".join(_what_is_true(each) for each in failed),
        )


_NOW = {
    "undone": "the host is as it was before",
    "failed": "the steps before it are done, and kept",
    "not-started": "nothing was done there",
    "unreachable": "nothing was changed there",
    "refused": "nothing was changed there",
}


def _what_is_true(outcome: Outcome) -> str:
    where = f"the step {outcome.step} failed: {outcome.reason}; now " if outcome.step else ""
    if outcome.reason and not outcome.step:
        where = f"{outcome.reason}; "
    now = _NOW[outcome.state]
    if outcome.kept:
        still = ", ".join(outcome.kept)
        now = f"what was done in {still} is still there, and the other steps are undone"
    return f"{outcome.host}: {where}{now}; {outcome.todo}"


def _plan_lines(plans: list[HostPlan]) -> Iterator[str | Table]:
    """Yield each plan once, with the hosts that have it: 50 hosts mostly have the same."""
    hosts: dict[tuple[str, ...], list[str]] = {}
    for plan in plans:
        hosts.setdefault(tuple(_one_plan(plan)), []).append(plan.host.name)
    for (first, *others), names in hosts.items():
        yield f"{', '.join(names)}: {first}"
        yield from others


def _one_plan(plan: HostPlan) -> Iterator[str]:
    yield counted(len(plan.steps), "step") if plan.steps else "nothing to do"
    for number, step in enumerate(plan.steps, 1):
        yield f"  {number}. {step.name}: {step.what} ({step.why})"
    for note in plan.notes:
        yield f"  note: {note}"


def _plan_document(plans: list[HostPlan], left_out: list[Outcome]) -> dict[str, object]:
    return {
        "left_out": [
            {"host": each.host, "state": each.state, "reason": each.reason} for each in left_out
        ],
        "hosts": [
            {
                "host": plan.host.name,
                "steps": [
                    {
                        "name": step.name,
                        "what": step.what,
                        "why": step.why,
                        "check": str(step.check),
                        "do": str(step.do),
                        "confirm": str(step.confirm),
                        "undo": str(step.undo) if step.undo else None,
                    }
                    for step in plan.steps
                ],
                "notes": list(plan.notes),
            }
            for plan in plans
        ],
    }


def _show_backups(facts: list[HostFacts], screen: Screen) -> None:
    table = plain_table("host", "backup", "version", "of", "there now")
    for each in facts:
        if not each.generations:
            table.add_row(each.host.name, "none", "", "", "")
        for backup in each.generations:
            is_there = (backup.sha256, backup.path) == (each.sha256, each.target)
            cells = (backup.name, backup.version, backup.path, "yes" if is_there else "")
            table.add_row(each.host.name, *cells)
    document = {
        "hosts": [
            {
                "host": each.host.name,
                "kubeadm": each.target,
                "sha256": each.sha256,
                "version": each.version,
                "backups": [
                    {"name": b.name, "sha256": b.sha256, "version": b.version, "path": b.path}
                    for b in each.generations
                ],
            }
            for each in facts
        ]
    }
    screen.result(document, [table])
