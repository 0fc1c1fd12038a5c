"""The plan of a rollback: a backup takes the place of the kubeadm that is there."""

from collections.abc import Iterable

from kbuild.nodes.install import back_up, clean, general_notes, settle, unsafe, what_is_there
from kbuild.nodes.model import Generation, HostFacts, HostPlan, Refusal, Step, call

_NONE = "it has no backup that differs"
_REMOVED = "a rollback removed its kubeadm already, as before the first installation"


def plan_rollback(
    facts: Iterable[HostFacts], to: str, at: str
) -> tuple[list[HostPlan], list[Refusal]]:
    """Return a plan for each host that has the backup, and a refusal for each that has not.

    Without ``to``, hosts that have nothing to bring back stay as they are, unless no host has.

    ``to`` is the name of a backup, or the first characters of its sha256 or of its name; empty for
    the newest that differs from what is there. If a rollback brought that back, there is nothing to
    do: the command must mean the same when it is given again. ``at`` is the time, as in
    20261126T183000Z.
    """
    plans, refused, idle = [], [], []
    for each in facts:
        if not each.kubeadm and each.is_restored and not to:
            notes = (*general_notes(each), _REMOVED)
            plans.append(HostPlan(host=each.host, steps=(), notes=notes))
            continue
        problems, chosen = [*unsafe(each)], _choose(each, to)
        problems += _foreign(each, chosen)
        if problems or (chosen is None and (to or not each.sha256)):
            refused += [*problems, *([] if chosen else [_no_backup(each, to)])]
        elif chosen is None:
            idle.append(each)
        else:
            steps = tuple(_steps(each, chosen, at))
            notes = (*general_notes(each), *_stays(each, chosen))
            plans.append(HostPlan(host=each.host, steps=steps, notes=notes, is_independent=True))
    if plans:  # an installation that stopped has not changed the others
        plans += [_idle(each, at) for each in idle]
    else:
        refused += [_no_backup(each, to) for each in idle]
    return plans, refused


def _no_backup(facts: HostFacts, to: str) -> Refusal:
    having = ", ".join(f"{g.name} ({g.version})" for g in facts.generations)
    reason = f"it has no backup {to}" if to else _NONE
    return facts.refusal(
        reason, f"its backups: {having}" if having else "kbuild has kept none there"
    )


def _idle(facts: HostFacts, at: str) -> HostPlan:
    """Return the plan of a host that has nothing to bring back: it only ends an earlier run."""
    here = Generation(name="", sha256=facts.sha256, version=facts.version, path=facts.target)
    notes = (*general_notes(facts), f"{_NONE}, so kubeadm stays as it is")
    steps = tuple(_steps(facts, here, at))
    return HostPlan(host=facts.host, steps=steps, notes=notes, is_independent=True)


def _choose(facts: HostFacts, to: str) -> Generation | None:
    of_this_place = [g for g in reversed(facts.generations) if g.path == facts.target]
    if to:
        fitting = [
            g for g in of_this_place if g.name.startswith(to) or (g.sha256 or "none").startswith(to)
        ]
    else:
        stays = facts.is_restored and any(g.sha256 == facts.sha256 for g in of_this_place)
        fitting = [g for g in of_this_place if (g.sha256 == facts.sha256) == stays]
        fitting = [g for g in fitting if g.sha256 or facts.is_ours or stays]
    return next(iter(fitting), None)


def _foreign(facts: HostFacts, chosen: Generation | None) -> Iterable[Refusal]:
    """Yield that a kubeadm which kbuild has not installed is not removed."""
    if chosen and not chosen.sha256 and facts.sha256 and not facts.is_ours:
        reason = f"{facts.target} was not installed by kbuild, so it is not removed"
        yield facts.refusal(reason, "remove it yourself, or name another backup with --to")


def _stays(facts: HostFacts, to: Generation) -> Iterable[str]:
    if facts.is_restored and not facts.sha256 and not to.sha256:
        yield _REMOVED
    elif facts.is_restored and facts.sha256 == to.sha256:
        yield (
            f"a rollback brought back {facts.version or 'this kubeadm'} ({facts.sha256[:12]})"
            " already; name another backup with --to"
        )


def _steps(facts: HostFacts, to: Generation, at: str) -> Iterable[Step]:
    yield from clean(facts, "")
    if facts.sha256 == to.sha256:
        if facts.unfinished:
            has = ("has_sha", facts.target, to.sha256) if to.sha256 else ("has_none", facts.target)
            yield settle(call(*has))
        return
    if facts.sha256:
        yield back_up(facts, at)
    if not to.sha256:
        yield _remove(facts)
        return
    yield Step(
        name="restore",
        what=f"bring back {to.version} from /var/lib/kbuild/kubeadm/{to.name}",
        why=f"it takes the place of {what_is_there(facts)} at {facts.target}",
        check=call("has_sha", facts.target, to.sha256),
        do=call("roll_back", to.name, facts.target, to.sha256, facts.sha256),
        confirm=call("has_sha", facts.target, to.sha256),
        undo=call("bring_back", facts.sha256, facts.target, to.sha256)
        if facts.sha256
        else call("take_away", facts.target, to.sha256),
    )


def _remove(facts: HostFacts) -> Step:
    """Return the step that removes a kubeadm of kbuild where none was before."""
    return Step(
        name="remove",
        what=f"remove {what_is_there(facts)} from {facts.target}",
        why="there was none before the first installation",
        check=call("has_none", facts.target),
        do=call("remove_ours", facts.target, facts.sha256),
        confirm=call("has_none", facts.target),
        undo=call("bring_back", facts.sha256, facts.target, ""),
    )
