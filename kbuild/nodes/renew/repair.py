"""The plan of a repair: certificates have ended, so the API is down and nothing can roll.

kubeadm works from files then. kubelet starts first, because only kubelet starts static pods; then
all members of etcd, which are healthy only together; then the API servers and the rest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import yaml
from packaging.version import Version

from kbuild.kubernetes.configuration import configuration_of
from kbuild.nodes.model import Call, HostPlan, Proof, Refusal, Step
from kbuild.nodes.renew.calls import call
from kbuild.nodes.renew.facts import KUBELET, READS, REPAIR, SOCKET, ControlPlane
from kbuild.nodes.renew.health import apiserver_of
from kbuild.nodes.renew.plan import (
    RenewWishes,
    accept_again,
    copy_step,
    days,
    external_etcd_note,
    keep_step,
    plan_rolling,
    restart_step,
    settled_step,
    skewed,
    stale_of,
    unready,
    unrenewable,
)

# Where kubeadm gets its configuration, and writes kubeconfigs; a reboot takes it away.
WORK = "/run/kbuild/repair"
_CONFIGURATION = f"{WORK}/kubeadm.yaml"
_PKI = "/etc/kubernetes/pki"
_STAYS = 60  # seconds that kubelet has to start
# Seconds after which a component is not one that ends because it does not find etcd. If it ended,
# kubelet would wait for up to five minutes until it starts it again, but not after a change.
_STABLE = 60
_HOUR = 3600  # seconds


def plan_repair(
    planes: Sequence[ControlPlane], wishes: RenewWishes
) -> tuple[list[HostPlan], list[Refusal]]:
    """Return the plans of a repair in their order, or why some control planes must not be changed.

    A control plane has a plan for each phase of the repair. Those of which nothing has ended are
    renewed one after the other when the repair has ended.
    """
    refused = [refusal for plane in planes for refusal in _refusals(plane, planes, wishes)]
    if refused:
        return [], refused
    broken = [plane for plane in planes if plane.needs_repair]
    halted = [plane for plane in broken if not _serves(plane)]
    # etcd needs more than half of its members.
    notes = list(_notes(halted, is_outage=2 * len(halted) >= len(planes)))
    files = [_phase(p, _files(p, wishes), (*notes, *_own_notes(p))) for p in broken]
    etcd = [
        _phase(plane, [_restart(plane, "etcd", wishes, is_alone=False)])
        for plane in halted
        if "etcd" in plane.manifests
    ]
    rest = [_phase(plane, _rest(plane, wishes)) for plane in halted]
    ends = [_phase(plane, _end(planes, wishes)) for plane in broken]
    rolling = [plan_rolling(plane, planes, wishes) for plane in planes if plane not in halted]
    return [*files, *etcd, *rest, *ends, *rolling], []


def _serves(plane: ControlPlane) -> bool:
    """Tell whether nothing but kubelet's certificate has ended: then the rest can be rolled."""
    return not plane.base.endswith(REPAIR) and plane.ended.keys() <= {KUBELET}


def _refusals(
    plane: ControlPlane, planes: Sequence[ControlPlane], wishes: RenewWishes
) -> Iterator[Refusal]:
    yield from unready(plane, may_be_down=True, is_expired=plane.needs_repair)
    yield from unrenewable(plane, wishes)
    yield from skewed(plane, planes)
    for file in plane.ended:
        if file.endswith(".crt") and file not in plane.renewed:
            reason = f"/etc/kubernetes/{file} has ended, and kubeadm does not renew that of an etcd"
            todo = "renew it at the CA of that etcd, then run the same command again"
            yield plane.refusal(f"{reason} that it has not made", todo)
    for file in plane.ended_cas:
        reason = f"the CA /etc/kubernetes/{file} has ended, and kubeadm never renews a CA"
        yield plane.refusal(reason, "see docs/lifetimes.md for a longer CA with the same key")
    files = _made(plane)
    if files and not plane.renewal.make:
        reason = f"its kubeadm {plane.facts.version} cannot make {', '.join(files)} beside the old"
        yield plane.refusal(reason, "make them by hand: `kbuild advise` has the commands")
    if files and not plane.server:
        reason = "neither kubelet.conf nor admin.conf says which address the API server has"
        yield plane.refusal(reason, "bring one of them back to /etc/kubernetes")


