"""The plan that takes a renewal back: the files of a backup, and the same careful restarts."""

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed, first_of, values_of
from kbuild.nodes.model import HostPlan, Refusal, Step
from kbuild.nodes.renew.calls import call
from kbuild.nodes.renew.facts import (
    COMPONENTS,
    ControlPlane,
    Stored,
    certificates_of,
    ended_of,
    manifests_of,
)
from kbuild.nodes.renew.manifest import BadManifest, Manifest, restart_edit
from kbuild.nodes.renew.plan import (
    BACKUPS,
    UNDO,
    accept_again,
    drained,
    healthy_step,
    keep_step,
    needs_restart,
    of_renewal,
    outage_notes,
    restart_step,
    settled_step,
    unready,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoWishes:
    """What the user asks of an undo; the fields are those of RenewWishes."""

    at: str
    drain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup of a control plane: its manifests and certificates.

    ``configuration`` is what the cluster stored before the renewal changed it, and ``stored`` the
    sha256 of what it then stored; both are empty if it did not change it.
    """

    name: str
    manifests: Mapping[str, Manifest]
    certificates: Mapping[str, Stored]
    configuration: str = ""
    stored: str = ""


def choose_backup(plane: ControlPlane, to: str, connection: Connection) -> Backup | Refusal:
    """Return the newest backup whose name begins with ``to``.

    If that is empty, it is the one that an undo without an end brings back, or the one that the
    last renewal made.
    """
    begun = plane.base.partition(UNDO)[2]
    fitting = [
        name
        for name in plane.backups
        if (name.startswith(to) if to else name == begun if begun else of_renewal(name))
    ]
    if not fitting:
        having = ", ".join(plane.backups) or "none"
        reason = f"it has no backup {to}" if to else "it has no backup of a renewal"
        return plane.refusal(reason, f"its backups: {having}")
    name = fitting[-1]
    try:
        values = values_of(connection.call(call("manifests_of", name)))
        return Backup(
            name=name,
            manifests=manifests_of(values),
            certificates=certificates_of(values),
            configuration=base64.b64decode(first_of(values, "configuration")).decode(),
            stored=first_of(values, "stored"),
        )
    except (CallFailed, ConnectionFailed, ValueError) as error:
        todo = f"choose another with --to: {', '.join(plane.backups)}"
        return plane.refusal(str(error), todo)


def _differs(plane: ControlPlane, backup: Backup) -> bool:
    files = (*plane.renewal.files, *plane.renewal.etcd)

    def of(stored: Mapping[str, Stored]) -> dict[str, str]:
        return {file: stored[file].facts.fingerprint for file in files if file in stored}

    return of(plane.certificates) != of(backup.certificates)


def plan_undo(
    planes: Sequence[ControlPlane],
    chosen: Mapping[str, Backup],
    sick: Collection[str],
    wishes: UndoWishes,
) -> tuple[list[HostPlan], list[Refusal]]:
    """Return a plan for each control plane, or why some must not be changed: then there is none.

    What is drained comes first, then those that are ``sick``, and then the others, the last first.
    """
    refused = [refusal for plane in planes for refusal in _refusals(plane, chosen[plane.name])]
    if refused:
        return [], refused
    last_first = planes[::-1]
    order = sorted(last_first, key=lambda p: (not p.drained, p.name not in sick))
    healthy = {plane.name for plane in planes if plane.name not in sick}
    plans = []
    for plane in order:
        others = sorted(healthy - {plane.name})
        healthy.add(plane.name)
        backup = chosen[plane.name]
        if ended_of(backup.certificates, plane.now):
            plans.append(_files_only(plane, backup, wishes))
            continue
        steps = _steps(plane, planes, backup, wishes)
        if steps:
            is_alone = len(planes) == 1
            first = healthy_step(others, is_alone=is_alone)
            steps = (first, *steps, settled_step(sorted(healthy), is_alone=is_alone))
        steps = (*accept_again(plane), *steps)
        notes = tuple(outage_notes(plane, planes, steps, is_drain_wanted=wishes.drain))
        plans.append(HostPlan(host=plane.facts.host, steps=steps, notes=notes))
    return plans, []


def _files_only(plane: ControlPlane, backup: Backup, wishes: UndoWishes) -> HostPlan:
    """Return the plan that takes back a repair: no component could start with these files."""
    begun = _begun(plane, backup)
    if not _differs(plane, backup) and not begun:
        return HostPlan(host=plane.facts.host, steps=())
    own = begun or f"{wishes.at}{UNDO}{backup.name}"
    end = replace(
        settled_step((), is_alone=True), what="end the undo", why="nothing is restarted", proofs=()
    )
    steps = (keep_step(plane, own, etcdctl=""), _restore_step(backup.name, own), end)
    note = (
        f"certificates of the backup {backup.name} have ended: nothing is restarted with them, and"
        " kubelet keeps its certificate; the API stops within minutes, and `kbuild nodes renew`"
        " repairs it again"
    )
    return HostPlan(host=plane.facts.host, steps=steps, notes=(note,))


def _begun(plane: ControlPlane, backup: Backup) -> str:
    """Return the backup of an undo that was begun and has no end, if it brings back this one."""
    return plane.base if plane.base.endswith(UNDO + backup.name) else ""


def _refusals(plane: ControlPlane, backup: Backup) -> Iterator[Refusal]:
    yield from unready(plane, may_be_down=True)
    todo = "choose another with --to"
    if plane.manifests.keys() != backup.manifests.keys():
        reason = f"the backup {backup.name} has other static pods than the node has now"
        yield plane.refusal(reason, todo)
    for name, manifest in backup.manifests.items():
        try:
            restart_edit(manifest.content, "")
        except BadManifest as error:
            reason = f"the manifest of {name} in the backup {backup.name}: {error}"
            yield plane.refusal(reason, todo)


def _steps(
    plane: ControlPlane, planes: Sequence[ControlPlane], backup: Backup, wishes: UndoWishes
) -> tuple[Step, ...]:
    waiting = [c for c in COMPONENTS if c in plane.manifests]
    if not _differs(plane, backup):
        waiting = [c for c in waiting if needs_restart(plane, c)]
    begun = _begun(plane, backup)
    if not waiting and not begun:
        return ()
    own = begun or f"{wishes.at}{UNDO}{backup.name}"
    restarts = [
        restart_step(plane, each, wishes.at, own, (backup.name, backup.manifests[each]))
        for each in waiting
    ]
    return (
        keep_step(plane, own, etcdctl=""),
        _restore_step(backup.name, own),
        *drained(plane, planes, restarts, is_wanted=wishes.drain),
    )


def _restore_step(name: str, own: str) -> Step:
    return Step(
        name="restore",
        what=f"bring back certificates and kubeconfigs from {BACKUPS}/{name}",
        why="they take the place of those that were renewed",
        check=call("has_files", name),
        do=call("restore_files", name),
        confirm=call("has_files", name),
        undo=call("restore_files", own),
    )
