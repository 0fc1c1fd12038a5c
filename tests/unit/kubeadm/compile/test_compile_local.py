"""The local builder with a Go that is a shell script: what becomes of a damaged build cache."""

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kbuild.base.workspace import Workspace
from kbuild.kubeadm.compile.errors import CompileFailed, NoBinary
from kbuild.kubeadm.compile.run import compile_kubeadm
from kbuild.kubeadm.model import (
    PatchedTree,
    SourceFile,
    Stamp,
)
from kbuild.kubeadm.toolchain.errors import WrongGo
from tests.support.recorder import Recorder
from tests.unit.kubeadm.compile.conftest import patched_tree

pytestmark = pytest.mark.slow

# Like Go, it links what its cache holds, whatever that is, and makes what the cache lacks.
FAKE_GO = """\
#!/bin/sh
output=package; name=$(printf "$output" | sha256sum | cut -c -64); entry=$GOCACHE/00/$name-d
case $1 in
version) echo "go version go${VERSION:-1.15.5} linux/amd64" ;;
list) echo k8s.io/kubernetes/cmd/kubeadm ;;
build)
  mkdir -p "$GOCACHE/00" || exit 1
  [ -f "$entry" ] && [ -s "$entry" ] || printf "$output" >"$entry" || exit 1
  echo "v1 id $name" >"$GOCACHE/00/id-a"
  cat cmd/kubeadm/kubeadm.go >&2
  for argument; do case $argument in -o=*) cp "$entry" "${argument#-o=}" ;; esac; done ;;
esac
"""
OUTPUT = b"package"
ENTRY = f"00/{hashlib.sha256(OUTPUT).hexdigest()}-d"


@pytest.fixture
def stamp() -> Stamp:
    return Stamp(build_date=datetime(2026, 1, 2, tzinfo=UTC), tree_state="dirty")


@pytest.fixture
def tree(tmp_path: Path) -> PatchedTree:
    go_root = tmp_path / "go"
    (go_root / "bin").mkdir(parents=True)
    (go_root / "bin/go").write_text(FAKE_GO)
    (go_root / "bin/go").chmod(0o755)
    (tmp_path / "tree").mkdir()
    files = {"cmd/kubeadm/kubeadm.go": SourceFile(0o644, b"package main of the source\n")}
    return patched_tree(tmp_path / "tree", go_root, files, "")


class Compile:
    """Compiles in one workspace, each time with a new work folder, and keeps what was said."""

    def __init__(self, tree: PatchedTree, stamp: Stamp, workspace: Workspace) -> None:
        self.tree, self.stamp, self.workspace = tree, stamp, workspace
        self.said: list[str] = []
        self.details: list[str] = []
        self.runs = 0

    def __call__(self) -> bytes:
        recorder, self.runs = Recorder(), self.runs + 1
        work = self.workspace.part(str(self.runs))
        try:
            return compile_kubeadm(self.tree, "amd64", self.stamp, work, recorder).path.read_bytes()
        finally:
            self.said, self.details = recorder.said, recorder.details

    @property
    def gocache(self) -> Path:
        [folder] = (self.workspace.cache / "gocache").iterdir()
        return folder


@pytest.fixture
def compiled(tree: PatchedTree, stamp: Stamp, workspace: Workspace) -> Compile:
    return Compile(tree, stamp, workspace)


def test_a_compile_uses_the_build_cache(compiled: Compile) -> None:
    assert compiled() == OUTPUT
    assert "package main of the source" in compiled.details
    written = (compiled.gocache / ENTRY).stat().st_mtime_ns
    assert compiled() == OUTPUT
    assert (compiled.gocache / ENTRY).stat().st_mtime_ns == written
    assert compiled.said == []


def test_a_build_cache_is_as_old_as_its_last_use(compiled: Compile) -> None:
    compiled()
    os.utime(compiled.gocache, (0, 0))
    compiled()
    assert compiled.gocache.stat().st_mtime > 0


