"""The plan of an installation: a kubeadm takes the place of another, and the old one is kept."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from posixpath import basename, dirname

from packaging.version import InvalidVersion, Version

from kbuild.base.arches import ARCHES
from kbuild.nodes.model import Call, HostFacts, HostPlan, Issues, Refusal, Step, Upload, call
from kbuild.release.api import PACKAGE

MAX_SKEW = 60  # seconds between the clock of a node and ours
_KIB = 1024
_SPARE = 16 * _KIB  # KiB that must be left free
_MANAGERS = {"deb": "apt", "rpm": "yum or dnf"}
_RESTORED = "hold the package with --hold, or install the deb or rpm of the release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubeadm:
    """A kubeadm of a release, for one architecture; ``size`` in bytes, ``issues`` as proven."""

    file: Path
    sha256: str
    size: int
    version: str
    issues: Issues


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asks of an installation; ``at`` is its time, as in 20261126T183000Z."""

    kubeadms: Mapping[str, Kubeadm]
    at: str
    hold: bool = False


def plan_install(
    facts: Iterable[HostFacts], wishes: Wishes
) -> tuple[list[HostPlan], list[Refusal]]:
    """Return a plan for each host that may be changed, and a refusal for each that may not."""
    plans, refused = [], []
    for each in facts:
        problems = list(_refusals(each, wishes))
        refused += problems
        if not problems:
            plans.append(_plan(each, wishes))
    return plans, refused


def _refusals(facts: HostFacts, wishes: Wishes) -> Iterable[Refusal]:
    yield from unsafe(facts)
    kubeadm = _kubeadm_for(facts, wishes)
    if kubeadm is None:
        having = ", ".join(wishes.kubeadms)
        reason = f"it is {facts.machine}, and the release has {having}"
        yield facts.refusal(reason, "build for it too, with --arch")
        return
    for what, version in (("kubeadm", facts.version), ("kubelet", facts.kubelet)):
        if version and _minor(version) != _minor(kubeadm.version):
            reason = f"its {what} is {version}, and the release is {kubeadm.version}"
            yield facts.refusal(reason, "build a release of the node's own minor version")
    if facts.sha256 and not facts.version and not facts.kubelet:
        reason = f"{facts.target} does not say which version it is, and there is no kubelet"
        yield facts.refusal(
            reason, f"see what `{facts.target} version -o short` prints; move it away"
        )
    needed = _needed(facts, kubeadm)
    for name, free in (("beside kubeadm", facts.free), ("in /var/lib", facts.state_free)):
        if facts.target and free < needed:
            reason = f"{free // _KIB} MiB are free {name}, and {needed // _KIB} MiB are needed"
            yield facts.refusal(reason, "make room")


def not_root(facts: HostFacts) -> Iterable[Refusal]:
    """Yield that nothing can be changed on a host where the user is not root."""
    if facts.uid != 0:
        todo = "add --sudo, or connect as root with --user"
        yield facts.refusal("the user is not root there", todo)


def unsafe(facts: HostFacts) -> Iterable[Refusal]:
    """Yield why a host must not be changed at all, whatever the change of its kubeadm is."""
    yield from not_root(facts)
    skew = facts.clock - facts.asked_at
    if abs(skew) > MAX_SKEW:
        reason = f"its clock differs from ours by {round(skew)} seconds"
        yield facts.refusal(reason, "set the clocks; certificates depend on them")
    if not facts.kubeadm:
        known = next((g.path for g in reversed(facts.generations)), "/usr/bin/kubeadm")
        reason = "it has no kubeadm on the PATH"
        yield facts.refusal(reason, f"say where kubeadm belongs, with --path {known}")
    elif not (facts.kubeadm.startswith("/") and _is_plain(facts.kubeadm + facts.target)):
        reason = f"{facts.kubeadm} is not an absolute path of printable characters"
        yield facts.refusal(reason, "say where kubeadm belongs, with --path /usr/bin/kubeadm")
    elif facts.problem or not facts.target:
        reason = facts.problem or f"{facts.kubeadm} is a link that leads nowhere"
        yield facts.refusal(reason, "repair that, or say where kubeadm belongs, with --path")
    if facts.is_read_only and facts.uid == 0:
        yield facts.refusal(f"{dirname(facts.target)} is read-only", "mount it for writing")
    if facts.busy:
        reason = f"{', '.join(facts.busy)} is running there"
        yield facts.refusal(reason, "wait until it has ended: it may replace kubeadm")


def _is_plain(path: str) -> bool:
    # The node writes ? for control characters, and what is not UTF-8 arrives with backslashes.
    return path.isprintable() and not set(path) & set("?\\")


