"""What ``kbuild nodes renew`` and ``undo`` ask of control planes, and plan for them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from kbuild.base.values import compact
from kbuild.base.words import counted
from kbuild.cli.console import Screen
from kbuild.nodes.api import (
    Backup,
    Connection,
    ControlPlane,
    HostsRefused,
    NoControlPlane,
    RenewWishes,
    UndoWishes,
    choose_backup,
    leader_last,
    not_root,
    plan_renewal,
    plan_undo,
    survey_control_planes,
    unhealthy,
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
        plans, refused = plan_renewal(planes, wishes)
        return plans, refused or unhealthy(planes, connected, _PATIENCE)

    return plan


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
        return plan_undo(planes, chosen, sick, UndoWishes(at=at, drain=not settings.no_drain))

    return plan


def control_planes(
    facts: Sequence[HostFacts], connected: Mapping[str, Connection], parallel: int, screen: Screen
) -> list[ControlPlane]:
    """Return what the control planes among hosts are like; raises HostsRefused."""
    chosen = [each for each in facts if each.is_control_plane]
    if not chosen:
        raise NoControlPlane(count=counted(len(facts), "host"))
    others = [each.host.name for each in facts if not each.is_control_plane]
    if others:
        screen.say(f"not control planes, so nothing is changed there: {', '.join(others)}")
    _demand([stranger for each in chosen for stranger in not_root(each)], len(chosen))
    planes, refused = survey_control_planes(chosen, connected, parallel)
    _demand(refused, len(chosen))
    return planes


def planned(
    planes: Sequence[ControlPlane], connected: Mapping[str, Connection], planner: ControlPlanner
) -> list[HostPlan]:
    """Return the plans for control planes; raises HostsRefused."""
    now = datetime.now(UTC)
    plans, refused = planner(leader_last(planes, connected), connected, compact(now))
    _demand(refused, len(planes))
    return plans


def _demand(refused: Sequence[Refusal], count: int) -> None:
    if refused:
        hosts = len({each.host for each in refused})
        details = "\n".join(map(str, refused))
        of_all = f"{hosts} of {counted(count, 'control plane')}"
        raise HostsRefused(count=of_all, or_else="", details=details)