def flip(entry: Path) -> None:
    entry.write_bytes(b"packagf")


def cut(entry: Path) -> None:
    entry.write_bytes(b"pack")


def empty(entry: Path) -> None:
    entry.write_bytes(b"")


def fifo(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


def link(entry: Path) -> None:
    entry.unlink()
    entry.symlink_to("/usr/bin/env")


@pytest.mark.parametrize("damage", [flip, cut, empty, fifo, link])
def test_a_damaged_entry_is_dropped_and_made_again(
    damage: Callable[[Path], None], compiled: Compile
) -> None:
    compiled()
    damage(compiled.gocache / ENTRY)
    assert compiled() == OUTPUT
    assert compiled.said == ["1 entries of Go's build cache are damaged, compiling them again"]
    assert compiled() == OUTPUT
    assert compiled.said == []


def file_for_folder(gocache: Path) -> None:
    for path in (gocache / "00").iterdir():
        path.unlink()
    (gocache / "00").rmdir()
    (gocache / "00").write_text("")


def folder_for_entry(gocache: Path) -> None:
    (gocache / ENTRY).unlink()
    (gocache / ENTRY).mkdir()


@pytest.mark.parametrize("damage", [file_for_folder, folder_for_entry])
def test_a_build_cache_that_cannot_be_used_is_made_again(
    damage: Callable[[Path], None], compiled: Compile
) -> None:
    compiled()
    damage(compiled.gocache)
    assert compiled() == OUTPUT
    assert compiled.said == ["Go's build cache cannot be used, compiling again with an empty one"]
    assert compiled() == OUTPUT
    assert compiled.said == []


@pytest.mark.parametrize("damage", ["file", "link", "fifo"])
def test_what_is_no_build_cache_is_replaced(damage: str, compiled: Compile, tmp_path: Path) -> None:
    compiled()
    gocache = compiled.gocache
    gocache.rename(tmp_path / "elsewhere")
    if damage == "file":
        gocache.write_text("")
    elif damage == "link":
        gocache.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(gocache)
    assert compiled() == OUTPUT
    assert not gocache.is_symlink()


def test_a_compile_that_fails_for_another_reason_is_not_repeated(
    compiled: Compile, tree: PatchedTree
) -> None:
    assert tree.toolchain.go_root is not None
    go = tree.toolchain.go_root / "bin/go"
    go.write_text(FAKE_GO.replace("cat cmd", "echo undefined: x; exit 2; cat cmd"))
    with pytest.raises(CompileFailed) as caught:
        compiled()
    assert caught.value.details.count("undefined: x") == 1
    assert compiled.said == []


def test_a_compiler_that_leaves_nothing_is_an_error(compiled: Compile, tree: PatchedTree) -> None:
    assert tree.toolchain.go_root is not None
    go = tree.toolchain.go_root / "bin/go"
    go.write_text(FAKE_GO.replace("cp ", ": "))
    with pytest.raises(NoBinary):
        compiled()


def test_another_go_than_the_toolchain_is_refused(compiled: Compile, tree: PatchedTree) -> None:
    assert tree.toolchain.go_root is not None
    go = tree.toolchain.go_root / "bin/go"
    go.write_text(FAKE_GO.replace("1.15.5", "1.15.6"))
    with pytest.raises(WrongGo):
        compiled()


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_a_log_that_is_no_file_is_replaced(kind: str, compiled: Compile, tmp_path: Path) -> None:
    log = compiled.workspace.cache / "logs/v1.20.2-amd64.log"
    if kind == "folder":
        (log / "folder").mkdir(parents=True)
    elif kind == "fifo":
        os.mkfifo(log)
    else:
        log.symlink_to(tmp_path / "other")
    assert compiled() == OUTPUT
    assert "package main of the source" in log.read_text()
    assert not (tmp_path / "other").exists()