def _needed(facts: HostFacts, kubeadm: Kubeadm) -> int:
    """Return the KiB that an installation needs: the upload, the program, and the backup."""
    return 0 if facts.sha256 == kubeadm.sha256 else 2 * kubeadm.size // _KIB + _SPARE


def _kubeadm_for(facts: HostFacts, wishes: Wishes) -> Kubeadm | None:
    arch = next((arch for arch, names in ARCHES.items() if names.machine == facts.machine), "")
    return wishes.kubeadms.get(arch)


def _minor(version: str) -> tuple[int, ...] | str:
    try:
        return Version(version).release[:2]
    except InvalidVersion:
        return version


def _plan(facts: HostFacts, wishes: Wishes) -> HostPlan:
    kubeadm = _kubeadm_for(facts, wishes)
    assert kubeadm is not None  # it would have been refused
    is_new = facts.sha256 != kubeadm.sha256
    steps = list(clean(facts, temporary_of(facts.target, kubeadm.sha256) if is_new else ""))
    if is_new:
        steps.append(_copy(facts, kubeadm))
        steps.append(back_up(facts, wishes.at) if facts.sha256 else _keep_none(facts, wishes.at))
    if is_new or facts.issues != kubeadm.issues or not facts.is_ours:
        steps.append(_record(facts, kubeadm))
    if is_new:
        steps.append(_replace(facts, kubeadm))
    elif facts.unfinished:
        steps.append(settle(call("runs_as", facts.target, kubeadm.sha256, kubeadm.version)))
    if wishes.hold and _can_hold(facts) and not facts.is_held:
        kind, _, package = facts.package.partition(" ")
        steps.append(_hold(kind, package))
    notes = tuple(_notes(facts, wishes))
    return HostPlan(host=facts.host, steps=tuple(steps), notes=notes, is_independent=True)


def _can_hold(facts: HostFacts) -> bool:
    kind, _, package = facts.package.partition(" ")
    return package != PACKAGE and (kind == "deb" or (kind == "rpm" and facts.can_lock_versions))


def _notes(facts: HostFacts, wishes: Wishes) -> Iterable[str]:
    yield from general_notes(facts)
    if facts.sha256 and not facts.version:
        yield f"{facts.target} does not say which version it is; kubelet is {facts.kubelet}"
    yield from _of_package(facts, hold=wishes.hold)


def _of_package(facts: HostFacts, *, hold: bool) -> Iterable[str]:
    """Yield whether a package manager may bring back the old kubeadm."""
    kind, _, package = facts.package.partition(" ")
    owns = f"{package} owns the file"
    if not package:
        if hold:
            yield f"no package owns {facts.target}, so there is nothing to hold"
    elif package == PACKAGE:
        if hold:
            yield f"{owns}, which no repository has, so there is nothing to hold"
    elif facts.is_held or (hold and _can_hold(facts)):
        return
    elif facts.is_excluded:
        yield (
            f"{owns}; yum and dnf leave it as it is because of exclude= in their configuration,"
            " unless they get --disableexcludes"
        )
    elif hold:
        yield (
            f"the package {package} is not held: yum and dnf have no plugin versionlock there, or"
            " it is disabled; install it (python3-dnf-plugin-versionlock or"
            f" yum-plugin-versionlock), or set exclude={package} in the repository's file"
        )
    else:
        yield f"{_MANAGERS[kind]} may bring back the old kubeadm: {owns}; {_RESTORED}"


def general_notes(facts: HostFacts) -> Iterable[str]:
    """Yield what people should know before kubeadm is replaced by whatever."""
    if facts.kubeadm != facts.target:
        yield f"{facts.kubeadm} is a link to {facts.target}, which is the file that is replaced"
    if facts.others:
        yield (
            f"also on the PATH, and left as it is: {', '.join(facts.others)}; `kubeadm` runs the"
            " first on the PATH, which sudo may set (secure_path)"
        )
    if facts.unfinished:
        yield f"an earlier run did not end; its last entry is: {facts.unfinished}"


def clean(facts: HostFacts, kept: str) -> Iterable[Step]:
    """Yield the step that removes what runs which did not end have left beside kubeadm.

    ``kept`` is the temporary file of this run, whose upload goes on, or empty.
    """
    name = basename(kept)
    left = [each for each in facts.leftovers if not name or each not in (name, f"{name}.part")]
    if left:
        where = dirname(facts.target)
        yield Step(
            name="clean",
            what=f"remove {', '.join(left)} from {where}",
            why="a run that did not end has left it",
            check=call("no_leftovers", where, name),
            do=call("forget_leftovers", where, name),
            confirm=call("no_leftovers", where, name),
        )


