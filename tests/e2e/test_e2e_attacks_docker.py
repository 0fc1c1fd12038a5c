"""Hostile programs in containers: the proof where there is no sandbox, and the docker builder."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from kbuild.base.errors import SandboxLimit
from kbuild.base.workspace import Workspace, open_workspace
from kbuild.kubeadm.prove.container import container_runner
from kbuild.kubeadm.prove.errors import KubeadmFailed
from kbuild.kubeadm.prove.runner import LIMITS
from tests.e2e.command import VERSION, Kbuild
from tests.e2e.golang_image import imported, push, root_file_system
from tests.e2e.released import ARCH
from tests.support.hostile import compile_hostile
from tests.support.repositories import make_repository

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def workspace(engine: DockerClient, tmp_path: Path) -> Iterator[Workspace]:
    assert engine.ping()
    with open_workspace(tmp_path / "cache") as made:
        yield made


def attack(name: str, workspace: Workspace) -> str:
    """Run an attack as kubeadm in the container of the proof, and return its last words."""
    binary = compile_hostile(workspace.work / "kubeadm", name, Path("/nowhere"))
    with container_runner(binary, ARCH, workspace) as runner:
        assert runner is not None
        with pytest.raises(KubeadmFailed) as caught:
            runner.run(("init",), {"given": b"x"})
    return caught.value.details


def test_processes_in_the_container_are_limited(workspace: Workspace) -> None:
    words = attack("forks", workspace)
    assert "ESCAPED" not in words
    [line] = [line for line in words.splitlines() if line.startswith("stopped: ")]
    assert int(line.split()[1]) < LIMITS["native"].processes


def test_memory_in_the_container_is_limited(workspace: Workspace) -> None:
    assert "ESCAPED" not in attack("memory", workspace)


@pytest.mark.parametrize("name", ["output", "errors"])
def test_output_of_the_container_is_limited(workspace: Workspace, name: str) -> None:
    binary = compile_hostile(workspace.work / "kubeadm", name, Path("/nowhere"))
    with container_runner(binary, ARCH, workspace) as runner:
        assert runner is not None
        with pytest.raises(SandboxLimit, match="MiB of output"):
            runner.run(("init",), {})


def test_a_container_that_hangs_is_stopped(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "native", replace(LIMITS["native"], seconds=3))
    binary = compile_hostile(workspace.work / "kubeadm", "hang", Path("/nowhere"))
    with container_runner(binary, ARCH, workspace) as runner:
        assert runner is not None
        with pytest.raises(SandboxLimit, match="its limit of time"):
            runner.run(("init",), {})


def test_pipes_and_links_do_not_leave_the_container(workspace: Workspace) -> None:
    binary = compile_hostile(workspace.work / "kubeadm", "files", Path("/nowhere"))
    with container_runner(binary, ARCH, workspace) as runner:
        assert runner is not None
        _, files = runner.run(("init",), {"given": b"x"})
    assert files == {"given": b"x"}


@pytest.fixture
def hostile_image(
    engine: DockerClient, registry: str, downloads: Path, tmp_path: Path
) -> Iterator[str]:
    root = root_file_system(downloads, tmp_path / "root")
    compile_hostile(root / "usr/local/go/bin/go", "hang", Path("/nowhere"), is_go=True)
    name = f"{registry}/library/golang:hostile"
    with imported(engine, root, None, name):
        by_digest = push(engine, name)
    yield by_digest
    engine.images.remove(by_digest, force=True)


def test_the_container_of_the_compiler_has_no_rights(
    kbuild: Kbuild, engine: DockerClient, hostile_image: str, tmp_path: Path
) -> None:
    make_repository(tmp_path / "kubernetes", (VERSION,))
    process = kbuild.start(
        *("kubeadm", "--version", VERSION, "--ca-years", "10", "--leaf-years", "1"),
        *("--source", tmp_path / "kubernetes", "--builder", "docker", "--image", hostile_image),
    )
    try:
        found: list[Any] = []
        until = time.monotonic() + 60
        while not found and time.monotonic() < until:
            time.sleep(0.2)
            found = engine.containers.list(filters={"ancestor": hostile_image})
        [container] = found
        config, host = container.attrs["Config"], container.attrs["HostConfig"]
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert config["User"] == "65532:65532"
    assert host["ReadonlyRootfs"] is True
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert 0 < host["PidsLimit"] < 1000
    assert 0 < host["Memory"] <= engine.info()["MemTotal"]
    assert host["Privileged"] is False
