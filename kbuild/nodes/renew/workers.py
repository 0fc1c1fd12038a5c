"""Workers whose kubelet can no longer log in, which a renewal does not repair."""

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime

from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed
from kbuild.nodes.model import HostFacts
from kbuild.nodes.renew.facts import ControlPlane, kubelet_now
from kbuild.nodes.renew.repair import documents
from kbuild.nodes.survey import at_once

_PREFIX = "system:node:"
_COMMANDS = """\
On {plane}:
mkdir -m 700 {folder} && printf '%s\\n---\\n%s\\n' {documents} >{folder}/kubeadm.yaml
kubeadm {words}
Copy {folder}/kubelet.conf to /etc/kubernetes/kubelet.conf of {host}, and remove {folder}.
On {host}:
rm -f /var/lib/kubelet/pki/kubelet-client-current.pem && systemctl restart kubelet"""


def expired_workers(
    workers: Sequence[HostFacts], connections: Mapping[str, Connection], parallel: int
) -> dict[str, tuple[str, datetime]]:
    """Return the workers whose client certificate has ended: the node's name, and the end."""
    found: dict[str, tuple[str, datetime]] = {}

    def ask(worker: HostFacts) -> None:
        name = worker.host.name
        try:
            stored = kubelet_now(connections[name])
        except (CallFailed, ConnectionFailed):  # it is no part of the renewal
            return
        for each in stored:
            if each.facts.not_after.timestamp() <= worker.clock:
                node = each.facts.common_name.removeprefix(_PREFIX)
                found[name] = (node, each.facts.not_after)

    at_once(workers, ask, parallel)
    return dict(sorted(found.items()))


def worker_advice(plane: ControlPlane, expired: Mapping[str, tuple[str, datetime]]) -> list[str]:
    """Return lines that name workers with their commands, those for the first one as an example."""
    if not expired:
        return []
    named = [f"{host} ({end:%Y-%m-%d})" for host, (_, end) in expired.items()]
    first, (node, _) = next(iter(expired.items()))
    folder = f"/root/{node}"
    words = plane.renewal.making("kubelet", folder, f"{folder}/kubeadm.yaml")
    lines = [
        f"workers whose kubelet has a client certificate that has ended: {', '.join(named)}",
        "kbuild does not repair them; when the API server answers, do this for each of them",
    ]
    if not words:
        return [*lines, "make its kubelet.conf by hand: `kbuild advise` has the commands"]
    text = _COMMANDS.format(
        plane=plane.name,
        folder=folder,
        host=first,
        documents=shlex.join(json.dumps(each) for each in documents(plane, node)),
        words=" ".join(words),
    )
    return [*lines[:-1], f"{lines[-1]}, here with the names of {first}:", *text.splitlines()]