def settle(confirm: Call) -> Step:
    """Return the step that ends what an earlier run has done, but did not live to confirm."""
    return Step(
        name="confirm",
        what="confirm that kubeadm is as requested",
        why="an earlier run did not end",
        check=confirm,
        do=call("nothing"),
        confirm=confirm,
    )


def _copy(facts: HostFacts, kubeadm: Kubeadm) -> Step:
    temporary = temporary_of(facts.target, kubeadm.sha256)
    upload = Upload(
        file=kubeadm.file,
        to=f"{temporary}.part",
        is_compressed=facts.has_gzip,
        sha256=kubeadm.sha256,
    )
    return Step(
        name="copy",
        what=f"copy kubeadm {kubeadm.version} to {temporary}",
        why=f"the node has {what_is_there(facts)}; it is replaced only when the new one runs",
        # The step of a run that was killed may have put it in its place meanwhile.
        check=call("is_ready", temporary, facts.target, kubeadm.sha256, kubeadm.version),
        do=call(
            *("unpack", upload.to, "gzip" if upload.is_compressed else "plain"),
            *(temporary, kubeadm.sha256),
        ),
        # unpack has just compared the sha256.
        confirm=call("says", temporary, kubeadm.version),
        undo=call("forget", temporary, upload.to),
        upload=upload,
    )


def back_up(facts: HostFacts, at: str) -> Step:
    """Return the step that keeps the kubeadm that is there."""
    generation = f"{at}-{facts.sha256[:12]}"
    return Step(
        name="back-up",
        what=f"keep {facts.target} as /var/lib/kbuild/kubeadm/{generation}",
        why="so that `kbuild nodes rollback` can bring it back",
        check=call("has_generation", facts.sha256, facts.target),
        do=call("back_up", facts.target, facts.sha256, generation, facts.version),
        confirm=call("has_generation", facts.sha256, facts.target),
    )


def _keep_none(facts: HostFacts, at: str) -> Step:
    """Return the step that keeps that there is no kubeadm."""
    generation = f"{at}-none"
    return Step(
        name="back-up",
        what=f"keep that there is no {facts.target} as /var/lib/kbuild/kubeadm/{generation}",
        why="so that `kbuild nodes rollback` can remove it again",
        check=call("has_kept_none", facts.target),
        do=call("keep_none", facts.target, generation),
        confirm=call("has_kept_none", facts.target),
    )


def _record(facts: HostFacts, kubeadm: Kubeadm) -> Step:
    """Return the step that records what a kubeadm issues.

    It comes before the kubeadm, so that no run that is killed leaves one without a record. It is
    not undone: a record counts only for the kubeadm that has its sha256.
    """
    issues = kubeadm.issues
    years = (str(issues.ca_years), str(issues.leaf_years))
    words = (kubeadm.sha256, *years, kubeadm.version, facts.target)
    return Step(
        name="record",
        what=f"record that it issues CAs of {years[0]} and leaf certificates of {years[1]} years",
        why="so that `kbuild nodes check` and `renew` know it without the release",
        check=call("is_recorded", *words),
        do=call("record", *words),
        confirm=call("is_recorded", *words),
    )


def what_is_there(facts: HostFacts) -> str:
    """Return the version and the sha256 of a kubeadm: the version alone tells no two apart."""
    return f"{facts.version or 'kubeadm'} ({facts.sha256[:12]})" if facts.sha256 else "none"


def _replace(facts: HostFacts, kubeadm: Kubeadm) -> Step:
    temporary = temporary_of(facts.target, kubeadm.sha256)
    return Step(
        name="replace",
        what=f"rename it to {facts.target}",
        why="kubeadm is replaced at once, so nobody sees half of it",
        check=call("runs_as", facts.target, kubeadm.sha256, kubeadm.version),
        do=call("swap", temporary, facts.target, facts.sha256, kubeadm.sha256),
        # swap has just compared the sha256.
        confirm=call("says", facts.target, kubeadm.version),
        undo=call("bring_back", facts.sha256, facts.target, kubeadm.sha256)
        if facts.sha256
        else call("take_away", facts.target, kubeadm.sha256),
    )


def _hold(kind: str, package: str) -> Step:
    return Step(
        name="hold",
        what=f"hold the package {package}",
        why=f"so that {_MANAGERS[kind]} does not bring back the old kubeadm",
        check=call("is_held", kind, package),
        do=call("hold", kind, package),
        confirm=call("is_held", kind, package),
        undo=call("unhold", kind, package),
    )


def temporary_of(target: str, sha256: str) -> str:
    """Return where a kubeadm is made, in the directory of its place."""
    return f"{dirname(target)}/.kubeadm.kbuild-{sha256[:12]}"
