"""The plan of a rollback: a backup takes the place of the kubeadm that is there."""

from collections.abc import Iterable

from kbuild.nodes.install import back_up, clean, general_notes, settle, unsafe
from kbuild.nodes.model import Generation, HostFacts, HostPlan, Refusal, Step, call


def plan_rollback(
    facts: Iterable[HostFacts], to: str, at: str
) -> tuple[list[HostPlan], list[Refusal]]:
    """Return a plan for each host that has the backup, and a refusal for each that has not.

    ``to`` is the name of a backup, or the first characters of its sha256 or of its name; empty for
    the newest that differs from what is there. If a rollback brought that back, there is nothing to
    do: the command must mean the same when it is given again. ``at`` is the time, as in
    20261126T183000Z.
    """
    plans, refused = [], []
    for each in facts:
        problems = list(unsafe(each))
        chosen = _choose(each, to)
        if chosen is None:
            having = ", ".join(f"{g.name} ({g.version})" for g in each.generations)
            reason = f"it has no backup {to}" if to else "it has no backup that differs"
            is_empty = not each.generations
            todo = "kbuild has kept none there" if is_empty else f"its backups: {having}"
            problems.append(Refusal(host=each.host.name, reason=reason, todo=todo))
        if chosen is None or problems:
            refused += problems
        else:
            steps = tuple(_steps(each, chosen, at))
            notes = (*general_notes(each), *_stays(each, chosen))
            plans.append(HostPlan(host=each.host, steps=steps, notes=notes))
    return plans, refused


def _choose(facts: HostFacts, to: str) -> Generation | None:
    of_this_place = [g for g in reversed(facts.generations) if g.path == facts.target]
    if to:
        fitting = (g for g in of_this_place if g.name.startswith(to) or g.sha256.startswith(to))
    else:
        stays = facts.is_restored and any(g.sha256 == facts.sha256 for g in of_this_place)
        fitting = (g for g in of_this_place if (g.sha256 == facts.sha256) == stays)
    return next(fitting, None)


def _stays(facts: HostFacts, to: Generation) -> Iterable[str]:
    if facts.is_restored and facts.sha256 == to.sha256:
        yield (
            f"a rollback brought back {facts.version or 'this kubeadm'} ({facts.sha256[:12]})"
            " already; name another backup with --to"
        )


def _steps(facts: HostFacts, to: Generation, at: str) -> Iterable[Step]:
    yield from clean(facts, "")
    if facts.sha256 == to.sha256:
        if facts.unfinished:
            yield settle(call("has_sha", facts.target, to.sha256))
        return
    if facts.sha256:
        yield back_up(facts, at)
    yield Step(
        name="restore",
        what=f"bring back {to.version} from /var/lib/kbuild/kubeadm/{to.name}",
        why=f"it takes the place of {facts.version or 'nothing'} at {facts.target}",
        check=call("has_sha", facts.target, to.sha256),
        do=call("roll_back", to.name, facts.target, to.sha256, facts.sha256),
        confirm=call("has_sha", facts.target, to.sha256),
        undo=call("bring_back", facts.sha256, facts.target, to.sha256)
        if facts.sha256
        else call("take_away", facts.target, to.sha256),
    )
