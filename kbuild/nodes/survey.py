"""Ask all hosts at once what they are like, and change nothing."""

import re
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed, first_of, values_of
from kbuild.nodes.jump import Jump
from kbuild.nodes.model import Generation, Host, HostFacts, Issues, Refusal, call

T = TypeVar("T")

_RUN_IT = "see that `{ssh}` works without a question"
_SUDO = (
    "let the user run sudo without a password (NOPASSWD in sudoers), give it with"
    " --ask-sudo-password, or connect as root with --user root"
)
_TTY = (
    "let the user run sudo without a terminal (`Defaults:USER !requiretty` in sudoers), or connect"
    " as root with --user root"
)
_WRONG_KEY = (
    "somebody else may be answering: compare its key with that on the host's console; if the host"
    " was installed anew, remove its old key with the command that `{ssh}` prints"
)
_NEW_KEY = (
    "run `{ssh}`, compare the fingerprint that it shows with that on the host's console, and answer"
    " yes"
)
_VERSION = re.compile(r"v\d+(\.\d+)+[0-9A-Za-z.+-]{0,40}")
_PACKAGE = re.compile(r"(deb|rpm) [0-9A-Za-z][0-9A-Za-z.+_-]*")
_RECORD = re.compile(r"(?P<sha>[0-9a-f]{64}) (?P<ca>\d{1,3}) (?P<leaf>\d{1,3}) \S+ (?P<path>/.*)")
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


