import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kbuild.compile.built import find_built, keep_built
from kbuild.model import (
    Binary,
    BuildRequest,
    GoPin,
    Lifetimes,
    PatchedTree,
    SourceTree,
    Toolchain,
)
from kbuild.settings import Settings
from kbuild.toolchain.archives import digest_of
from kbuild.workspace import Workspace, open_workspace, sha256

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
COMPILED = (NOON, NOON + timedelta(seconds=60))


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with open_workspace(tmp_path / "cache") as made:
        yield made


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
    return PatchedTree(
        source=SourceTree(path=tmp_path, tag="v1.20.2", commit="f" * 40, origin="git://x"),
        toolchain=Toolchain(
            builder="local",
            pin=GoPin(version="1.15.5", files=("x",)),
            go_version="1.15.5",
            go_root=go_root,
        ),
        lifetimes=Lifetimes(ca_years=100, leaf_years=10),
        patches=(),
        diff="--- a/x\n+++ b/x\n",
    )


def keep(tree: PatchedTree, wanted: BuildRequest, workspace: Workspace) -> None:
    binaries = []
    for arch in wanted.arches:
        path = workspace.work / f"kubeadm-{arch}"
        path.write_text(arch)
        path.chmod(0o755)
        binaries.append(Binary(path=path, arch=arch, sha256=sha256(path), tree=tree, command=()))
    keep_built(tuple(binaries), replace(wanted, build_date=NOON), COMPILED, workspace)


def test_what_was_built_is_found_with_its_date(
    tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    assert find_built(tree, wanted, workspace) is None
    keep(tree, wanted, workspace)
    found = find_built(tree, wanted, workspace.part("again"))
    assert found is not None
    date, binaries = found
    assert date == NOON
    assert [binary.path.read_text() for binary in binaries] == ["amd64", "arm64"]
    assert [binary.compiled for binary in binaries] == [COMPILED, COMPILED]
    assert "buildDate=2026-01-02T12:00:00Z" in " ".join(binaries[0].command)
    assert find_built(tree, replace(wanted, build_date=NOON), workspace.part("same")) is not None


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
    assert find_built(tree, replace(wanted, **change), workspace.part("again")) is None


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
    assert find_built(other, wanted, workspace.part("again")) is None


def test_another_compiler_of_the_same_version_is_another_input(
    tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    keep(tree, wanted, workspace)
    assert tree.toolchain.go_root is not None
    (tree.toolchain.go_root / "pkg/tool/linux_amd64/compile").write_text("patched")
    digest_of.cache_clear()
    assert find_built(tree, wanted, workspace.part("again")) is None


@pytest.mark.parametrize("damage", ["cut", "no document", "nonsense", "no date", "gone"])
def test_a_damaged_binary_is_compiled_anew(
    damage: str, tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    keep(tree, wanted, workspace)
    for folder in (workspace.cache / "built").iterdir():
        if damage == "cut":
            (folder / "kubeadm").unlink()
            (folder / "kubeadm").write_text("am")
        elif damage == "gone":
            (folder / "kubeadm").unlink()
        elif damage == "no document":
            (folder / "built.json").unlink()
        else:
            (folder / "built.json").write_text("[]" if damage == "nonsense" else '{"sha256": "x"}')
    assert find_built(tree, wanted, workspace.part("again")) is None


def test_no_date_is_shared_by_halves(
    tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    keep(tree, replace(wanted, arches=("amd64",)), workspace)
    assert find_built(tree, wanted, workspace.part("again")) is None


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
    assert find_built(tree, request, workspace.part("again")) is None


def test_a_kept_binary_does_not_change_with_the_file_that_it_was_kept_from(
    tree: PatchedTree, wanted: BuildRequest, workspace: Workspace
) -> None:
    keep(tree, wanted, workspace)
    for arch in wanted.arches:
        with (workspace.work / f"kubeadm-{arch}").open("a") as file:
            file.write("a backdoor")
    found = find_built(tree, wanted, workspace.part("again"))
    assert found is not None
    assert [binary.path.read_text() for binary in found[1]] == ["amd64", "arm64"]
