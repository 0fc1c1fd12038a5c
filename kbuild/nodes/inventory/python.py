"""Inventories of pyinfra, which are programs: reading one runs it.

pyinfra's own loader is in its command line, whose import changes this process (it makes
subprocesses and signals cooperative). The rules here are those of pyinfra_cli/inventory.py
(v3.10): each list is a group, ``all`` has all hosts, a tuple adds data, and group_data/GROUP.py
beside the inventory has more.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kbuild.base.files import read_file, reason_of
from kbuild.nodes.errors import BadInventory
from kbuild.nodes.inventory.tree import MAX_HOSTS, bad
from kbuild.nodes.inventory.variables import Found, Secret

_MAX_SIZE = 1 << 20  # bytes
_HINT = "correct it (kbuild runs it, as pyinfra does), or name the hosts with --hosts a,b"
_REFUSED = ("_sudo_password", "_su_user", "_doas", "_dzdo", "_use_sudo_login", "_sudo_user")
_NAMED = ("ssh_hostname", "ssh_port", "ssh_user", "ssh_key", "ssh_password")

Groups = dict[str, tuple[list[Any], dict[str, Any]]]


def read_python(path: Path) -> tuple[dict[str, Found], dict[str, set[str]]]:
    """Run an inventory; return its hosts and the members of its groups; raises BadInventory."""
    place = str(path)
    try:
        groups = _groups(_run(path), path)
        all_hosts, all_data = groups.pop("all", ([], {}))
        entries = [*all_hosts, *(entry for hosts, _ in groups.values() for entry in hosts)]
        names = dict.fromkeys(_name(entry) for entry in entries)
        members = {name: {_name(entry) for entry in hosts} for name, (hosts, _) in groups.items()}
        members.setdefault(path.stem, set(names))
        data: dict[str, dict[str, Any]] = {name: dict(all_data) for name in names}
        for name, (_, of_group) in groups.items():
            for member in members[name]:
                data[member] |= of_group
        for entry in entries:
            data[_name(entry)] |= entry[1] if isinstance(entry, tuple) else {}
        if len(names) > MAX_HOSTS:
            raise bad(place, f"it has more than {MAX_HOSTS} hosts", _HINT)
        return {name: _found(name, data[name], place) for name in names}, members
    except BadInventory:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise bad(place, f"it fails: {reason}", _HINT) from error


def _run(path: Path) -> dict[str, Any]:
    try:
        content = read_file(path, _MAX_SIZE)
    except OSError as error:
        raise bad(str(path), reason_of(error), _HINT) from error
    known: dict[str, Any] = {"__file__": str(path)}
    exec(compile(content, str(path), "exec", dont_inherit=True), known)
    return {name: value for name, value in known.items() if not name.startswith("__")}


def _groups(known: Mapping[str, Any], path: Path) -> Groups:
    groups: Groups = {}
    for name, value in known.items():
        if not name.startswith("_") and isinstance(value, list | tuple):
            hosts, data = value if isinstance(value, tuple) else (value, {})
            groups[name] = (list(hosts), dict(data))
    for file in sorted(path.parent.glob("group_data/*.py")):
        hosts, data = groups.get(file.stem, ([], {}))
        groups[file.stem] = (hosts, data | _run(file))
    return groups


def _name(entry: object) -> str:
    name = entry[0] if isinstance(entry, tuple) else entry
    if not isinstance(name, str) or not name or not name.isprintable() or "/" in name:
        message = f"{ascii(name)[:80]} is not the name of a host"
        raise TypeError(message)
    return name


def _found(name: str, data: Mapping[str, Any], place: str) -> Found:
    refused = next((each for each in _REFUSED if data.get(each)), None)
    if refused:
        raise bad(place, f"kbuild cannot use {refused} of {name}: it needs _sudo to root", _HINT)
    if name.startswith("@") and name != "@local":
        raise bad(place, f"kbuild connects with ssh or @local, not as {name} says", _HINT)
    more = {k: v for k, v in data.items() if k.startswith("ssh_") and k not in _NAMED}
    if "ssh_key_password" in more:
        more["ssh_key_password"] = Secret(more["ssh_key_password"])
    return Found(
        name=name,
        address=str(data.get("ssh_hostname") or ""),
        port=int(data.get("ssh_port") or 0),
        user=str(data.get("ssh_user") or ""),
        key=str(data.get("ssh_key") or ""),
        password=Secret(data.get("ssh_password") or ""),
        sudo=bool(data.get("_sudo")),
        is_local=name == "@local",
        place=place,
        data=more,
    )
