"""Write a host into the plan: into pki.toml, or into the requests of cfssl."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kbuild.base.files import read_file
from kbuild.pki.cfssl import host_names
from kbuild.pki.cluster import FILE, ROLES, cluster_text, read_cluster
from kbuild.pki.errors import HostNotAdded, UnknownCertificate
from kbuild.pki.hosting import HostChange, Planner
from kbuild.pki.model import Plan, Spec
from kbuild.pki.store import PUBLIC, File
from kbuild.pki.uses import node_of

VIP = "vip"
_MAX_FILE = 16 << 20  # bytes
_LIST = r"[ \t]*=[ \t]*\[(?P<items>[^\]]*)\]"
TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)


def with_host(
    planned: Planner,
    name: str,
    addresses: tuple[str, ...],
    *,
    roles: tuple[str, ...] = (),
    certificates: tuple[str, ...] = (),
) -> HostChange:
    """Return the plan without and with a host, and the changed files of the plan.

    With pki.toml the host is a node with these roles, or an address of the API server. With the
    files of cfssl it is written into the requests of these certificates, else of all servers.
    Raises an error of kbuild.pki.errors.
    """
    plan = planned()
    told: tuple[str, ...] = ()
    if plan.inputs[0].name == FILE:
        _refuse(certificates, plan.inputs[0], "--certificate is for the files of cfssl", "--role")
        changed = {plan.inputs[0]: _in_cluster(plan.inputs[0], name, addresses, roles)}
        told = tuple(_role_of_new(plan.inputs[0], name, addresses, roles))
    else:
        _refuse(roles, plan.inputs[0], f"--role is for {FILE}", "--certificate")
        folder = plan.inputs[0].parent
        paths = [folder / f"{spec.name}-csr.json" for spec in _servers(plan, certificates, name)]
        changed = {path: _in_request(path, [name, *addresses]) for path in paths}
    files = tuple(
        File(path=path, content=content, mode=PUBLIC)
        for path, content in changed.items()
        if content != read_file(path, _MAX_FILE)
    )
    new = planned(contents=changed)
    hosts = host_names(new.inputs[0], name, [name, *addresses])
    new = replace(new, notes=(*new.notes, *told, *_not_held(new, hosts, changed)))
    return HostChange(before=plan, plan=new, files=files, added=hosts)


def _role_of_new(
    path: Path, name: str, addresses: tuple[str, ...], roles: tuple[str, ...]
) -> Iterator[str]:
    """Yield the role of a new node if none was given: the API server gets the name of that node.

    Raises HostNotAdded if the address of a new node is its name, and its name the address.
    """
    if VIP in roles or name in {node.name for node in read_cluster(path).nodes}:
        return
    kinds = [each.startswith("IP:") for each in host_names(path, name, [name, *addresses])]
    if kinds[0] and not any(kinds[1:]):
        reason = f"{name} is an address, and {', '.join(addresses)} is none"
        hint = "give the name of the node first, then its addresses"
        raise HostNotAdded(path=path, reason=reason, hint=hint)
    if not roles:
        yield (
            f"{name} is a new {ROLES[0]} node, because no --role was given. If it is none, correct"
            f" its roles in {path}, and run `kbuild pki issue`."
        )


def _not_held(plan: Plan, hosts: tuple[str, ...], contents: Mapping[Path, bytes]) -> Iterator[str]:
    """Yield who does not get a new host though its kind does, and which host nobody gets."""
    path = plan.inputs[0]
    if path.name == FILE:
        for name, own in read_cluster(path, contents[path]).overrides.items():
            if left_out := [host for host in hosts if host in own.without_hosts]:
                yield f"{name} does not get {_shown(left_out)}: its without-hosts leaves that out."
    held = {host for each in plan.specs for host in each.wanted.names}
    if missing := [host for host in hosts if host not in held]:
        yield f"No certificate of the plan gets {_shown(missing)}."


def _shown(hosts: list[str]) -> str:
    return ", ".join(host.partition(":")[2] for host in hosts)


def _refuse(given: tuple[str, ...], path: Path, reason: str, other: str) -> None:
    if given:
        raise HostNotAdded(path=path, reason=reason, hint=f"leave it out; here it is {other}")


def _servers(plan: Plan, names: tuple[str, ...], host: str) -> list[Spec]:
    leaves = leaves_of(plan, names)
    for name in names:
        if (node := node_of(leaves[name])) not in ("", host):
            reason = f"{name} is the certificate of the node {node}, and of no other host"
            hint = "name other certificates with --certificate"
            raise HostNotAdded(path=plan.inputs[0], reason=reason, hint=hint)
    found = [leaves[name] for name in names] or [
        each
        for each in leaves.values()
        if each.wanted.names and "server auth" in each.wanted.usages and node_of(each) in ("", host)
    ]
    if not found:
        reason = "no request is that of a server that names hosts"
        hint = "name the certificates that must hold the host with --certificate"
        raise HostNotAdded(path=plan.inputs[0], reason=reason, hint=hint)
    return found


def leaves_of(plan: Plan, names: tuple[str, ...]) -> dict[str, Spec]:
    """Return the certificates that are no CA; raises UnknownCertificate if a name is of none."""
    leaves = {each.name: each for each in plan.specs if not each.wanted.is_ca}
    for name in names:
        if name not in leaves:
            raise UnknownCertificate(name=name, known=", ".join(leaves))
    return leaves


def _in_request(path: Path, hosts: list[str]) -> bytes:
    def added(present: list[str]) -> list[str]:
        return [*present, *(host for host in hosts if host not in present)]

    return with_hosts(path, added)


def with_hosts(path: Path, changed: Callable[[list[str]], list[str]]) -> bytes:
    """Return the content of a request with other hosts; the same bytes if they are the same."""
    text = read_file(path, _MAX_FILE).decode()
    document = json.loads(text)
    key = next((each for each in document if each.lower() == "hosts"), "hosts")
    present = document.get(key) or []
    document[key] = changed(present)
    if document[key] == present:
        return text.encode()
    indent = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    return (
        json.dumps(document, indent=indent[1] if indent else 4, ensure_ascii=False) + "\n"
    ).encode()


def _in_cluster(path: Path, name: str, addresses: tuple[str, ...], roles: tuple[str, ...]) -> bytes:
    text = cluster_text(path)
    table: dict[str, Any] = tomllib.loads(text)
    if VIP in roles:
        if len(roles) > 1:
            hint = "call the command twice"
            raise HostNotAdded(path=path, reason=f"{VIP} is no role of a node", hint=hint)
        new = _extend_list(text, "vips", [name, *addresses], table.get("vips", []), 0)
        table["vips"] = _merged(table.get("vips", []), [name, *addresses])
    elif name in table.get("nodes", {}):
        if roles:
            reason, hint = f"the node {name} is there, with its roles", "leave out --role"
            raise HostNotAdded(path=path, reason=reason, hint=hint)
        node = table["nodes"][name]
        start = header_of(text, name)
        at = start.end() if start else len(text)
        new = _extend_list(text, "addresses", list(addresses), node.get("addresses", []), at)
        node["addresses"] = _merged(node.get("addresses", []), list(addresses))
    else:
        node = {"addresses": list(addresses), "roles": list(roles or ROLES[:1])}
        table.setdefault("nodes", {})[name] = node
        new = f"{text.rstrip()}\n\n[nodes.{_key(name)}]\n" + "".join(
            f"{key} = {json.dumps(value)}\n" for key, value in node.items()
        )
    if parsed(new) != table:
        reason = "kbuild cannot tell where in it the host belongs"
        hint = "write the host into it yourself, then run `kbuild pki issue`"
        raise HostNotAdded(path=path, reason=reason, hint=hint)
    return new.encode()


def _merged(present: list[str], more: list[str]) -> list[str]:
    return [*present, *(each for each in more if each not in present)]


def _extend_list(text: str, key: str, values: list[str], present: list[str], at: int) -> str:
    """Return a text with more values in the list of a key, in the table that begins at a place."""
    found = list_of(text, key, at)
    missing = [json.dumps(each) for each in values if each not in present]
    if not missing:
        return text
    if found is None:
        return f"{key} = [{', '.join(missing)}]\n{text}" if at == 0 else text
    items = found["items"].rstrip()
    if "#" in items:  # a comment may end the last line
        indent = re.search(r"\n([ \t]*)[^\n]*$", items)
        joined = f"{items}\n{indent[1] if indent else ''}{', '.join(missing)},\n"
    else:
        items = items.rstrip(",")
        joined = f"{items}{', ' if items.strip() else ''}{', '.join(missing)}"
    return text[: found.start("items")] + joined + text[found.end("items") :]


def header_of(text: str, node: str) -> re.Match[str] | None:
    """Return where the table of a node begins, None if its nodes are written in another way."""
    return re.search(rf'^\[nodes\.(?:"?{re.escape(node)}"?)\]', text, re.MULTILINE)


def list_of(text: str, key: str, at: int) -> re.Match[str] | None:
    """Return where the list of a key is, in the table that begins at a place, None if nowhere."""
    after = TABLE.search(text, at)
    found = re.compile(rf"^[ \t]*{key}{_LIST}", re.MULTILINE)
    return found.search(text, at, after.start() if after else len(text))


def parsed(text: str) -> object:
    """Return what a TOML text says, None if it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
