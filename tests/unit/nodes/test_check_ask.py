"""How a check of nodes shows how far it is."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kbuild.base.values import Age
from kbuild.certs.api import demand_longer
from kbuild.certs.errors import CertificatesUnread
from kbuild.nodes.check import ask
from kbuild.nodes.check.checked import Wanted
from kbuild.nodes.model import Call
from tests.support.node_tree import facts as facts_of
from tests.support.node_tree import run_function
from tests.support.recorder import Recorder


class Below:
    """A connection to a node whose files are below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def call(self, function: Call) -> str:
        return run_function(str(function), root=self.root)


def test_a_path_that_no_host_or_not_every_host_has_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: dict[str, Any] = {name: Below(tmp_path / name) for name in "ab"}
    (tmp_path / "b").mkdir()
    (tmp_path / "a/etc/ssl-x").mkdir(parents=True)
    facts = [facts_of(name) for name in hosts]
    monkeypatch.setattr(ask, "survey", lambda *_: (facts, []))
    paths = ("/nope it is", "/etc/ssl-x")
    checked = ask.check(hosts, Wanted(now=datetime.now(UTC), paths=paths), Recorder())
    assert checked.unreachable == ()
    told = {
        host.name: {(f.path, f.kind, f.severity, f.command) for f in host.inventory.findings}
        for host in checked.hosts
    }
    nope = ("/nope it is", "unreadable", "warning", "ls -ld '/nope it is'")
    assert told["a"] == {nope}
    assert told["b"] == {nope, ("/etc/ssl-x", "not-on-host", "info", "ls -ld /etc/ssl-x")}
    with pytest.raises(CertificatesUnread, match="/nope it is"):
        demand_longer(ask.as_one(checked), Age(1, written="1s"))


def test_hosts_that_do_not_answer_yet_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def survey(
        _connections: object, _parallel: int, _path: str, told: Callable[[int, int], None]
    ) -> tuple[list[Any], list[Any]]:
        told(1, 2)
        return [], []

    monkeypatch.setattr(ask, "survey", survey)
    progress = Recorder()
    ask.check({}, Wanted(now=datetime.now(UTC)), progress)
    assert progress.advances == [("hosts asked", 1, 2)]
