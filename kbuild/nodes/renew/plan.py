"""The plan of a renewal: one control plane after the other, one component after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from packaging.version import Version

from kbuild.base.words import listed
from kbuild.kubernetes.configuration import configuration_of
from kbuild.nodes.install import MAX_SKEW, unsafe
from kbuild.nodes.model import Call, HostPlan, Proof, Refusal, Step
from kbuild.nodes.renew.calls import call
from kbuild.nodes.renew.facts import COMPONENTS, READS, ControlPlane
from kbuild.nodes.renew.health import TOLERANCE, apiserver_of, is_fresh
from kbuild.nodes.renew.manifest import BadManifest, Manifest, edited, restart_edit

MANIFESTS = "/etc/kubernetes/manifests"
BACKUPS = "/var/lib/kbuild/backups"
# In the names of backups: how one ends that a renewal has made, and what is in that of an undo,
# before the name of the backup that it brings back.
RENEWAL, UNDO = "-renew", "-undo."
RESTART = 150  # seconds that kubelet may take to stop a component and to start it again
DRAIN = 300  # seconds after which a node accepts connections again, whatever happens to kbuild
_BEFORE = 2  # seconds that requests have to end, after new connections are rejected
_SPARE = 64 << 10  # KiB that must be left free
_CERTIFICATES = "/etc/kubernetes/pki"
_CAS = {
    "pki/ca.key": ("pki/apiserver.crt", "pki/apiserver-kubelet-client.crt", "the kubeconfigs"),
    "pki/front-proxy-ca.key": ("pki/front-proxy-client.crt",),
    "pki/etcd/ca.key": ("pki/etcd/*.crt", "pki/apiserver-etcd-client.crt"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewWishes:
    """What the user asks of a renewal; ``at`` is its time, as in 20261126T183000Z.

    ``drain`` rejects new connections while etcd and the API server restart. ``users`` get a copy of
    admin.conf. ``may_shorten`` allows certificates that end earlier than those that are there.
    """

    at: str
    drain: bool = True
    users: tuple[str, ...] = ()
    may_shorten: bool = False


def plan_renewal(
    planes: Sequence[ControlPlane], wishes: RenewWishes
) -> tuple[list[HostPlan], list[Refusal]]:
    """Return a plan for each control plane, or why some must not be changed: then there is none."""
    refused = [
        refusal
        for plane in planes
        for refusal in (
            *(*unready(plane), *_unrecorded(plane)),
            *(*unrenewable(plane, wishes), *skewed(plane, planes)),
        )
    ]
    if refused:
        return [], refused
    return [plan_rolling(plane, planes, wishes) for plane in planes], []


def of_renewal(backup: str) -> bool:
    """Tell whether a renewal has made the backup of this name."""
    return backup.endswith(RENEWAL) and UNDO not in backup


def unready(
    plane: ControlPlane, *, may_be_down: bool = False, is_expired: bool = False
) -> Iterator[Refusal]:
    """Yield why the components of a control plane must not be restarted."""

    yield from unsafe(plane.facts)
    # It may be seen twice, while it starts another program.
    if not plane.processes.get("kubelet") and not is_expired:
        yield plane.refusal("kubelet does not run", "start it; see `journalctl -u kubelet` there")
    if plane.pods != MANIFESTS:
        reason = f"kubelet reads manifests from {plane.pods or 'nowhere'}, not from {MANIFESTS}"
        yield plane.refusal(reason, f"set staticPodPath to {MANIFESTS}")
    for component in COMPONENTS[1:]:
        if component not in plane.manifests:
            yield plane.refusal(
                f"{MANIFESTS}/{component}.yaml is not there", "see whether kubeadm made it"
            )
    for component, manifest in plane.manifests.items():
        running = len(plane.processes.get(component, ()))
        if running != 1 and not may_be_down:
            reason = f"{running or 'no'} processes of {component} run, and one is expected"
            yield plane.refusal(reason, f"see `journalctl -u kubelet` and the log of {component}")
        yield from _uneditable(plane, component, manifest)
    for twin in plane.twins:
        component, _, file = twin.partition(" ")
        reason = f"{MANIFESTS}/{file} is a second manifest of {component}, and kubelet reads both"
        yield plane.refusal(reason, "move it to another directory")
    if plane.facts.state_free < plane.size + _SPARE:
        having, needed = plane.facts.state_free >> 10, (plane.size + _SPARE) >> 10
        reason = f"{having} MiB are free in /var/lib, and {needed} MiB are needed for a backup"
        yield plane.refusal(reason, "make room")


def _uneditable(plane: ControlPlane, component: str, manifest: Manifest) -> Iterator[Refusal]:
    place = f"{MANIFESTS}/{component}.yaml"
    try:
        restart_edit(manifest.content, plane.facts.host.name)
        if component == "kube-apiserver" and manifest.flag("tls-cert-file") not in (
            "",
            f"{_CERTIFICATES}/apiserver.crt",
        ):
            reason = f"{place} names a certificate that is not in {_CERTIFICATES}"
            todo = "renew that certificate by hand; kubeadm renews its own only"
            yield plane.refusal(reason, todo)
    except BadManifest as error:
        todo = "write it as kubeadm does: block style, each key once"
        yield plane.refusal(f"{place}: {error}", todo)


def _unrecorded(plane: ControlPlane) -> Iterator[Refusal]:
    """Yield that a kubeadm does not issue what was recorded when it was installed."""
    issues = plane.facts.issues
    if plane.is_stored:
        return
    if issues and abs(plane.lifetime - timedelta(days=issues.leaf_years * 365)) > TOLERANCE:
        reason = (
            f"its kubeadm issues certificates of {days(plane)} for trial, and"
            f" {issues.leaf_years} years were recorded when it was installed"
        )
        yield plane.refusal(reason, "see `kbuild check` of its release, and install it again")


def unrenewable(plane: ControlPlane, wishes: RenewWishes) -> Iterator[Refusal]:
    """Yield why the kubeadm of a control plane cannot renew its certificates as wished."""
    for key in plane.missing:
        if key == "pki/etcd/ca.key" and "etcd" not in plane.manifests:
            continue
        reason = f"/etc/kubernetes/{key} is not there (an external CA?), so kubeadm cannot renew"
        todo = f"renew at that CA: {', '.join(_CAS[key])}"
        yield plane.refusal(reason, todo)
    yield from _damaged(plane)
    for file in plane.renewed:
        end = plane.certificates[file].facts.not_after
        new = plane.now + plane.lifetime
        if end > new + TOLERANCE and not wishes.may_shorten:
            reason = f"{file} ends {end.date()}, and this kubeadm would make that {new.date()}"
            todo = "install the kubeadm of your release first, or give --allow-shorter"
            yield plane.refusal(reason, todo)


def _damaged(plane: ControlPlane) -> Iterator[Refusal]:
    """Yield what is not as the running components have read it, and they could not start again."""
    todo = "bring it back with `kbuild nodes undo`, or issue it anew"
    for file, why in plane.unreadable.items():
        yield plane.refusal(f"/etc/kubernetes/{file} cannot be read: {why}", todo)
    known = {*plane.certificates, *plane.unreadable}
    for component, manifest in plane.manifests.items():
        for file in READS[component]:
            path = f"/etc/kubernetes/{file}"
            if file.endswith(".crt") and file not in known and path.encode() in manifest.content:
                reason = f"{path} is not there, and {component} could not start without it"
                yield plane.refusal(reason, todo)


def skewed(plane: ControlPlane, planes: Sequence[ControlPlane]) -> Iterator[Refusal]:
    """Yield why the clock of a control plane must be set first."""

    def skew(each: ControlPlane) -> float:
        return each.facts.clock - each.facts.asked_at

    if any(abs(skew(each)) > MAX_SKEW for each in planes):
        return  # that one is refused anyway, and the others are right
    most = max(planes, key=lambda each: abs(skew(each) - skew(plane)))
    apart = round(abs(skew(most) - skew(plane)))
    if apart > MAX_SKEW:
        reason = f"its clock differs from that of {most.name} by {apart} seconds"
        yield plane.refusal(reason, "set the clocks")


def plan_rolling(
    plane: ControlPlane, planes: Sequence[ControlPlane], wishes: RenewWishes
) -> HostPlan:
    """Return the plan that renews one control plane while the others carry on."""
    stale = stale_of(plane)
    waiting = [each for each in plane.manifests if stale or needs_restart(plane, each)]
    begun = plane.base if of_renewal(plane.base) else ""
    steps = list(accept_again(plane))
    if waiting or begun:
        generation = begun or f"{wishes.at}{RENEWAL}"
        steps += [
            healthy_step([each.name for each in planes], is_alone=len(planes) == 1),
            keep_step(plane, generation, plane.etcdctl if "etcd" in plane.manifests else ""),
        ]
        if stale:
            steps.append(_renew_step(plane, generation))
        restarts = [restart_step(plane, each, wishes.at, generation) for each in waiting]
        steps += drained(plane, planes, restarts, is_wanted=wishes.drain)
    steps += [copy_step(user, wishes.at) for user in wishes.users]
    if waiting or begun:
        steps.append(settled_step([each.name for each in planes], is_alone=len(planes) == 1))
    return HostPlan(
        host=plane.facts.host, steps=tuple(steps), notes=tuple(_notes(plane, planes, wishes, steps))
    )


def stale_of(plane: ControlPlane) -> list[str]:
    """Return the files that kubeadm renews, and that end when no new ones would."""
    ends = {file: plane.certificates[file].facts.not_after for file in plane.renewed}
    return [f for f, end in ends.items() if not is_fresh(end, plane.now, plane.lifetime)]


def needs_restart(plane: ControlPlane, component: str) -> bool:
    """Tell whether a component was started before one of the files that it reads was written."""
    times = [plane.certificates[f].changed for f in READS[component] if f in plane.certificates]
    running = plane.processes.get(component, ())
    return not running or running[0].started < max(times, default=0)


def healthy_step(names: Sequence[str], *, is_alone: bool) -> Step:
    """Return the step that sees that control planes are healthy before one is changed.

    ``is_alone`` tells whether there is no other one than that.
    """
    nothing = call("nothing")
    return Step(
        name="healthy",
        what=_seen_healthy(names),
        why="what is not healthy now may not come back"
        if is_alone
        else "only then the others carry on while this one restarts",
        check=nothing,
        do=nothing,
        confirm=nothing,
        proofs=(Proof(kind="cluster", arguments=tuple(names)),),
        is_fatal=True,
    )


def _seen_healthy(names: Sequence[str]) -> str:
    if not names:
        return "ask no control plane whether it is healthy: none is expected to be"
    return f"see that each component on {listed(names)} is healthy"


def settled_step(names: Sequence[str], *, is_alone: bool) -> Step:
    """Return the step that sees that control planes are healthy after one was changed."""
    return Step(
        name="settled",
        what=_seen_healthy(names),
        why="only then it has ended well"
        if is_alone
        else "the next control plane is changed only then",
        check=call("unfinished_base"),
        do=call("finish"),
        confirm=call("unfinished_base"),
        proofs=(Proof(kind="cluster", arguments=tuple(names)),),
        is_fatal=True,
    )


def keep_step(plane: ControlPlane, generation: str, etcdctl: str) -> Step:
    """Return the step that backs up a control plane, with etcd if there is an ``etcdctl``."""
    kubelet = configuration_of(Version(plane.facts.version)).kubelet_config_map
    minor = Version(plane.facts.version).minor
    kept = "/etc/kubernetes and kubelet's files" + (", and a snapshot of etcd," if etcdctl else "")
    return backup_step(
        generation,
        f"keep {kept} as {BACKUPS}/{generation}",
        "so that `kbuild nodes undo` can bring them back",
        call("keep", generation, kubelet.format(minor=minor), plane.kubectl, etcdctl),
    )


def backup_step(generation: str, what: str, why: str, keep: Call) -> Step:
    """Return the step that makes a backup, with which a renewal begins."""
    has_base = call("has_base", generation)
    return Step(
        name="back-up",
        what=what,
        why=why,
        check=has_base,
        do=keep,
        confirm=has_base,
        undo=call("finish"),
    )


def _renew_step(plane: ControlPlane, generation: str) -> Step:
    words = plane.renewal.renew
    return Step(
        name="renew",
        what=f"run `kubeadm {' '.join(words)}`",
        why=f"certificates of {days(plane)} take the place of those that end earlier",
        check=call("has_renewed", generation),
        do=call("renew_certificates", generation, plane.facts.target, *words),
        confirm=call("has_renewed", generation),
        undo=call("restore_files", generation),
        proofs=(Proof(kind="dates", arguments=plane.renewed),),
    )


def days(plane: ControlPlane) -> str:
    """Return how long certificates are valid that are issued now."""
    return f"{round(plane.lifetime.total_seconds() / 86400)} days"


def restart_step(
    plane: ControlPlane,
    component: str,
    at: str,
    generation: str,
    from_backup: tuple[str, Manifest] | None = None,
) -> Step:
    """Return the step that makes kubelet restart a component.

    ``generation`` is the backup to go back to if that fails. ``from_backup`` is the name of another
    and its manifest, which takes the place of the present one.
    """
    now = source = plane.manifests[component]
    place = f"{MANIFESTS}/{component}.yaml"
    if from_backup:
        name, source = from_backup
        place = f"{BACKUPS}/{name}/kubernetes/manifests/{component}.yaml"
    edit = restart_edit(source.content, at)
    after = Manifest(content=edited(source.content, edit))
    lines = (str(edit.line), str(edit.removed), edit.text)
    return Step(
        name=f"restart-{component}",
        what=f"change an annotation in {MANIFESTS}/{component}.yaml, so that kubelet restarts it",
        why="it reads its certificates when it starts",
        check=call("is_restarted", component, after.sha256),
        do=call("rewrite", component, place, source.sha256, now.sha256, *lines, after.sha256),
        confirm=call("restarted", component, str(RESTART)),
        undo=call("go_back", generation, component, "60"),
        proofs=_proofs(component),
        regained=(Proof(kind="healthy", arguments=(component,)),),
    )


def _proofs(component: str) -> tuple[Proof, ...]:
    is_seen = component in ("etcd", "kube-apiserver")
    serves = (Proof(kind="serves", arguments=(component,)),) if is_seen else ()
    return (*serves, Proof(kind="healthy", arguments=(component,)))


def drained(
    plane: ControlPlane,
    planes: Sequence[ControlPlane],
    restarts: Sequence[Step],
    *,
    is_wanted: bool,
) -> Iterator[Step]:
    """Yield restarts, those of etcd and the API server while new connections are rejected.

    Requests to an API server fail while its own etcd restarts, too.
    """
    first = [step for step in restarts if step.name in ("restart-etcd", "restart-kube-apiserver")]
    is_drained = bool(first) and is_wanted and not why_not_drained(plane, planes)
    port = str(apiserver_of(plane)[1])
    if is_drained:
        yield Step(
            name="drain",
            what=f"reject new connections to port {port} for at most {DRAIN} seconds",
            why="the load balancer sends them to the other control planes meanwhile",
            check=call("drained", port),
            do=call("drain", port, str(DRAIN), str(_BEFORE)),
            confirm=call("drained", port),
            undo=call("undrain", port),
        )
    yield from first
    if is_drained:
        yield _undrain_step(port, "the API server is ready")
    yield from (step for step in restarts if step not in first)


def accept_again(plane: ControlPlane) -> Iterator[Step]:
    """Yield the step that ends a drain which an earlier run has left: two must not be drained."""
    if plane.drained:
        yield _undrain_step(plane.drained, "a run that did not end has left it so")


def _undrain_step(port: str, why: str) -> Step:
    return Step(
        name="undrain",
        what=f"accept connections to port {port} again",
        why=why,
        check=call("undrained", port),
        do=call("undrain", port),
        confirm=call("undrained", port),
    )


def why_not_drained(plane: ControlPlane, planes: Sequence[ControlPlane]) -> str:
    """Return why connections to a control plane cannot be sent elsewhere, or an empty text."""
    port = str(apiserver_of(plane)[1])
    is_direct = plane.server.rpartition(":")[2].rstrip("/") == port
    if len(planes) < 2:  # noqa: PLR2004
        return "there is no other control plane"
    if any(each.own_server for each in planes) and is_direct:
        return f"{plane.server} is the address of a control plane itself, not of a load balancer"
    if not plane.firewall:
        return "neither iptables nor nft works there"
    return ""


def copy_step(user: str, at: str) -> Step:
    """Return the step that gives a user a copy of admin.conf."""
    return Step(
        name=f"kubeconfig-{user}",
        what=f"copy admin.conf to ~{user}/.kube/config, and keep the old one",
        why="the old one ends with its certificate",
        check=call("has_kubeconfig", user),
        do=call("give_kubeconfig", user, at),
        confirm=call("has_kubeconfig", user),
        is_fatal=True,
    )


def _notes(
    plane: ControlPlane,
    planes: Sequence[ControlPlane],
    wishes: RenewWishes,
    steps: Sequence[Step],
) -> Iterator[str]:
    if "etcd" not in plane.manifests:
        yield external_etcd_note(plane)
    yield from outage_notes(plane, planes, steps, is_drain_wanted=wishes.drain)
    if steps and not plane.kubectl:
        yield "the backup has no kubeadm-config and no kubelet-config: the node has no kubectl"
    if steps and "etcd" not in plane.manifests:
        yield "the backup has no snapshot of etcd: make one where it runs"
    elif steps and not plane.etcdctl:
        yield "the backup has no snapshot of etcd: there is no etcdctl on the node or in its etcd"
    if of_renewal(plane.base):
        yield f"an earlier renewal did not end: it goes on, with the backup {plane.base}"


def external_etcd_note(plane: ControlPlane) -> str:
    """Return a note that names what kubeadm does not renew, and when that ends, if it is known."""
    apiserver = plane.manifests["kube-apiserver"]
    file = apiserver.flag("etcd-certfile")
    stored = plane.certificates.get(file.removeprefix("/etc/kubernetes/"))
    ends = f" (it ends {stored.facts.not_after:%Y-%m-%d})" if stored else ""
    client = f", and {file} of the API server{ends}" if file else ""
    return (
        f"its etcd is not of kubeadm ({apiserver.flag('etcd-servers')}): renew the certificates of"
        f" etcd yourself{client}"
    )


def outage_notes(
    plane: ControlPlane,
    planes: Sequence[ControlPlane],
    steps: Sequence[Step],
    *,
    is_drain_wanted: bool,
) -> Iterator[str]:
    """Yield that requests will fail, or may fail, while a control plane restarts."""
    if not any(step.name.startswith("restart-") for step in steps):
        return
    if len(planes) == 1:
        yield (
            "there is no other control plane: the API server does not answer for some seconds"
            " while etcd and the API server restart; pods carry on"
        )
    elif is_drain_wanted and (why := why_not_drained(plane, planes)):
        yield f"requests may fail while the API server restarts: {why}"
