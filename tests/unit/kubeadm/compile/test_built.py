import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kbuild.base.files import sha256
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.compile.built import find_built, keep_built
from kbuild.kubeadm.model import (
    Binary,
    BuildRequest,
    PatchedTree,
    Stamp,
)
from kbuild.kubeadm.toolchain.archives import digest_of
from kbuild.settings import Settings
from tests.support.recorder import Recorder
from tests.unit.kubeadm.compile.conftest import patched_tree

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
COMPILED = (NOON, NOON + timedelta(seconds=60))


@pytest.fixture
def wanted() -> BuildRequest:
    settings = Settings(version=("v1.20.2",), ca_years=100, leaf_years=10, arch=("amd64", "arm64"))
    return settings.requests({})[0]


@pytest.fixture
def tree(tmp_path: Path) -> PatchedTree:
    go_root = tmp_path / "go"
    for program in ("bin/go", "pkg/tool/linux_amd64/compile"):
        (go_root / program).parent.mkdir(parents=True)
        (go_root / program).write_text(program)
    return patched_tree(tmp_path, go_root, {}, "--- a/x\n+++ b/x\n")


def keep(tree: PatchedTree, wanted: BuildRequest, workspace: Workspace) -> None:
    binaries = []
    for arch in wanted.arches:
        path = workspace.work / f"kubeadm-{arch}"
        path.write_text(arch)
        path.chmod(0o755)
        binary = Binary(
            path=path,
            arch=arch,
            sha256=sha256(path),
            tree=tree,
            stamp=Stamp(build_date=NOON, tree_state=wanted.tree_state),
            command=(),
        )
        binaries.append(binary)
    keep_built(tuple(binaries), COMPILED, workspace)


def test_what_was_built_is_found_with_its_date(
    tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    assert find_built(tree, wanted, workspace, Recorder()) is None
    keep(tree, wanted, workspace)
    found = find_built(tree, wanted, workspace.part("again"), Recorder())
    assert found is not None
    assert {binary.stamp.build_date for binary in found} == {NOON}
    assert [binary.path.read_text() for binary in found] == ["amd64", "arm64"]
    assert [binary.compiled for binary in found] == [COMPILED, COMPILED]
    assert "buildDate=2026-01-02T12:00:00Z" in " ".join(found[0].command)
    assert (
        find_built(tree, replace(wanted, build_date=NOON), workspace.part("same"), Recorder())
        is not None
    )


@pytest.mark.parametrize(
    "change",
    [
        {"build_date": NOON + timedelta(seconds=1)},
        {"tree_state": "clean"},
        {"arches": ("amd64", "s390x")},
    ],
    ids=str,
)
def test_another_request_is_compiled(
    change: dict[str, Any], tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    keep(tree, wanted, workspace)
    assert find_built(tree, replace(wanted, **change), workspace.part("again"), Recorder()) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"source": {"commit": "e" * 40}},
        {"source": {"sha256": "0" * 64}},
        {"source": {"tag": "v1.20.3"}},
        {"toolchain": {"go_version": "1.15.6"}},
        {"toolchain": {"image": "golang@sha256:x", "go_root": None}},
        {"diff": "another"},
    ],
    ids=str,
)
def test_other_inputs_are_compiled(
    change: dict[str, Any], tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    keep(tree, wanted, workspace)
    [(name, value)] = change.items()
    new = replace(getattr(tree, name), **value) if isinstance(value, dict) else value
    other = replace(tree, **{name: new})
    assert find_built(other, wanted, workspace.part("again"), Recorder()) is None


def test_another_compiler_of_the_same_version_is_another_input(
    tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    keep(tree, wanted, workspace)
    assert tree.toolchain.go_root is not None
    (tree.toolchain.go_root / "pkg/tool/linux_amd64/compile").write_text("patched")
    digest_of.cache_clear()
    assert find_built(tree, wanted, workspace.part("again"), Recorder()) is None


def edit(old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "built.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


def flip(folder: Path) -> None:
    content = bytearray((folder / "kubeadm").read_bytes())
    content[-1] ^= 1
    (folder / "kubeadm").write_bytes(content)


def replace_by_fifo(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def link_elsewhere(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("absent")


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda folder: (folder / "kubeadm").write_text("am"),
    "flipped": flip,
    "gone": lambda folder: (folder / "kubeadm").unlink(),
    "no document": lambda folder: (folder / "built.json").unlink(),
    "nonsense": lambda folder: (folder / "built.json").write_text("[]"),
    "deep": lambda folder: (folder / "built.json").write_text("[" * 100_000),
    "bytes": lambda folder: (folder / "built.json").write_bytes(b"\xff\0"),
    "another date": edit("2026-01-02T12:00:00", "2026-01-02T12:00:01"),
    "another time": edit("2026-01-02T12:01:00", "2026-01-02T12:01:01"),
    "fifo": replace_by_fifo("kubeadm"),
    "fifo document": replace_by_fifo("built.json"),
    "file": replace_by_file,
    "link": link_elsewhere,
    "empty": empty,
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_binary_is_named_dropped_and_compiled_again(
    damage: Callable[[Path], object], tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    request, recorder = replace(wanted, arches=("amd64",)), Recorder()
    keep(tree, request, workspace)
    [folder] = (workspace.cache / "built").iterdir()
    damage(folder)
    assert find_built(tree, request, workspace.part("again"), recorder) is None
    assert recorder.said == ["the kept binary for amd64 is damaged, compiling it again"]
    assert not folder.is_symlink()
    assert not folder.exists()
    keep(tree, request, workspace)
    assert find_built(tree, request, workspace.part("healed"), recorder) is not None


def test_no_date_is_shared_by_halves(
    tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    keep(tree, replace(wanted, arches=("amd64",)), workspace)
    assert find_built(tree, wanted, workspace.part("again"), Recorder()) is None


def test_a_kept_binary_of_other_inputs_is_not_used(
    tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    request = replace(wanted, arches=("amd64",))
    keep(tree, request, workspace)
    [genuine] = (workspace.cache / "built").iterdir()
    backdoored = replace(tree, diff="a backdoor")
    keep(backdoored, request, workspace)
    [planted] = {*(workspace.cache / "built").iterdir()} - {genuine}
    shutil.rmtree(genuine)
    planted.rename(genuine)
    assert find_built(tree, request, workspace.part("again"), Recorder()) is None


def test_a_kept_binary_does_not_change_with_the_file_that_it_was_kept_from(
    tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    keep(tree, wanted, workspace)
    for arch in wanted.arches:
        with (workspace.work / f"kubeadm-{arch}").open("a") as file:
            file.write("a backdoor")
    found = find_built(tree, wanted, workspace.part("again"), Recorder())
    assert found is not None
    assert [binary.path.read_text() for binary in found] == ["amd64", "arm64"]