def _phase(plane: ControlPlane, steps: Iterable[Step], notes: tuple[str, ...] = ()) -> HostPlan:
    return HostPlan(host=plane.facts.host, steps=tuple(steps), notes=notes)


def _made(plane: ControlPlane) -> list[str]:
    """Return the kubeconfigs that have ended, and that kubeadm does not renew."""
    named = {KUBELET: "kubelet.conf"}
    files = [named.get(name, name) for name in plane.ended]
    if not plane.kubelet and not plane.processes.get("kubelet"):
        files.append("kubelet.conf")
    return [file for file in files if file.endswith(".conf") and file not in plane.renewed]


def _generation(plane: ControlPlane, wishes: RenewWishes) -> str:
    return plane.base if plane.base.endswith(REPAIR) else f"{wishes.at}{REPAIR}"


def _files(plane: ControlPlane, wishes: RenewWishes) -> list[Step]:
    """Return the steps that repair the files of a control plane, and start kubelet with them."""
    generation = _generation(plane, wishes)
    steps = [*accept_again(plane), _keep(plane, generation)]
    if stale_of(plane) and not _serves(plane):
        steps.append(_renew(plane, generation))
    steps += [_make(plane, file, generation) for file in _made(plane)]
    return [*steps, _start_kubelet()]


def _keep(plane: ControlPlane, generation: str) -> Step:
    step = keep_step(replace(plane, kubectl=""), generation, etcdctl="")
    if "etcd" not in plane.manifests:
        return step
    data = plane.manifests["etcd"].flag("data-dir") or "/var/lib/etcd"
    do = replace(step.do, arguments=(*step.do.arguments, data))
    return replace(step, do=do, what=f"{step.what}, with {data} if etcd does not run")


def _renew(plane: ControlPlane, generation: str) -> Step:
    words = (*plane.renewal.renew, "--config", _CONFIGURATION)
    return _final(
        "renew",
        f"run `kubeadm {' '.join(words)}` with a configuration made from the files there",
        f"certificates of {days(plane)}; the API server cannot give the configuration",
        call("has_renewed", generation),
        call(
            *("renew_without_cluster", generation, WORK, configuration(plane)),
            *(plane.facts.target, *words),
        ),
        Proof(kind="dates", arguments=plane.renewed),
    )


def _make(plane: ControlPlane, file: str, generation: str) -> Step:
    name = file.removesuffix(".conf")
    words = plane.renewal.making(name, WORK, _CONFIGURATION)
    is_rotated = file == "kubelet.conf" and plane.is_rotated
    gets = "give kubelet its certificate" if is_rotated else f"put it in the place of {file}"
    kind = "kubelet" if file == "kubelet.conf" else "dates"
    return _final(
        f"make-{file}",
        f"run `kubeadm {' '.join(words)}`, and {gets}",
        "the old certificate has ended, and renewal leaves it as it is",
        call("has_made", generation, file),
        call(
            *("make_kubeconfig", generation, file, WORK, configuration(plane)),
            *(plane.facts.target, *words),
        ),
        Proof(kind=kind, arguments=() if kind == "kubelet" else (file,)),
    )


def _start_kubelet() -> Step:
    step = _final(
        "start-kubelet",
        "restart kubelet, and see that it stays",
        "it starts static pods; it reads its certificate when it starts",
        call("kubelet_is_new"),
        call("restart_kubelet"),
    )
    return replace(step, confirm=call("kubelet_stays", str(_STAYS)))


def _final(name: str, what: str, why: str, check: Call, do: Call, *proofs: Proof) -> Step:
    """Return a step that is not undone if it fails: what was before has ended."""
    return Step(
        name=name,
        what=what,
        why=why,
        check=check,
        do=do,
        confirm=check,
        proofs=proofs,
        is_fatal=True,
    )


def _restart(
    plane: ControlPlane, component: str, wishes: RenewWishes, *, is_alone: bool = True
) -> Step:
    step = restart_step(plane, component, wishes.at, _generation(plane, wishes))
    age = str(_STABLE if is_alone else 0)
    return replace(
        step,
        # kubelet may have started it with the new files.
        check=call("has_read", component, age, *READS[component]),
        why=step.why if is_alone else "a member of etcd is healthy only when most others are",
        proofs=step.proofs if is_alone else (),
        undo=None,
        regained=(),
        is_fatal=True,
    )


