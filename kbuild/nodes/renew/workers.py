"""Workers whose kubelet can no longer log in, because its client certificate has ended.

kubelet gets a new certificate with a bootstrap token, as it did when the node joined. So no private
key leaves a node.
"""

import json
import secrets
import shlex
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import yaml

from kbuild.base.words import counted
from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed, first_of, values_of
from kbuild.nodes.model import HostFacts, HostPlan, Proof, Step
from kbuild.nodes.renew.calls import call
from kbuild.nodes.renew.facts import REPAIR, ControlPlane, Stored, kubelet_of, node_of
from kbuild.nodes.renew.plan import BACKUPS, backup_step
from kbuild.nodes.renew.repair import WORK, documents
from kbuild.nodes.survey import at_once

_ALPHABET = string.ascii_lowercase + string.digits
_JOINS = 120  # seconds that kubelet has to get a certificate
_STAYS = 60  # seconds that kubelet has to start
_EACH = 4  # minutes of the token's life for each worker
_LEAST = 30  # minutes
_COMMANDS = """\
On {plane}:
mkdir -m 700 {folder} && printf '%s\\n---\\n%s\\n' {documents} >{folder}/kubeadm.yaml
kubeadm {words}
Copy {folder}/kubelet.conf to /etc/kubernetes/kubelet.conf of {host}, and remove {folder}.
On {host}:
rm -f /var/lib/kubelet/pki/kubelet-client-current.pem && systemctl restart kubelet"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker whose client certificate has ended; ``node`` is its name in the cluster.

    ``obstacle`` is why its kubelet cannot get a certificate with a token, or empty. If
    ``is_joined``, it has a new one, from a run that did not live to the end.
    """

    facts: HostFacts
    node: str
    end: datetime
    obstacle: str = ""
    is_joined: bool = False

    @property
    def name(self) -> str:
        """Return the name of the host."""
        return self.facts.host.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A bootstrap token, which kubeadm makes on a control plane and removes there."""

    plane: ControlPlane
    id: str
    secret: str = field(repr=False)
    minutes: int


def expired_workers(
    workers: Sequence[HostFacts],
    connections: Mapping[str, Connection],
    parallel: int,
    tell: Callable[[str], None],
) -> list[Worker]:
    """Return the workers whose client certificate has ended, in the order of their names.

    Among them are those whose repair has no end yet. Those that cannot be examined are told.
    """
    found: list[Worker] = []

    def ask(facts: HostFacts) -> None:
        try:
            values = values_of(connections[facts.host.name].call(call("worker_facts")))
        except (CallFailed, ConnectionFailed) as error:  # it is no part of the renewal
            tell(f"{facts.host.name}: it is not known whether its kubelet can log in: {error}")
            return
        stored = kubelet_of(values)
        if not stored:
            name = facts.host.name
            tell(f"{name}: its kubelet has no client certificate that can be read, or needs root")
            return
        first = min(stored, key=lambda each: each.facts.not_after)
        worker = Worker(
            facts=facts,
            node=node_of(first),
            end=first.facts.not_after,
            obstacle=_obstacle(values, first),
            is_joined=not _has_ended(first, facts),
        )
        if not worker.is_joined or first_of(values, "base").endswith(REPAIR):
            found.append(worker)

    at_once(workers, ask, parallel)
    return sorted(found, key=lambda each: each.name)


def _has_ended(stored: Stored, facts: HostFacts) -> bool:
    return stored.facts.not_after.timestamp() <= facts.clock


def _obstacle(values: Mapping[str, list[str]], stored: Stored) -> str:
    if not node_of(stored):
        return "its client certificate is not that of a node"
    if first_of(values, "servers") != "1":
        return "its kubelet.conf does not name exactly one API server"
    if first_of(values, "bootstraps") != "yes":
        return "its kubelet has no --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf"
    if first_of(values, "bootstrap") == "other":
        return "it has a /etc/kubernetes/bootstrap-kubelet.conf that kbuild has not made"
    if not first_of(values, "server") or first_of(values, "authority") != "yes":
        return "its kubelet.conf does not name the API server and its CA"
    return ""


def plan_workers(
    plane: ControlPlane, workers: Sequence[Worker], at: str
) -> tuple[list[HostPlan], Token | None]:
    """Return the plans that let kubelets log in again, and the token for them, if there are some.

    The first one makes the token, so it must come when the control planes have been renewed.
    """
    joined = [
        HostPlan(host=each.facts.host, steps=(_settled_step(),), is_independent=True)
        for each in workers
        if each.is_joined
    ]
    able = [each for each in workers if not (each.is_joined or _why_not(plane, each))]
    if not able:
        return joined, None
    token = Token(
        plane=plane,
        id=_random(6),
        secret=_random(16),
        minutes=max(_LEAST, _EACH * len(able)),
    )
    note = f"the client certificates of kubelet have ended on {', '.join(_named(able))}"
    first = HostPlan(host=plane.facts.host, steps=(_token_step(token, len(able)),), notes=(note,))
    return [*joined, first, *(_plan(each, token, at) for each in able)], token


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _why_not(plane: ControlPlane, worker: Worker) -> str:
    if plane.manifests["kube-apiserver"].flag("enable-bootstrap-token-auth") != "true":
        return "the API server has no --enable-bootstrap-token-auth=true"
    return worker.obstacle


def _named(workers: Sequence[Worker]) -> list[str]:
    return [f"{each.name} ({each.end:%Y-%m-%d})" for each in workers]


def _token_step(token: Token, count: int) -> Step:
    kubeadm = token.plane.facts.target
    make = call("make_token", kubeadm, WORK, _configuration(token))
    has = call("has_token", kubeadm, token.id)
    return Step(
        name="make-token",
        what=f"make the bootstrap token {token.id}, which ends after {token.minutes} minutes",
        why=f"kubelet of {counted(count, 'worker')} gets a new certificate with it;"
        " it is removed when the run ends",
        check=has,
        do=replace(make, secret=f"{token.id}.{token.secret}"),
        confirm=has,
        undo=call("remove_token", kubeadm, token.id),
    )


def _configuration(token: Token) -> str:
    """Return a configuration of kubeadm, up to the place of the token at its end."""
    init, cluster = documents(token.plane)
    text = str(yaml.safe_dump_all((cluster, init), sort_keys=False))
    return f"{text}bootstrapTokens:\n- ttl: {token.minutes}m0s\n  token: "


def remove_token(
    token: Token | None, connections: Mapping[str, Connection], tell: Callable[[str], None]
) -> None:
    """Remove a token, if it was made; tell if that is not possible."""
    if token is None:
        return
    try:
        connection = connections[token.plane.name]
        connection.call(call("remove_token", token.plane.facts.target, token.id))
    except (CallFailed, ConnectionFailed) as error:
        tell(f"the bootstrap token {token.id} is left, and ends by itself: {error}")


def _plan(worker: Worker, token: Token, at: str) -> HostPlan:
    generation = f"{at}{REPAIR}"
    has_joined = call("has_made", generation, "kubelet.conf")
    join = call("join_again", generation, str(_JOINS))
    steps = (
        backup_step(
            generation,
            f"keep /etc/kubernetes and kubelet's files as {BACKUPS}/{generation}",
            "kubelet writes kubelet.conf and its certificate again",
            call("keep", generation, "", "", ""),
        ),
        Step(
            name="join-again",
            what=f"restart kubelet with the token {token.id}, so that it asks for a certificate",
            why=f"that of {worker.node} ended {worker.end:%Y-%m-%d}; pods survive the restart",
            check=has_joined,
            do=replace(join, secret=f"{token.id}.{token.secret}"),
            confirm=has_joined,
            proofs=(Proof(kind="joined"),),
            is_fatal=True,
        ),
        _settled_step(),
    )
    return HostPlan(host=worker.facts.host, steps=steps, is_independent=True)


def _settled_step() -> Step:
    return Step(
        name="settled",
        what="remove what the repair has left, and see that kubelet stays",
        why="then the node is Ready again",
        check=call("unfinished_base"),
        do=call("end_joining"),
        confirm=call("kubelet_stays", str(_STAYS)),
        is_fatal=True,
    )


def worker_advice(plane: ControlPlane, workers: Sequence[Worker]) -> list[str]:
    """Return lines that name the workers that are not repaired, and why, with commands.

    The commands are those for the first one, as an example.
    """
    unable = [each for each in workers if not each.is_joined and _why_not(plane, each)]
    if not unable:
        return []
    first = unable[0]
    folder = f"/root/{first.node}"
    words = plane.renewal.making("kubelet", folder, f"{folder}/kubeadm.yaml")
    lines = [
        f"workers on which kubelet's client certificate has ended: {', '.join(_named(unable))}",
        *(f"{each.name}: kbuild does not repair it: {_why_not(plane, each)}" for each in unable),
        "when the API server answers, do this for each of them",
    ]
    if not words or not first.node:
        return [*lines[:-1], "make its kubelet.conf by hand: `kbuild advise` has the commands"]
    text = _COMMANDS.format(
        plane=plane.name,
        folder=folder,
        host=first.name,
        documents=shlex.join(json.dumps(each) for each in documents(plane, first.node)),
        words=" ".join(words),
    )
    return [*lines[:-1], f"{lines[-1]}, here with the names of {first.name}:", *text.splitlines()]
