"""The hosts of a run: from --hosts, or from an inventory."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kbuild.base.errors import BadSetting
from kbuild.base.files import reason_of
from kbuild.nodes.errors import NoHosts
from kbuild.nodes.inventory.files import read_tree
from kbuild.nodes.inventory.python import read_python
from kbuild.nodes.inventory.tree import Resolver
from kbuild.nodes.inventory.variables import Found, found_host
from kbuild.nodes.jump import Jump, read_ssh_config
from kbuild.nodes.limits import choose
from kbuild.nodes.model import Host

if TYPE_CHECKING:
    from pyinfra.connectors.sshuserclient.config import SSHConfig

LOCAL = "@local"  # this machine, as pyinfra calls it
_SSH = 22
_HOSTS_HINT = "write them as node1,root@node2,node3:2222,[fe80::1]:22 or @local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How hosts are reached, in addition to what is said of each host.

    ``user`` is that of --user. It wins over ansible_user of an inventory, as flags of kbuild win
    over files; ``user@`` of --hosts, which is said of one host, wins over it. (Ansible's --user
    loses against its inventories, and many are surprised that it does nothing.) ``sudo`` adds to
    what an inventory says: a host with ansible_become has sudo without it. ``sudo_password`` is for
    each sudo that asks.
    """

    user: str = ""
    sudo: bool = False
    sudo_password: str = field(default="", repr=False)
    ssh_config: Path | None = None
    known_hosts: Path | None = None


def demand_readable(access: Access) -> None:
    """Raise BadSetting for a file of ssh that is named and cannot be read, as ``ssh -F`` does."""
    for name, path in (("--ssh-config", access.ssh_config), ("--known-hosts", access.known_hosts)):
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            reason, hint = f"it cannot be read: {reason_of(error)}", "name a file that is there"
            raise BadSetting(name=name, value=str(path), reason=reason, hint=hint) from error


def read_hosts(
    names: Sequence[str], inventory: Path | None, limit: Sequence[str], access: Access
) -> tuple[Host, ...]:
    """Return the hosts named, or those of an inventory, that match ``limit``.

    Hosts that are left out are not read: what kbuild cannot do with them does not matter. Raises
    NoHosts, BadInventory, BadSetting, and NodesExtraMissing for an inventory of pyinfra.
    """
    if names and inventory is not None:
        reason = "--hosts and --inventory are both given; choose hosts of an inventory with --limit"
        raise NoHosts(reason=reason)
    if inventory is not None:
        found = _of_inventory(inventory, limit, access)
    else:
        named = _named(names)
        if not named:
            raise NoHosts(reason="neither --hosts nor --inventory names any")
        user = access.user
        found = [
            replace(named[name], user=named[name].user or user)
            for name in choose(list(named), {}, limit)
        ]
    if not found:
        raise NoHosts(
            reason=f"none is left by --limit {','.join(limit)}" if limit else "it is empty"
        )
    _demand_one_name(found)
    config = read_ssh_config(access.ssh_config)
    return tuple(_host(each, access, config) for each in found)


def _of_inventory(path: Path, limit: Sequence[str], access: Access) -> list[Found]:
    if path.suffix == ".py":
        known, groups = read_python(path)
        found = [known[name] for name in choose(list(known), groups, limit)]
    else:
        tree = read_tree(path)
        resolver = Resolver(tree)
        chosen = choose(list(tree.hosts), tree.members(), limit)
        found = [found_host(name, resolver.variables(name)) for name in chosen]
    return [replace(each, user=access.user or each.user) for each in found]


def _named(texts: Sequence[str]) -> dict[str, Found]:
    """Return the hosts of --hosts, by name: without a user, and with a port if one is given."""
    found: dict[str, Found] = {}
    for text in (part.strip() for each in texts for part in each.split(",")):
        if not text:
            continue
        host = _one(text)
        before = found.setdefault(host.name, host)
        if before != host:
            raise _bad(text, f"{host.name} is named with two users")
    return found


def _one(text: str) -> Found:
    if text == LOCAL:
        return Found(name=LOCAL, is_local=True)
    user, at, rest = text.rpartition("@")
    address, port = _address_and_port(rest, text)
    is_plain = text.isprintable() and not any(c in "@/\\[]'\"$;& " for c in user + address)
    if (at and not user) or not address or not is_plain or "-" in (user[:1], address[:1]):
        raise _bad(text, "it is not the name or address of a host")
    shown = f"[{address}]" if ":" in address else address
    name = f"{shown}:{port}" if port else address
    return Found(name=name, address=address if port else "", port=port, user=user)


def _address_and_port(rest: str, text: str) -> tuple[str, int]:
    """Split ``host:2222`` and ``[::1]:22``; an IPv6 address without brackets has no port."""
    if _is_ip(rest):
        return rest, 0
    address, colon, port = rest.rpartition(":")
    if rest.endswith("]"):
        address, colon, port = rest, "", ""
    if not colon:
        address = rest
    elif not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 1 << 16):
        raise _bad(text, "what follows its last colon is not a port")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
        if not _is_ip(address):
            raise _bad(text, "what is in brackets is not an IPv6 address")
    elif ":" in address:
        raise _bad(text, "an IPv6 address needs brackets")
    return address, int(port or 0) if colon else 0


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _bad(text: str, reason: str) -> BadSetting:
    return BadSetting(name="--hosts", value=text, reason=reason, hint=_HOSTS_HINT)


def _demand_one_name(found: Sequence[Found]) -> None:
    """Raise BadSetting if two names are one machine: two runs on it would hinder each other."""
    seen: dict[tuple[str, int, str], str] = {}
    for each in found:
        address = (each.address or each.name).lower().rstrip(".")
        if _is_ip(address):
            address = str(ipaddress.ip_address(address))
        # Behind different jumps, one private address may be two machines.
        place = (LOCAL, 0, "") if each.is_local else (address, each.port or _SSH, each.jump)
        if place in seen:
            reason = f"it is the same machine as {seen[place]}"
            hint = "leave one of them out with --limit, or name it once"
            raise BadSetting(name="host", value=each.name, reason=reason, hint=hint)
        seen[place] = each.name


def _host(found: Found, access: Access, config: "SSHConfig | None") -> Host:
    sudo = found.sudo or access.sudo
    if found.is_local:
        return Host(name=LOCAL, sudo=sudo)
    # Never "accept-new", pyinfra's default: whoever answers first would get root's commands.
    data: dict[str, object] = {**found.data, "ssh_strict_host_key_checking": "yes"}
    data |= {
        name: value
        for name, value in (
            ("ssh_hostname", found.address),
            ("ssh_port", found.port),
            ("ssh_user", found.user),
            ("ssh_key", found.key),
            ("ssh_password", found.password),
            ("ssh_config_file", str(access.ssh_config or "")),
            ("ssh_known_hosts_file", str(access.known_hosts or "")),
            ("ssh_paramiko_connect_kwargs", _jump(found, access, config)),
        )
        if value
    }
    password = access.sudo_password if sudo else ""
    return Host(name=found.name, data=data, sudo=sudo, sudo_password=password)


def _jump(found: Found, access: Access, config: "SSHConfig | None") -> Jump | None:
    known = config.lookup(found.address or found.name) if config else {}
    jump = found.jump or known.get("proxyjump", "none")
    if jump.lower() == "none" or ("proxycommand" in known and not found.jump):
        return None
    address = known.get("hostname", found.address or found.name)
    shown = f"[{address}]" if ":" in address else address
    target = f"{shown}:{found.port or known.get('port', _SSH)}"
    return Jump(jump, target, access.ssh_config, access.known_hosts)
