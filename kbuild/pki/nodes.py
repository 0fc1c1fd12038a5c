"""Compare a plan with the nodes of a cluster, as ``kubectl get nodes -o json`` prints them."""

from collections.abc import Iterator
from pathlib import Path

from kbuild.base.files import BROKEN, read_file, reason_of
from kbuild.base.strictjson import load_json
from kbuild.pki.errors import BadPkiFile
from kbuild.pki.hosts import alternative_name
from kbuild.pki.model import Plan

_MAX_FILE = 256 << 20  # bytes; a node lists its images, which takes 50 KiB
_KINDS = ("InternalIP", "Hostname", "InternalDNS")

# The name of a node, and its name and addresses in the words of CertificateFacts.names.
Known = tuple[str, tuple[str, ...]]


def read_nodes(path: Path) -> tuple[Known, ...]:
    """Return the nodes of a file; raises BadPkiFile."""
    try:
        items = load_json(read_file(path, _MAX_FILE))["items"]
        return tuple(
            (each["metadata"]["name"], tuple(dict.fromkeys(_hosts(each)))) for each in items
        )
    except (OSError, *BROKEN) as error:
        hint = "write it with `kubectl get nodes -o json`"
        raise BadPkiFile(path=path, reason=reason_of(error), hint=hint) from error


def _hosts(node: dict[str, dict[str, list[dict[str, str]]]]) -> Iterator[str]:
    yield alternative_name(str(node["metadata"]["name"]))
    for address in node["status"]["addresses"]:
        if address["type"] in _KINDS:
            yield alternative_name(address["address"])


def gaps(plan: Plan, nodes: tuple[Known, ...]) -> Iterator[str]:
    """Yield what certificates lack: who holds a part of a node's addresses must hold all of them.

    A node that none of them holds is told too: it is new, or its name was misspelt.
    """
    for name, hosts in nodes:
        holding = [each for each in plan.specs if not set(hosts).isdisjoint(each.wanted.names)]
        if not holding:
            shown = ", ".join(each.partition(":")[2] for each in hosts)
            yield f"No certificate holds the node {name}: {shown}."
        for each in holding:
            missing = [host for host in hosts if host not in each.wanted.names]
            if missing:
                shown = ", ".join(host.partition(":")[2] for host in missing)
                yield f"{each.name} holds the node {name}, and lacks {shown}."