def _rest(plane: ControlPlane, wishes: RenewWishes) -> Iterator[Step]:
    nothing = call("nothing")
    if "etcd" in plane.manifests:
        yield _final(
            "etcd",
            "see that etcd is healthy, and serves its new certificates",
            "no API server works without it",
            nothing,
            nothing,
            Proof(kind="serves", arguments=("etcd",)),
            Proof(kind="healthy", arguments=("etcd",)),
        )
    for component in plane.manifests:
        if component != "etcd":
            yield _restart(plane, component, wishes)


def _end(planes: Sequence[ControlPlane], wishes: RenewWishes) -> Iterator[Step]:
    for user in wishes.users:
        yield copy_step(user, wishes.at)
    names = tuple(plane.name for plane in planes)
    step = settled_step(names, is_alone=len(planes) == 1)
    proofs = (Proof(kind="recovered", arguments=names),)
    yield replace(step, why="then the repair has ended", proofs=proofs)


def _notes(halted: Sequence[ControlPlane], *, is_outage: bool) -> Iterator[str]:
    names = ", ".join(plane.name for plane in halted)
    until = (
        "no API server answers until the repair has ended"
        if is_outage
        else "the other control planes carry on meanwhile"
    )
    if halted:
        yield (
            "this is a repair with downtime, not a rolling renewal: certificates of"
            f" {names} have ended, and {until}"
        )


def _own_notes(plane: ControlPlane) -> Iterator[str]:
    if _serves(plane):
        yield "kubelet alone is repaired and restarted first; pods survive that"
    if plane.ended:
        texts = [f"{name} ({end:%Y-%m-%d})" for name, end in sorted(plane.ended.items())]
        yield f"ended: {', '.join(texts)}"
    else:
        yield f"an earlier repair did not end: it goes on, with the backup {plane.base}"
    if "etcd" not in plane.manifests:
        yield external_etcd_note(plane)
    lacks = "kubeadm-config and kubelet-config, which only the API server has"
    if "etcd" in plane.manifests:
        lacks += "; nor a snapshot of etcd, and its data only if etcd does not run"
    yield f"the backup does not have {lacks}"
    yield f"kubeadm gets no other settings than {', '.join(_settings(plane))}"


def _settings(plane: ControlPlane) -> list[str]:
    return [key for document in documents(plane) for key in document if key not in _HEAD]


_HEAD = ("apiVersion", "kind")


def configuration(plane: ControlPlane) -> str:
    """Return a configuration for the kubeadm of a control plane."""
    return str(yaml.safe_dump_all(documents(plane), sort_keys=False))


def documents(plane: ControlPlane, node: str = "") -> tuple[dict[str, object], dict[str, object]]:
    """Return the documents of a configuration that is made from what is on a control plane.

    Renewal takes names and addresses from the old certificates, so that little is needed. ``node``
    is the name of another node for which kubeadm shall make a kubelet.conf.
    """
    version = Version(plane.facts.version)
    era = configuration_of(version)
    address, port = apiserver_of(plane)
    cluster: dict[str, object] = {
        "apiVersion": era.kubeadm_api,
        "kind": "ClusterConfiguration",
        "kubernetesVersion": plane.facts.version,
        "certificatesDir": _PKI,
    }
    if plane.server:
        cluster["controlPlaneEndpoint"] = plane.server.partition("://")[2].rstrip("/")
    if "etcd" not in plane.manifests:
        cluster["etcd"] = {"external": _external_etcd(plane)}
    if era.validity:
        hours = round(plane.lifetime.total_seconds() / _HOUR)
        cluster["certificateValidityPeriod"] = f"{hours}h0m0s"
    init: dict[str, object] = {
        "apiVersion": era.kubeadm_api,
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": address, "bindPort": port},
        "nodeRegistration": {"name": node or plane.node, "criSocket": SOCKET},
    }
    return init, cluster


def _external_etcd(plane: ControlPlane) -> dict[str, object]:
    flag = plane.manifests["kube-apiserver"].flag
    files = {"caFile": "etcd-cafile", "certFile": "etcd-certfile", "keyFile": "etcd-keyfile"}
    found = {name: flag(option) for name, option in files.items() if flag(option)}
    return {"endpoints": flag("etcd-servers").split(","), **found}
