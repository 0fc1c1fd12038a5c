"""How long an installation takes on hosts that are far away: what is done one after the other."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kbuild.nodes.connection import CallFailed
from kbuild.nodes.install import plan_install
from kbuild.nodes.model import Call, Host
from kbuild.nodes.runner import Run, carry_out
from kbuild.nodes.survey import survey
from tests.unit.nodes.test_plans import AT, KUBEADM, NODE, wishes
from tests.unit.nodes.test_runner import Watcher

FAR = 0.03  # seconds until a host has answered
FACTS = "uid=0\ntime=1000\nmachine=x86_64\n"
NEW = b"a new kubeadm"


class FarHost:
    """A host that needs no processor of this machine."""

    def __init__(self, name: str) -> None:
        self.host = Host(name=name)

    def call(self, function: Call, **_: float) -> str:
        time.sleep(FAR)
        if function.function == "is_ready":
            message = "it is not there yet"
            raise CallFailed(message, "")
        return FACTS if function.function == "facts" else ""

    def send(self, content: bytes, _path: str, told: Callable[[int, int], None]) -> None:
        time.sleep(FAR)
        told(len(content), len(content))


def seconds(count: int, folder: Path) -> float:
    """Return how long an installation on so many hosts takes."""
    file = folder / "kubeadm"
    file.write_bytes(NEW)
    kubeadm = replace(KUBEADM, file=file, sha256=hashlib.sha256(NEW).hexdigest())
    connections: Any = {f"n{n}": FarHost(f"n{n}") for n in range(count)}
    began = time.monotonic()
    facts, refused = survey(connections, 10)
    assert (len(facts), refused) == (count, [])
    hosts = [replace(NODE, host=each.host) for each in facts]
    plans, refused = plan_install(hosts, wishes(kubeadms={"amd64": kubeadm}))
    assert refused == []
    outcomes = carry_out(plans, connections, Run(name=AT, parallel=10, max_fail=0), Watcher())
    assert {each.state for each in outcomes} == {"changed"}
    return time.monotonic() - began


def test_fifty_hosts_take_less_than_five_times_as_long_as_five(tmp_path: Path) -> None:
    five, fifty = seconds(5, tmp_path), seconds(50, tmp_path)
    # Five: the first one, then the others at once. Fifty: the first one, then five times ten.
    assert fifty < 4.5 * five, (five, fifty)
