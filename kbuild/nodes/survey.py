"""Ask all hosts at once what they are like, and change nothing."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed, values_of
from kbuild.nodes.model import Generation, Host, HostFacts, Refusal, call

T = TypeVar("T")

_RUN_IT = "see that `ssh {host}` works without a question, with the same user and key"
_SUDO = "give the user root's rights without a password, or connect as root with --user root"
_HOST_KEY = "compare the key of the host with its console, then add it with ssh-keyscan"


def survey(
    connections: Mapping[str, Connection], parallel: int, path: str = ""
) -> tuple[list[HostFacts], list[Refusal]]:
    """Return the facts of each host, and a refusal for each that cannot be asked.

    ``path`` is where kubeadm is, or empty if it is to be found.
    """
    facts: list[HostFacts] = []
    refused: list[Refusal] = []

    def ask(connection: Connection) -> None:
        name = connection.host.name
        asked_at = time.time()
        try:
            output = connection.call(call("facts", path), timeout=60)
            facts.append(_facts(connection.host, asked_at, values_of(output)))
        except ConnectionFailed as error:
            reason = str(error)
            todo = _HOST_KEY if "host key" in reason.lower() else _RUN_IT
            refused.append(Refusal(host=name, reason=reason, todo=todo.format(host=name)))
        except (CallFailed, LookupError, ValueError) as error:
            todo = _SUDO if "sudo" in str(error) else _RUN_IT.format(host=name)
            refused.append(Refusal(host=name, reason=str(error), todo=todo))

    at_once(connections.values(), ask, parallel)
    return sorted(facts, key=lambda each: each.host.name), sorted(refused, key=lambda r: r.host)


def at_once(items: Iterable[T], do: Callable[[T], None], parallel: int) -> None:
    """Call a function for each item, so many at a time; raises what one of them raises."""
    from gevent.pool import Pool

    pool = Pool(parallel)
    running = [pool.spawn(do, item) for item in items]
    try:
        pool.join()
    except BaseException:
        pool.kill()
        raise
    for each in running:
        each.get()


def _facts(host: Host, asked_at: float, values: Mapping[str, list[str]]) -> HostFacts:
    def one(name: str) -> str:
        return next(iter(values.get(name, ())), "")

    return HostFacts(
        host=host,
        uid=int(one("uid")),
        clock=int(one("time")),
        asked_at=asked_at,
        machine=one("machine"),
        has_gzip=one("gzip") == "yes",
        kubeadm=one("asked"),
        target=one("target"),
        sha256=one("sha256"),
        version=one("version"),
        kubelet=one("kubelet").removeprefix("Kubernetes "),
        free=int(one("free") or 0),
        state_free=int(one("state_free") or 0),
        package=one("package"),
        is_held=one("held") == "yes",
        is_read_only=bool(one("readonly")),
        is_control_plane=one("control_plane") == "yes",
        busy=tuple(sorted(set(values.get("busy", ())))),
        generations=tuple(_generation(line) for line in sorted(values.get("generation", ()))),
        unfinished=one("unfinished"),
    )


def _generation(line: str) -> Generation:
    name, sha256, version, path = line.split(" ", 3)
    return Generation(name=name, sha256=sha256, version=version, path=path)