def survey(
    connections: Mapping[str, Connection],
    parallel: int,
    path: str = "",
    told: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[list[HostFacts], list[Refusal]]:
    """Return the facts of each host, and a refusal for each that cannot be asked.

    ``path`` is where kubeadm is, or empty if it is to be found. ``told`` gets the number of hosts
    that were asked, and of all.
    """
    facts: list[HostFacts] = []
    refused: list[Refusal] = []
    one_at_a_time = threading.Lock()

    def ask(connection: Connection) -> None:
        name, asked_at = connection.host.name, time.time()
        try:
            values = values_of(connection.call(call("facts", path), timeout=120))
            facts.append(_facts(connection.host, (asked_at, time.time()), values))
        except (ConnectionFailed, CallFailed) as error:
            todo = _advice(str(error)).format(ssh=ssh_command(connection.host))
            refused.append(Refusal(host=name, reason=str(error), todo=todo))
        except ValueError as error:
            reason = f"its answer cannot be understood: {error}"
            todo = _RUN_IT.format(ssh=ssh_command(connection.host))
            refused.append(Refusal(host=name, reason=reason, todo=todo))
        with one_at_a_time:
            told(len(facts) + len(refused), len(connections))

    at_once(connections.values(), ask, parallel)
    return sorted(facts, key=lambda each: each.host.name), sorted(refused, key=lambda r: r.host)


def each_once(facts: Iterable[HostFacts]) -> tuple[list[HostFacts], list[Refusal]]:
    """Return each machine once, and a refusal for each other name of it.

    A lock is no obstacle for the run that has it, so that this run would hinder itself, and a
    control plane with two names would be counted as two.
    """
    first: dict[str, HostFacts] = {}
    refused = []
    for each in facts:
        known = first.setdefault(each.identity or each.host.name, each)
        if known is not each:
            reason = f"it is the same machine as {known.host.name}"
            todo = "leave one of them out with --limit, or name it once"
            refused.append(each.refusal(reason, todo))
    return list(first.values()), refused


def _advice(reason: str) -> str:
    match reason.lower():
        case text if "does not match" in text or "has changed" in text:
            return _WRONG_KEY
        case text if "no host key" in text or "host key is known" in text:
            return _NEW_KEY
        case text if "sudo" in text and "a tty" in text:
            return _TTY
        case text if "sudo" in text:
            return _SUDO
        case _:
            return _RUN_IT


def ssh_command(host: Host) -> str:
    """Return the command of ssh that reaches a host as kbuild does, to be typed."""
    data = {name: str(value) for name, value in host.data.items()}
    jump = host.data.get("ssh_paramiko_connect_kwargs")
    known = data.get("ssh_known_hosts_file")
    options = {
        "-F": data.get("ssh_config_file"),
        "-o": f"UserKnownHostsFile={known}" if known else "",
        "-i": data.get("ssh_key"),
        "-J": jump.hops if isinstance(jump, Jump) else "",
        "-p": data.get("ssh_port"),
    }
    words = [word for name, value in options.items() if value for word in (name, value)]
    user, address = data.get("ssh_user"), data.get("ssh_hostname") or host.name
    return shlex.join(["ssh", *words, f"{user}@{address}" if user else address])


def at_once(
    items: Iterable[T],
    do: Callable[[T], None],
    parallel: int,
    stop: Callable[[], None] | None = None,
) -> None:
    """Call a function for each item in threads, so many at a time; raises what one of them raises.

    If the caller is interrupted, no item begins any more. What has begun is told with ``stop`` and
    awaited, or abandoned without it.
    """
    left, errors = deque(items), deque[BaseException]()

    def work(ended: threading.Event) -> None:
        _take_all(left, do, errors)
        ended.set()

    # Events, because join takes a thread for ended once Ctrl-C has interrupted it (Python 3.11,
    # threading.py). Of a thread that is abandoned, nothing must keep kbuild from ending.
    ends = [threading.Event() for _ in range(min(parallel, len(left)))]
    threads = [threading.Thread(target=work, args=(end,), daemon=True) for end in ends]
    try:
        for thread in threads:
            thread.start()
        for end in ends:
            end.wait()
    except BaseException:
        left.clear()
        if stop is not None:
            stop()
            for thread, end in zip(threads, ends, strict=True):
                if thread.ident is not None:
                    end.wait()
        raise
    if errors:
        raise errors[0]


def _take_all(left: deque[T], do: Callable[[T], None], errors: deque[BaseException]) -> None:
    while left:
        try:
            item = left.popleft()
        except IndexError:  # another thread was quicker
            return
        try:
            do(item)
        except BaseException as error:  # the caller raises it again
            errors.append(error)


def _facts(host: Host, asked: tuple[float, float], values: Mapping[str, list[str]]) -> HostFacts:
    def one(name: str) -> str:
        return first_of(values, name)

    clock = _number(values, "time")
    issues, path = _record(one("issues"), one("sha256"))
    generations = (_generation(line) for line in sorted(values.get("generation", ())))
    return HostFacts(
        host=host,
        uid=_number(values, "uid"),
        clock=clock,
        # It was read between the question and the answer, which may take long.
        asked_at=min(max(clock, asked[0]), asked[1]),
        machine=one("machine"),
        has_gzip=one("gzip") == "yes",
        kubeadm=one("asked"),
        target=one("target"),
        sha256=one("sha256"),
        version=_version(one("version")),
        kubelet=_version(one("kubelet").removeprefix("Kubernetes ")),
        free=_number(values, "free", "0"),
        state_free=_number(values, "state_free", "0"),
        package=text if _PACKAGE.fullmatch(text := one("package")) else "",
        is_held=one("held") == "yes",
        is_read_only=bool(one("readonly")),
        is_control_plane=one("control_plane") == "yes",
        busy=tuple(sorted(set(values.get("busy", ())))),
        generations=tuple(each for each in generations if each is not None),
        unfinished=one("unfinished"),
        problem=one("problem"),
        leftovers=tuple(values.get("leftover", ())),
        can_lock_versions=one("versionlock") == "yes",
        is_excluded=one("excluded") == "yes",
        is_restored=_is_restored(values),
        issues=issues,
        is_ours=issues is not None and path == one("target"),
        identity=one("identity"),
        others=tuple(dict.fromkeys(values.get("other", ()))),
    )


def _number(values: Mapping[str, list[str]], name: str, default: str = "") -> int:
    if not _NUMBER.fullmatch(text := first_of(values, name) or default):
        message = f"{name} is {text[:80]!r}, which is not a number"
        raise ValueError(message)
    return int(text)


def _version(text: str) -> str:
    """Return a version, or an empty text if a program prints something else."""
    return text if _VERSION.fullmatch(text) else ""


def _record(line: str, sha256: str) -> tuple[Issues | None, str]:
    """Return what is recorded of the kubeadm with this sha256, and where it was put.

    There is nothing if the record is of another or is damaged.
    """
    found = _RECORD.fullmatch(line)
    if found is None or found["sha"] != sha256:
        return None, ""
    return Issues(ca_years=int(found["ca"]), leaf_years=int(found["leaf"])), found["path"]


def _is_restored(values: Mapping[str, list[str]]) -> bool:
    """Tell whether a rollback brought back what is there, or that there is no kubeadm."""
    sha256, path = first_of(values, "sha256"), first_of(values, "target")
    restored = first_of(values, "restored")
    if not sha256:
        return restored.startswith("none /") and path in ("", restored.removeprefix("none "))
    return restored == f"{sha256} {path}"


def _generation(line: str) -> Generation | None:
    """Return a backup, or None if what describes it is damaged."""
    name, sha256, version, path = [*line.split(" ", 3), "", "", ""][:4]
    is_whole = re.fullmatch(r"[0-9a-f]{64}|none", sha256) and path.startswith("/")
    sha256 = "" if sha256 == "none" else sha256
    return Generation(name=name, sha256=sha256, version=version, path=path) if is_whole else None
