"""What ``kbuild nodes renew`` and ``undo`` ask of control planes, and plan for them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from packaging.version import Version

from kbuild.base.values import compact, day, rfc3339
from kbuild.base.words import counted
from kbuild.cli.console import Screen, plain_table
from kbuild.config.api import change_lifetimes
from kbuild.kubernetes.configuration import configuration_of
from kbuild.kubernetes.durations import as_go
from kbuild.nodes.api import (
    Backup,
    Change,
    Connection,
    ControlPlane,
    HostsRefused,
    KeptBackup,
    NoControlPlane,
    RenewWishes,
    Token,
    UndoWishes,
    Worker,
    built_for,
    choose_backup,
    is_changed,
    leader_last,
    not_root,
    obeying,
    plan_renewal,
    plan_repair,
    plan_undo,
    plan_workers,
    read_stored,
    survey_control_planes,
    unhealthy,
    with_change,
    with_notes,
    with_restored,
)
from kbuild.nodes.model import HostFacts, HostPlan, Refusal
from kbuild.settings import NodesRenewSettings, NodesUndoSettings

# From control planes and the time to plans, or why some must not be changed.
ControlPlanner = Callable[
    [Sequence[ControlPlane], Mapping[str, Connection], str], tuple[list[HostPlan], list[Refusal]]
]
_PATIENCE = 30  # seconds that a cluster has to become healthy, after a run that was killed


def renewal_of(settings: NodesRenewSettings) -> ControlPlanner:
    """Return what plans a renewal."""

    def plan(
        planes: Sequence[ControlPlane], connected: Mapping[str, Connection], at: str
    ) -> tuple[list[HostPlan], list[Refusal]]:
        wishes = RenewWishes(
            at=at,
            drain=not settings.no_drain,
            users=settings.kubeconfig_for,
            may_shorten=settings.allow_shorter,
        )
        if any(each.needs_repair for each in planes):
            return plan_repair(planes, wishes)
        plans, refused = plan_renewal(planes, wishes)
        if not refused:
            refused = unhealthy(planes, connected, _PATIENCE)
        return (plans if refused else _with_stored(plans, planes, connected, settings)), refused

    return plan


def obeying_stored(
    planes: list[ControlPlane], connected: Mapping[str, Connection], settings: NodesRenewSettings
) -> list[ControlPlane]:
    """Return control planes with the lifetimes that they will issue, as the cluster may store them.

    Raises HostsRefused.
    """
    if not _obey(planes):
        return planes
    stored = read_stored(planes, connected)
    if stored is None:
        return planes
    found, refused = obeying(planes, stored, settings.stored_values, connected)
    _demand(refused, len(planes))
    return found


def _obey(planes: Sequence[ControlPlane]) -> bool:
    """Tell whether the kubeadms of control planes obey what the cluster stores."""
    return all(configuration_of(Version(each.facts.version)).validity for each in planes)


def _with_stored(
    plans: list[HostPlan],
    planes: Sequence[ControlPlane],
    connected: Mapping[str, Connection],
    settings: NodesRenewSettings,
) -> list[HostPlan]:
    """Return plans that tell what the cluster stores, and change it if that is wished.

    Raises BadStoredConfiguration.
    """
    if not _obey(planes):
        return plans
    stored = read_stored(planes, connected)
    change = None
    if stored and is_changed(planes, stored, settings.stored_values or ""):
        issues, tag = planes[0].facts.issues, planes[0].facts.version
        ca = as_go(timedelta(days=365 * issues.ca_years)) if issues else ""
        after = change_lifetimes(stored.text, tag, as_go(built_for(planes[0])), ca)
        change = Change(before=stored, after=after)
        plans = with_change(plans, planes, change)
    is_ignored = any(each.ignores_stored for each in planes)
    return with_notes(plans, stored, change, is_ignored=is_ignored)


def undo_of(settings: NodesUndoSettings) -> ControlPlanner:
    """Return what plans to take a renewal back."""

    def plan(
        planes: Sequence[ControlPlane], connected: Mapping[str, Connection], at: str
    ) -> tuple[list[HostPlan], list[Refusal]]:
        found = [choose_backup(each, settings.to or "", connected[each.name]) for each in planes]
        refused = [each for each in found if isinstance(each, Refusal)]
        if refused:
            return [], refused
        pairs = zip(planes, found, strict=True)
        chosen = {plane.name: each for plane, each in pairs if isinstance(each, Backup)}
        sick = {each.host for each in unhealthy(planes, connected, 0)}
        wishes = UndoWishes(at=at, drain=not settings.no_drain)
        plans, refused = plan_undo(planes, chosen, sick, wishes)
        for plane in planes:
            if plans and chosen[plane.name].configuration:
                stored = read_stored(planes, connected)
                plans = with_restored(plans, plane, chosen[plane.name], stored)
        return plans, refused

    return plan


def show_kept(found: Mapping[str, Sequence[KeptBackup]], screen: Screen) -> None:
    """Show the backups of each host."""
    table = plain_table("host", "backup", "made by run", "API server until", "MiB", "what is in it")
    for host, backups in sorted(found.items()):
        if not backups:
            table.add_row(host, "none", "", "", "", "")
        for each in backups:
            parts = ", ".join(each.parts) if each.is_whole else "damaged: it cannot be brought back"
            end = day(each.until) if each.until else ""
            table.add_row(host, each.name, each.run, end, f"{each.size / 1024:.0f}", parts)
    document = {
        "hosts": [
            {
                "host": host,
                "backups": [
                    {**asdict(each), "until": each.until and rfc3339(each.until)}
                    for each in backups
                ],
            }
            for host, backups in sorted(found.items())
        ]
    }
    screen.result(document, [table])


def control_planes(
    facts: Sequence[HostFacts], connected: Mapping[str, Connection], parallel: int, screen: Screen
) -> list[ControlPlane]:
    """Return what the control planes among hosts are like; raises HostsRefused."""
    chosen = [each for each in facts if each.is_control_plane]
    if not chosen:
        raise NoControlPlane(count=counted(len(facts), "host"))
    others = [each.host.name for each in facts if not each.is_control_plane]
    if others:
        screen.say(f"not control planes: {', '.join(others)}")
    _demand([stranger for each in chosen for stranger in not_root(each)], len(chosen))
    planes, refused = survey_control_planes(chosen, connected, parallel)
    _demand(refused, len(chosen))
    return planes


def planned(
    planes: Sequence[ControlPlane],
    expired: Sequence[Worker],
    connected: Mapping[str, Connection],
    planner: ControlPlanner,
) -> tuple[list[HostPlan], Token | None]:
    """Return the plans for control planes and expired workers, and the token for these.

    Raises HostsRefused.
    """
    at = compact(datetime.now(UTC))
    plans, refused = planner(leader_last(planes, connected), connected, at)
    _demand(refused, len(planes))  # before the workers: their plans need each manifest
    again, token = plan_workers(planes[0], expired, at)
    return [*plans, *again], token


def _demand(refused: Sequence[Refusal], count: int) -> None:
    if refused:
        hosts = len({each.host for each in refused})
        details = "\n".join(map(str, refused))
        of_all = f"{hosts} of {counted(count, 'control plane')}"
        raise HostsRefused(count=of_all, or_else="", details=details)
