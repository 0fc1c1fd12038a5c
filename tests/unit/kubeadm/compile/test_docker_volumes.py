"""Which volumes a build in a container uses, and for how long, with an engine that only listens."""

import os
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest

from kbuild.base import engine
from kbuild.base.containers import CACHE_VOLUME
from kbuild.base.workspace import Workspace, interrupt
from kbuild.kubeadm.compile.docker import DockerBuild
from kbuild.kubeadm.compile.recipe import GoCommand
from kbuild.kubeadm.model import GoPin, Lifetimes, PatchedTree, SourceTree, Toolchain

IMAGE = f"golang@sha256:{'0' * 64}"


class Listener:
    """A client of an engine that notes when containers come and go, each with its Go cache."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.volumes: set[str] = set()
        self.requests_left = 0  # until the signal
        self.client = Mock()
        self.client.info.return_value = {"MemTotal": 8 << 30, "NCPU": 2}
        for kind in (self.client.containers, self.client.volumes, self.client.images):
            kind.list.return_value = []
        self.client.volumes.create.side_effect = self._make_volume
        self.client.containers.create.side_effect = self._make_container

    def _make_volume(self, name: str) -> Mock:
        self.volumes.add(name)
        self._interrupt()
        made = Mock()
        made.name = name
        made.remove.side_effect = lambda **_: self.volumes.remove(name)
        return made

    def _interrupt(self) -> None:
        """Interrupt kbuild if it waits for the answer to the chosen request."""
        self.requests_left -= 1
        if self.requests_left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def _make_container(self, *_: str, volumes: dict[str, object], **__: object) -> Mock:
        gocache = list(volumes)[-1]
        self.events.append(("made", gocache))
        self._interrupt()
        made = Mock()
        made.remove.side_effect = lambda **_: self.events.append(("removed", gocache))
        return made


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Listener:
    listener = Listener()
    monkeypatch.setattr(engine, "connect", lambda: listener.client)
    return listener


def build(workspace: Workspace, *, empty_cache: bool) -> None:
    (workspace.work / "tree").mkdir()
    (workspace.work / "tar").write_bytes(b"")
    files = SourceTree(
        path=workspace.work / "tree", tag="v1", commit="f" * 40, origin="x", files={}
    )
    tree = PatchedTree(
        source=files,
        toolchain=Toolchain(
            builder="docker",
            pin=GoPin(version="1.15.5", files=("x",)),
            go_version="1.15.5",
            image=IMAGE,
        ),
        lifetimes=Lifetimes(ca_years=100, leaf_years=10),
        patches=(),
        diff="",
    )
    command = GoCommand(arguments=("build",), environment={})
    tar, out = workspace.work / "tar", Path("out")
    DockerBuild(command, tree, tar, workspace, out, empty_cache=empty_cache).close()


def test_a_container_holds_the_go_cache_from_its_loading_to_the_end(
    listener: Listener, workspace: Workspace
) -> None:
    build(workspace, empty_cache=False)
    [volume] = {name for _, name in listener.events}
    assert volume.startswith(CACHE_VOLUME)
    # The engine removes no volume of a container, so no other process can in between.
    assert [event for event, _ in listener.events] == ["made", "made", "removed", "removed"]


def test_the_use_of_a_go_cache_is_noted(listener: Listener, workspace: Workspace) -> None:
    build(workspace, empty_cache=False)
    noted = [path.name for path in (workspace.cache / "volumes").iterdir()]
    assert noted == [listener.events[0][1]]


def test_an_empty_go_cache_is_a_volume_of_the_run(listener: Listener, workspace: Workspace) -> None:
    build(workspace, empty_cache=True)
    assert not listener.events[0][1].startswith(CACHE_VOLUME)
    assert list((workspace.cache / "volumes").iterdir()) == []


@pytest.mark.parametrize("request_number", [1, 2, 3, 4])  # two volumes and two containers
def test_what_the_engine_creates_when_the_run_is_interrupted_is_removed(
    request_number: int, listener: Listener, workspace: Workspace
) -> None:
    listener.requests_left = request_number
    before = signal.signal(signal.SIGINT, lambda *_: interrupt())
    try:
        with pytest.raises(KeyboardInterrupt):
            build(workspace, empty_cache=False)
    finally:
        signal.signal(signal.SIGINT, before)
    events = [event for event, _ in listener.events]
    assert events == [["made"] * n + ["removed"] * n for n in (0, 0, 1, 2)][request_number - 1]
    assert listener.volumes == set()
