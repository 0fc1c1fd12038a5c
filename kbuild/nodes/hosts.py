"""The hosts of a run: from --hosts, or from an inventory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from kbuild.base.values import did_you_mean
from kbuild.nodes.errors import NoHosts
from kbuild.nodes.model import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How hosts are reached, unless an inventory says otherwise for a host."""

    user: str = ""
    sudo: bool = False
    ssh_config: Path | None = None
    known_hosts: Path | None = None


def read_hosts(
    names: Sequence[str], inventory: Path | None, limit: Sequence[str], access: Access
) -> tuple[Host, ...]:
    """Return the hosts named, or those of an inventory, that match ``limit``; raises NoHosts."""
    if inventory is not None:
        raise NoHosts(reason="inventories are not read yet")
    hosts = [Host(name=name) for each in names for name in each.split(",") if name]
    kept = [host for host in hosts if not limit or _is_in(host.name, limit)]
    if not hosts:
        raise NoHosts(reason="neither --hosts nor --inventory is given")
    if not kept:
        hint = did_you_mean(limit[0], [host.name for host in hosts], prefix="; ")
        raise NoHosts(reason=f"none matches --limit {','.join(limit)}{hint}")
    return tuple(_with(host, access) for host in {host.name: host for host in kept}.values())


def _is_in(name: str, limit: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for each in limit for pattern in each.split(","))


def _with(host: Host, access: Access) -> Host:
    # Never "accept-new", pyinfra's default: whoever answers first would get root's commands.
    data: dict[str, object] = {"ssh_strict_host_key_checking": "yes"}
    if access.user:
        data["ssh_user"] = access.user
    if access.ssh_config:
        data["ssh_config_file"] = str(access.ssh_config)
    if access.known_hosts:
        data["ssh_known_hosts_file"] = str(access.known_hosts)
    return replace(host, data=data | dict(host.data), sudo=host.sudo or access.sudo)
