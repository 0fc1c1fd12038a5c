"""`kbuild nodes` on several hosts, some of which cannot take part or fail."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kbuild.cli import nodes
from kbuild.nodes.connection import CallFailed, ConnectionFailed
from kbuild.nodes.model import Call, Host
from tests.support.command import Done, run_here
from tests.support.releases import make_release

FACTS = {
    "uid": "0",
    "machine": "x86_64",
    "gzip": "yes",
    "asked": "/usr/bin/kubeadm",
    "target": "/usr/bin/kubeadm",
    "sha256": "0" * 64,
    "version": "v1.20.0",
    "free": "1000000",
    "state_free": "1000000",
}


@dataclass
class FakeConnection:
    """A host that does what it is asked to, but for the functions that it ``fails`` in."""

    host: Host
    facts: Mapping[str, str] = field(default_factory=dict)
    fails: Sequence[str] = ()
    is_down: bool = False
    calls: list[str] = field(default_factory=list)

    def call(self, function: Call, *, timeout: float = 0) -> str:
        del timeout
        self.calls.append(function.function)
        if self.is_down:
            message = "no route to host"
            raise ConnectionFailed(message)
        if function.function in ("runs_as", *self.fails):
            message = f"no {function.function}"
            raise CallFailed(message, "")
        if function.function == "facts":
            facts = FACTS | {"time": str(round(time.time()))} | dict(self.facts)
            return "".join(f"{name}={value}\n" for name, value in facts.items())
        return ""

    def send(self, content: bytes, path: str, told: Callable[[int, int], None]) -> None:
        del path
        told(len(content), len(content))

    def close(self) -> None:
        pass


Fleet = dict[str, FakeConnection]
DOWN = {"is_down": True}
FOREIGN = {"facts": {"machine": "i686", "uid": "1000"}}
FAILS = {"fails": ["apply"]}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    return make_release(folder / "work", folder / "release")


@pytest.fixture
def run(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Done, Fleet]]:
    def run_on(words: str, **hosts: Mapping[str, Any]) -> tuple[Done, Fleet]:
        fleet = {name: FakeConnection(Host(name=name), **some) for name, some in hosts.items()}

        @contextlib.contextmanager
        def connections(_hosts: Sequence[Host]) -> Iterator[Fleet]:
            yield fleet

        monkeypatch.setattr(nodes, "connections", connections)
        what = (
            words.split() if words.startswith("rollback") else ["install", release, *words.split()]
        )
        command = ("nodes", *what, "--hosts", ",".join(fleet))
        return run_here(*command, HOME=str(tmp_path), XDG_STATE_HOME=str(tmp_path)), fleet

    return run_on


def states(done: Done) -> dict[str, str]:
    return {each["host"]: each["state"] for each in json.loads(done.stdout)["hosts"]}


@pytest.mark.parametrize("words", ["", "--max-fail 1"])
def test_nothing_is_changed_if_more_hosts_cannot_take_part_than_may_fail(
    run: Callable[..., tuple[Done, Fleet]], words: str
) -> None:
    done, fleet = run(f"--yes --json {words}", a={}, b=DOWN, c=FOREIGN, d={})
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["kind"]) == (100, "hosts-unreachable")
    assert error["what"] == "2 of 4 hosts cannot be used"
    first, *others = error["details"].splitlines()
    assert first.startswith("b: no route to host; see that `ssh b` works")
    assert others == [
        "c: the user is not root there; add --sudo, or connect as root with --user",
        "c: it is i686, and the release has amd64, arm64; build for it too, with --arch",
    ]
    assert {call for each in fleet.values() for call in each.calls} == {"facts"}


def test_a_host_that_is_refused_is_an_error_of_its_own_kind(
    run: Callable[..., tuple[Done, Fleet]],
) -> None:
    done, _ = run("--yes --json", a={}, c=FOREIGN)
    assert json.loads(done.stdout)["error"]["kind"] == "hosts-refused"


def test_with_max_fail_the_rest_is_done_and_each_host_is_named(
    run: Callable[..., tuple[Done, Fleet]],
) -> None:
    done, fleet = run("--yes --json --max-fail 2", a={}, b=DOWN, c=FOREIGN, d={})
    assert done.returncode == 100
    assert states(done) == {"a": "changed", "b": "unreachable", "c": "refused", "d": "changed"}
    [refused] = [each for each in json.loads(done.stdout)["hosts"] if each["host"] == "c"]
    assert refused["reason"].startswith("the user is not root there; it is i686, and the release")
    assert "2 of 4 hosts failed; 2 are as requested" in done.stderr
    assert "b: no route to host; nothing was changed there; see that" in done.stderr
    assert "take_lock" not in fleet["b"].calls + fleet["c"].calls


@pytest.mark.parametrize(
    ("allowed", "left"), [(1, {"c": "not-started", "d": "not-started"}), (2, {"c": "changed"})]
)
def test_hosts_that_cannot_take_part_count_among_those_that_may_fail(
    run: Callable[..., tuple[Done, Fleet]], allowed: int, left: dict[str, str]
) -> None:
    done, _ = run(f"--yes --json --max-fail {allowed}", a=FAILS, b=DOWN, c={}, d={})
    assert done.returncode == 100
    assert states(done) == {"a": "undone", "b": "unreachable", "d": left["c"]} | left


def test_a_dry_run_names_who_is_left_out(run: Callable[..., tuple[Done, Fleet]]) -> None:
    done, fleet = run("--dry-run --json --max-fail 1", a={}, b=DOWN)
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert [each["host"] for each in document["hosts"]] == ["a"]
    assert document["left_out"] == [
        {"host": "b", "state": "unreachable", "reason": "no route to host"}
    ]
    assert fleet["a"].calls == ["facts"]


def test_a_pipe_has_one_line_for_each_step_of_a_host(
    run: Callable[..., tuple[Done, Fleet]],
) -> None:
    done, _ = run("--yes", a={}, b={})
    said, _, after = done.stderr.partition("==> nodes\n")[2].partition("certificates are")
    assert "kbuild nodes renew" in after
    assert [line.strip() for line in said.splitlines() if line.strip()] == [
        line
        for host in "ab"
        for line in (
            *(
                f"{host}: {n} of 4: {s}"
                for n, s in enumerate(("copy", "back-up", "record", "replace"), 1)
            ),
            f"{host}: changed",
        )
    ]


def test_hosts_with_the_same_plan_share_its_lines(run: Callable[..., tuple[Done, Fleet]]) -> None:
    other = {"facts": {"package": "deb kubeadm"}}
    done, _ = run("--dry-run", a={}, b={}, c=other, d={})
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert heads == ["a, b, d: 4 steps", "c: 4 steps"]
    assert done.stdout.count("1. copy: ") == 2


def test_the_list_of_backups_tells_what_is_there_and_which_host_has_none(
    run: Callable[..., tuple[Done, Fleet]],
) -> None:
    backup = f"20260101T000000Z-old {'0' * 64} v1.20.0 /usr/bin/kubeadm"
    done, _ = run("rollback --list", a={"facts": {"generation": backup}}, b={})
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1:] == [
        ["a", "20260101T000000Z-old", "v1.20.0", "/usr/bin/kubeadm", "yes"],
        ["b", "none"],
    ]


def test_backups_are_not_listed_for_a_user_who_cannot_see_them(
    run: Callable[..., tuple[Done, Fleet]],
) -> None:
    done, _ = run("rollback --list", a={}, b={"facts": {"uid": "1000"}})
    assert (done.returncode, done.stdout) == (100, "")
    assert "b: the user is not root there; add --sudo" in done.stderr
