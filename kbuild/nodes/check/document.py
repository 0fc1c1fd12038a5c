"""A check of nodes as a JSON document; docs/nodes.md explains its fields."""

from dataclasses import asdict
from typing import Any

from kbuild.base.values import rfc3339
from kbuild.certs.api import document
from kbuild.nodes.check.checked import Checked, HostChecked
from kbuild.nodes.check.served import Served

_YEAR = 365  # days


def check_document(checked: Checked) -> dict[str, Any]:
    """Return a check as values that JSON has: hosts, certificates, findings.

    Paths are those on the host. The findings on what differs between hosts have no host.
    """
    inventories = {host.name: document(host.inventory) for host in checked.hosts}
    return {
        "read_at": rfc3339(checked.at),
        "hosts": [_host(each) for each in checked.hosts],
        "unreachable": [asdict(each) for each in checked.unreachable],
        "certificates": [
            {"host": name, **each}
            for name, inventory in inventories.items()
            for each in inventory["certificates"]
        ],
        "findings": [
            *({"host": None, **asdict(each)} for each in checked.between),
            *(
                {"host": name, **each}
                for name, inventory in inventories.items()
                for each in inventory["findings"]
            ),
        ],
    }


def _host(host: HostChecked) -> dict[str, Any]:
    seen, facts = host.seen, host.seen.facts
    return {
        "host": host.name,
        "is_control_plane": facts.is_control_plane,
        "kubeadm": {
            "path": facts.target,
            "sha256": facts.sha256,
            "version": facts.version,
            "package": facts.package,
            "is_held": facts.is_held,
            "issues": _issues(host),
            "backups": [
                {"name": each.name, "sha256": each.sha256, "version": each.version}
                for each in facts.generations
            ],
        },
        "kubelet": {"version": facts.kubelet, "settings": dict(seen.kubelet)},
        "components": [
            {"name": each.name, "image": each.image, "flags": each.flags}
            for each in seen.components.values()
        ],
        "started": {name: rfc3339(moment) for name, moment in seen.started.items()},
        "served": [_served(each) for each in host.served],
        "stored_lifetimes": asdict(seen.stored) if seen.stored else None,
    }


def _issues(host: HostChecked) -> dict[str, int] | None:
    if host.issues is None:
        return None
    return {
        "ca_days": host.issues.ca_years * _YEAR,
        "leaf_days": host.issues.leaf_years * _YEAR,
    }


def _served(served: Served) -> dict[str, Any]:
    shown, port = served.certificate, served.port
    return {
        "component": port.component,
        "address": port.address,
        "port": port.number,
        "file": port.file or None,
        "fingerprint": shown and shown.fingerprint,
        "not_before": shown and rfc3339(shown.not_before),
        "not_after": shown and rfc3339(shown.not_after),
        "problem": served.problem or None,
    }
