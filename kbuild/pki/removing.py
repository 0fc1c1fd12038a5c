"""Take a host out of the plan: out of pki.toml, or out of the requests of cfssl."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kbuild.base.values import day, did_you_mean
from kbuild.pki.adding import TABLE, header_of, leaves_of, list_of, parsed, with_hosts
from kbuild.pki.cfssl import SUFFIX, host_names
from kbuild.pki.cluster import FILE, cluster_text, read_cluster
from kbuild.pki.errors import HostNotRemoved, UnknownHost
from kbuild.pki.hosting import HostChange, Planner
from kbuild.pki.hosts import alternative_name
from kbuild.pki.model import Plan, Spec
from kbuild.pki.state import held_of
from kbuild.pki.store import PUBLIC, File
from kbuild.pki.uses import node_of

_NEEDED = ("control-plane", "etcd")  # roles without which a cluster has no API server, or no data


def without_host(
    planned: Planner,
    name: str,
    addresses: tuple[str, ...],
    *,
    certificates: tuple[str, ...] = (),
) -> HostChange:
    """Return the plan with and without a host, and the files that are changed or removed.

    With pki.toml the host is a node, with addresses only those of it; or one of the ``vips``. With
    the files of cfssl its name and the addresses are taken out of all requests, or those of these
    certificates. Raises an error of kbuild.pki.errors.
    """
    plan = planned()
    path = plan.inputs[0]
    if path.name == FILE:
        if certificates:
            reason, hint = "--certificate is for the files of cfssl", "leave it out"
            raise HostNotRemoved(path=path, reason=reason, hint=hint)
        changed = {path: _from_cluster(path, name, addresses)}
    else:
        changed = _from_requests(plan, name, addresses, certificates)
    new = planned(contents=changed)
    names = {each.name for each in new.specs}
    gone = [each for each in plan.specs if each.name not in names]
    files = [File(path=p, content=content, mode=PUBLIC) for p, content in changed.items()]
    files += [
        File(path=p, content=None, mode=PUBLIC)
        for each in gone
        for p in (*each.files, *((each.request,) if each.request else ()))
        if p.exists()
    ]
    left = _still_named(new, name, addresses) if path.name == FILE else ()
    notes = (*new.notes, *left, *_notes(plan, gone, name))
    return HostChange(before=plan, plan=replace(new, notes=notes), files=tuple(files))


def _notes(plan: Plan, gone: Iterable[Spec], name: str) -> Iterator[str]:
    """Yield what still is there of a host."""
    ends = [facts.not_after for each in gone if (facts := held_of(each).facts) is not None]
    if ends:
        yield (
            f"The certificates of {name} are valid until {day(max(ends))}: Kubernetes knows no"
            " revocation. If somebody else may have their keys, replace the CA with"
            " `kbuild pki rotate-ca`."
        )
    if plan.inputs[0].name != FILE:
        for each in plan.specs:
            if node_of(each) == name:
                yield f"{each.name} is the certificate of {name}, and stays. Move its files away."


def _still_named(new: Plan, name: str, addresses: tuple[str, ...]) -> Iterator[str]:
    """Yield which certificates of the new plan name what leaves pki.toml, which is there yet."""
    nodes = {node.name: node for node in read_cluster(new.inputs[0]).nodes}
    given = addresses if name in nodes else (name, *addresses)
    whole = nodes[name].hosts if name in nodes and not addresses else ()
    gone = {each.lower() for each in (*whole, *map(alternative_name, given))}
    for each in new.specs:
        if left := [host for host in each.wanted.names if host.lower() in gone]:
            shown = ", ".join(host.partition(":")[2] for host in left)
            yield (
                f"{each.name} still names {shown}: its extra-hosts, vips or another node have it."
                " Remove it there as well if nobody else uses it."
            )


def _from_requests(
    plan: Plan, name: str, addresses: tuple[str, ...], certificates: tuple[str, ...]
) -> dict[Path, bytes]:
    leaves = leaves_of(plan, certificates)
    chosen = [leaves[each] for each in certificates] or [
        each for each in leaves.values() if node_of(each) != name
    ]
    path = plan.inputs[0].parent
    gone = _known(path, (name, *addresses), (host for e in chosen for host in e.wanted.names))

    def left(present: list[str]) -> list[str]:
        return [each for each in present if not each or alternative_name(each) not in gone]

    changed = {}
    for each in chosen:
        if gone.isdisjoint(each.wanted.names):
            continue
        request = plan.output / f"{each.name}{SUFFIX}"
        if gone >= set(each.wanted.names):
            reason = f"{each.name} would have no host left"
            hint = "add its other hosts first, or name the certificates with --certificate"
            raise HostNotRemoved(path=request, reason=reason, hint=hint)
        changed[request] = with_hosts(request, left)
    return changed


def _known(path: Path, given: tuple[str, ...], hosts: Iterable[str]) -> set[str]:
    """Return hosts in the words of CertificateFacts.names; raises UnknownHost if one is of none."""
    known = list(dict.fromkeys(hosts))
    found = host_names(path, "the command", list(given))
    shown = [each.partition(":")[2] for each in known]
    for host in found:
        if host not in known:
            raise _unknown(path, host.partition(":")[2], shown)
    return set(found)


def _unknown(path: Path, name: str, known: list[str]) -> UnknownHost:
    hint = did_you_mean(name, known) or f"the hosts are {', '.join(known) or 'none'}"
    return UnknownHost(path=path, name=name, suggestion=hint)


def _from_cluster(path: Path, name: str, addresses: tuple[str, ...]) -> bytes:
    text = cluster_text(path)
    table: dict[str, Any] = tomllib.loads(text)
    nodes, vips = table.get("nodes", {}), table.get("vips", [])
    start = header_of(text, name)
    if name in nodes and not addresses:
        _demand_others(path, name, nodes)
        _demand_no_override(path, name, table)
        del nodes[name]
        if not nodes:
            del table["nodes"]
        new = _without_table(text, start)
    elif name in nodes:
        at = start.end() if start else len(text)
        gone = _known(path, addresses, map(alternative_name, nodes[name]["addresses"]))
        nodes[name]["addresses"] = left = _left(nodes[name]["addresses"], gone)
        if not left:
            hint = f"remove the node: leave out the addresses of {name}"
            raise HostNotRemoved(path=path, reason=f"{name} would have no address", hint=hint)
        new = _without_items(text, "addresses", gone, at)
    elif name in vips:
        gone = _known(path, (name, *addresses), map(alternative_name, vips))
        table["vips"] = _left(vips, gone)
        new = _without_items(text, "vips", gone, 0)
    else:
        raise _unknown(path, name, [*nodes, *vips])
    if parsed(new) not in (table, {**table, "nodes": {}}):
        reason = "kbuild cannot tell where in it the host is"
        hint = "remove the host from it yourself, then run `kbuild pki issue`"
        raise HostNotRemoved(path=path, reason=reason, hint=hint)
    return new.encode()


def _left(present: list[str], gone: set[str]) -> list[str]:
    return [each for each in present if alternative_name(each) not in gone]


def _demand_others(path: Path, name: str, nodes: dict[str, Any]) -> None:
    for role in _NEEDED:
        having = [each for each, node in nodes.items() if role in node.get("roles", ())]
        if having == [name]:
            reason = f"{name} is the last node with the role {role}"
            hint = f"add another one first: `kbuild pki add-host NAME ADDRESS --role {role}`"
            raise HostNotRemoved(path=path, reason=reason, hint=hint)


def _demand_no_override(path: Path, name: str, table: dict[str, Any]) -> None:
    plans = (f"kubelet-{name}", f"nodes/{name}/kubelet", f"nodes/{name}/kubelet.conf")
    for each in plans:
        if each in table.get("certificates", {}):
            reason = f"it has a table for a certificate of {name}: certificates.{each}"
            raise HostNotRemoved(path=path, reason=reason, hint="remove that table first")


def _without_table(text: str, start: re.Match[str] | None) -> str:
    """Return a text without a table, and without the comments that stand at it.

    What stands after a blank line, or directly above the next table, belongs to what follows.
    """
    if start is None:
        return text
    above = text[: start.start()].splitlines(keepends=True)
    while above and _is_comment(above[-1]):
        above.pop()
    after = TABLE.search(text, start.end())
    lines = text[start.start() : after.start() if after else len(text)].splitlines(keepends=True)
    end = len(lines)
    while not lines[end - 1].strip() or _is_comment(lines[end - 1]):
        end -= 1
    rest = lines[end:]
    own = next((at for at, line in enumerate(rest) if not line.strip()), 0 if after else len(rest))
    kept = "".join(rest[own:]) + (text[after.start() :] if after else "")
    head = "".join(above)
    if not kept.strip():
        return f"{head.rstrip()}\n"
    return head + kept.removeprefix("\n")


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _without_items(text: str, key: str, gone: set[str], at: int) -> str:
    """Return a text without these hosts in the list of a key, in the table at a place."""
    found = list_of(text, key, at)
    if found is None:
        return text
    items = found["items"]
    for quoted in re.findall(r"\"[^\"\n]*\"|'[^'\n]*'", re.sub("#.*", "", items)):
        if alternative_name(quoted[1:-1]) not in gone:
            continue
        item = rf"{re.escape(quoted)}[ \t]*,?[ \t]*"
        line = re.compile(rf"^[ \t]*{item}(?:#.*)?\n", re.MULTILINE)
        items = (line if line.search(items) else re.compile(item)).sub("", items, count=1)
    if "\n" not in items:
        items = items.rstrip(", ")
    return text[: found.start("items")] + items + text[found.end("items") :]
