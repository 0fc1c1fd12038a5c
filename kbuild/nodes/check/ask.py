"""Ask all hosts at once, and judge what they answer."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock

from kbuild.base.progress import Progress
from kbuild.certs.api import certificate_of, inventory_of
from kbuild.certs.model import (
    Certificate,
    Finding,
    Inventory,
    Owner,
    first_to_expire,
    worst_first,
)
from kbuild.nodes.check.checked import Checked, HostChecked, Wanted
from kbuild.nodes.check.compare import between
from kbuild.nodes.check.judge import of_node
from kbuild.nodes.check.lasting import NOT_RENEWED, SELF_SIGNED
from kbuild.nodes.check.seen import NodeSeen, node_seen
from kbuild.nodes.check.served import Served, ask_port, ports_of
from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed, values_of
from kbuild.nodes.model import HostFacts, Issues, call
from kbuild.nodes.survey import at_once, survey

PLACES = ("/etc/kubernetes", "/var/lib/kubelet/pki")
_AGAIN = "run the same command again"


def check(connections: Mapping[str, Connection], wanted: Wanted, progress: Progress) -> Checked:
    """Return what is there on each host, what it serves, and what is wrong. Nothing is changed.

    A host that cannot be asked is among ``unreachable``; the others are checked all the same.
    """
    facts, refused = survey(
        connections,
        wanted.parallel,
        wanted.kubeadm,
        lambda done, total: progress.advance("hosts asked", done, total),
    )
    answers: dict[str, tuple[NodeSeen, tuple[Served, ...]]] = {}
    one_at_a_time = Lock()

    def ask(one: HostFacts) -> None:
        name = one.host.name
        try:
            answers[name] = _ask(one, connections[name], wanted)
        except ConnectionFailed as error:
            reason = f"the connection was lost: {error}"
            refused.append(one.refusal(reason, _AGAIN))
        except (CallFailed, LookupError, ValueError) as error:
            reason = f"it could not be read: {error}"
            refused.append(one.refusal(reason, _AGAIN))
        with one_at_a_time:
            progress.advance("hosts read", len(answers), len(facts))

    at_once(facts, ask, wanted.parallel)
    nowhere = set(wanted.paths).intersection(*(seen.absent for seen, _ in answers.values()))
    hosts = tuple(_judged(*answers[name], wanted, nowhere, progress) for name in sorted(answers))
    return Checked(
        at=wanted.now,
        hosts=hosts,
        unreachable=tuple(sorted(refused, key=lambda each: each.host)),
        between=tuple(between(hosts)),
    )


def _ask(
    facts: HostFacts, connection: Connection, wanted: Wanted
) -> tuple[NodeSeen, tuple[Served, ...]]:
    look = call("look", *PLACES, *wanted.paths, library="check.sh")
    seen = node_seen(facts, values_of(connection.call(look)))
    return seen, tuple(ask_port(port, connection) for port in ports_of(seen))


def _judged(
    seen: NodeSeen,
    served: tuple[Served, ...],
    wanted: Wanted,
    nowhere: set[str],
    progress: Progress,
) -> HostChecked:
    paths = [Path(each) for each in (*PLACES, *wanted.paths)]
    issues = lifetimes_of(seen, wanted.known)
    inventory = inventory_of(seen.copies, paths, wanted.now, progress)
    own = [*of_node(seen, inventory, served, issues), *_absent(seen, wanted.paths, nowhere)]
    told = {each.path for each in own if each.kind == NOT_RENEWED}
    others = (f for f in inventory.findings if f.kind != SELF_SIGNED or f.path not in told)
    findings = tuple(sorted((*others, *own), key=worst_first))
    return HostChecked(
        seen=seen, inventory=replace(inventory, findings=findings), served=served, issues=issues
    )


def _absent(seen: NodeSeen, paths: tuple[str, ...], nowhere: set[str]) -> Iterator[Finding]:
    """Yield what was named and is not on a node; if other nodes have it, that may be right."""
    for path in dict.fromkeys(paths):
        if path in seen.absent:
            reason = "there is no such file or directory on this host"
            if seen.facts.uid != 0:
                reason += ", or this user may not look into a directory above it"
            yield Finding(
                severity="warning" if path in nowhere else "info",
                kind="unreadable" if path in nowhere else "not-on-host",
                path=path,
                place="",
                reason=reason,
                command=f"ls -ld {shlex.quote(path)}",
            )


def lifetimes_of(seen: NodeSeen, known: Mapping[str, Issues]) -> Issues | None:
    """Return what the kubeadm of a node issues: as a release says, or as was recorded there."""
    return known.get(seen.facts.sha256, seen.facts.issues)


def as_one(checked: Checked) -> Inventory:
    """Return the inventory of all hosts, with ``HOST:`` before each path.

    A certificate that a port serves although its file has another one is in it too.
    """
    certificates = [
        replace(
            each,
            path=f"{host.name}:{each.path}",
            issued_by=each.issued_by and f"{host.name}:{each.issued_by}",
            private_key=each.private_key
            and replace(each.private_key, path=f"{host.name}:{each.private_key.path}"),
        )
        for host in checked.hosts
        for each in (*host.inventory.certificates, *_only_served(host))
    ]
    findings = [
        replace(each, path=f"{host.name}:{each.path}")
        for host in checked.hosts
        for each in host.inventory.findings
    ]
    return Inventory(
        read_at=checked.at,
        paths=tuple(host.name for host in checked.hosts),
        certificates=tuple(sorted(certificates, key=first_to_expire)),
        findings=tuple(sorted((*findings, *checked.between), key=worst_first)),
    )


def for_reports(checked: Checked) -> Inventory:
    """Return the inventory of all hosts, in which hosts that could not be asked are findings.

    Who reads only a report would take their certificates for good.
    """
    whole = as_one(checked)
    missing = [
        Finding(
            severity="warning",
            kind="unreadable",
            path=f"{each.host}:/",
            place="",
            reason=f"the host could not be checked: {each.reason}",
            command=each.todo,
        )
        for each in checked.unreachable
    ]
    return replace(whole, findings=tuple(sorted((*whole.findings, *missing), key=worst_first)))


def _only_served(host: HostChecked) -> Iterator[Certificate]:
    known = {each.fingerprint for each in host.inventory.certificates}
    for each in host.served:
        facts, port = each.certificate, each.port
        if facts and port.file and facts.fingerprint not in known:
            yield certificate_of(
                facts,
                path=f"port {port.number}",
                place="served",
                role=f"{port.component}, server",
                chain="unknown-issuer",
                owner=Owner(user="", group="", mode=0),
            )
