"""What is fetched, in how many requests, and from servers that give no part of a tree."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from kbuild.base import git
from kbuild.base.errors import BrokenSource
from kbuild.base.workspace import open_workspace
from kbuild.kubeadm.model import Tag
from kbuild.kubeadm.source.fetch import fetch, resolve
from kbuild.kubeadm.source.store import fetch_tag
from tests.support import repositories
from tests.support.recorder import Recorder
from tests.support.repositories import make_repository
from tests.support.trees import files_of
from tests.unit.kubeadm.source.conftest import RequestFor

pytestmark = pytest.mark.slow

TAGS = ("v1.20.1", "v1.20.2", "v1.21.0")
UNNEEDED = "test/utils/pki_helpers.go"
CLOSURE = "cmd/kubeadm/kubeadm.go"


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    folder = tmp_path / "upstream/kubernetes"
    make_repository(folder, TAGS)
    return folder


@pytest.fixture
def obtain(
    upstream: Path, tmp_path: Path, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> "Obtain":
    return Obtain(upstream, tmp_path, request_for, monkeypatch)


class Obtain:
    """Runs the source stage with one cache, and counts what it asks the server."""

    def __init__(
        self, source: Path, folder: Path, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.source, self.address, self.cache = source, str(source), folder / "cache"
        self.said: list[str] = []
        self.tag = ""
        self._trace, self._request_for = folder / "trace", request_for
        monkeypatch.setenv("GIT_TRACE_PACKET", str(self._trace))

    def __call__(self, version: str) -> dict[str, bytes]:
        self._trace.unlink(missing_ok=True)
        recorder, request = Recorder(), self._request_for(self.address, version)
        with open_workspace(self.cache) as workspace:
            tree = fetch(request, resolve(request, workspace, recorder), workspace, recorder)
            files = files_of(tree)
            self.tag = tree.tag
        self.said = recorder.said
        return files

    @property
    def requests(self) -> int:
        lines = self._trace.read_text().splitlines()
        return sum("> command=" in line and "upload-pack" not in line for line in lines)

    @property
    def store(self) -> Path:
        [store] = (self.cache / "v1/git").iterdir()
        return store

    def has(self, tag: str, name: str) -> bool:
        blob = repositories.git(self.source, "rev-parse", f"{tag}:{name}")
        found = subprocess.run(
            ["git", "--git-dir", self.store, "cat-file", "-e", blob],
            check=False,
            capture_output=True,
        )
        return found.returncode == 0


def test_only_the_closure_is_fetched_in_a_few_requests(obtain: Obtain) -> None:
    assert CLOSURE in obtain("v1.20.2")
    assert obtain.has("v1.20.2", CLOSURE)
    assert not obtain.has("v1.20.2", UNNEEDED)
    assert obtain.requests == 3  # the tag, the trees, the files
    assert obtain.said == []


def test_the_license_files_of_what_is_vendored_need_no_further_request(obtain: Obtain) -> None:
    module = obtain.source / "vendor/example.org/module"
    module.mkdir(parents=True)
    (module / "module.go").write_text("package module\n")
    (module / "LICENSE").write_text("MIT\n")
    main = obtain.source / CLOSURE
    main.write_text(f'package main\n\nimport "example.org/module"\n\n// {main.read_text()}')
    repositories.git(obtain.source, "add", "-A")
    repositories.git(obtain.source, "commit", "--quiet", "-m", "v1.21.1")
    repositories.git(obtain.source, "tag", "v1.21.1")
    files = obtain("v1.21.1")
    assert files["vendor/example.org/module/LICENSE"] == b"MIT\n"
    assert obtain.requests == 4  # the tag, the trees, the files, and what they import


def test_the_next_tag_asks_for_its_difference_only(obtain: Obtain) -> None:
    obtain("v1.20.1")
    (obtain.source / "pkg/new").mkdir(parents=True)
    (obtain.source / "pkg/new/new.go").write_text("package new\n")
    main = obtain.source / CLOSURE
    main.write_text(f'package main\n\nimport "k8s.io/kubernetes/pkg/new"\n\n// {main.read_text()}')
    repositories.git(obtain.source, "add", "-A")
    repositories.git(obtain.source, "commit", "--quiet", "-m", "v1.20.3")
    repositories.git(obtain.source, "tag", "v1.20.3")
    before = len(list(obtain.store.glob("objects/*/*")))
    assert "pkg/new/new.go" in obtain("v1.20.3")
    assert obtain.requests <= 4
    assert len(list(obtain.store.glob("objects/*/*"))) - before < 20
    again = (obtain.store / "closures/1.20.txt").read_text().splitlines()
    assert "pkg/new" in again


def test_another_run_asks_for_the_tag_alone(obtain: Obtain) -> None:
    first = obtain("v1.20.2")
    assert obtain("v1.20.2") == first
    assert obtain.requests == 1
    assert obtain.said == ["v1.20.2 is in the cache already"]


def test_two_tags_of_a_commit_keep_their_names(obtain: Obtain) -> None:
    repositories.git(obtain.source, "tag", "v1.20.5", "v1.20.2^{}")
    assert obtain("v1.20.2") == obtain("v1.20.5")
    assert obtain.tag == "v1.20.5"
    obtain("v1.20.2")
    assert obtain.tag == "v1.20.2"


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00nonsense", b"../../etc\n/etc\n"])
def test_a_remembered_closure_is_only_a_hint(obtain: Obtain, damage: bytes) -> None:
    first = obtain("v1.20.2")
    (obtain.store / "closures/1.20.txt").write_bytes(damage)
    assert obtain("v1.20.2") == first


def test_a_server_without_filters_gives_the_whole_tree_and_it_is_said(obtain: Obtain) -> None:
    expected = obtain("v1.21.0")
    repositories.git(obtain.source, "config", "uploadpack.allowFilter", "false")
    obtain.cache = obtain.cache.with_name("other")
    assert obtain("v1.21.0") == expected
    assert obtain.has("v1.21.0", UNNEEDED)
    assert obtain.said == ["the source cannot leave files out, so the whole tree was fetched"]
    assert obtain("v1.21.0") == expected
    assert obtain.requests == 1


def test_an_old_server_gives_the_whole_tree_and_it_is_said(
    obtain: Obtain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = obtain("v1.20.1")
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nunset GIT_PROTOCOL\nexec git upload-pack "{obtain.source}"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    obtain.address = "ssh://127.0.0.1/kubernetes"
    obtain.cache = obtain.cache.with_name("other")
    assert obtain("v1.20.1") == expected
    assert obtain.has("v1.20.1", UNNEEDED)
    assert obtain.said == ["the source does not serve single files, fetching the whole tree"]


def test_a_server_that_fails_at_single_files_is_asked_for_the_whole_tree(
    obtain: Obtain, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = obtain("v1.20.1")
    ask = git.ask

    def refuse(words: list[str], source: str, *rest: Any) -> str:
        if "--stdin" in words:
            raise BrokenSource(tag="x", source=source, details="HTTP 413 too much asked")
        return ask(words, source, *rest)

    monkeypatch.setattr("kbuild.kubeadm.source.store.ask", refuse)
    obtain.cache = obtain.cache.with_name("other")
    assert obtain("v1.20.1") == expected
    assert obtain.said == ["the source does not serve single files, fetching the whole tree"]


@pytest.mark.parametrize("name", ["..", ".git", "."])
def test_a_tree_that_leaves_its_folder_is_refused(
    name: str, upstream: Path, tmp_path: Path, recorder: Recorder
) -> None:
    blob = repositories.git(upstream, "rev-parse", f"v1.20.2:{CLOSURE}")
    inner = mktree(upstream, f"100644 blob {blob}\tpasswd.go")
    kubeadm = mktree(upstream, f"100644 blob {blob}\tkubeadm.go\n040000 tree {inner}\t{name}")
    cmd = mktree(upstream, f"040000 tree {kubeadm}\tkubeadm")
    root = mktree(upstream, f"040000 tree {cmd}\tcmd")
    commit = repositories.git(upstream, "commit-tree", "-m", "x", root)
    repositories.git(upstream, "tag", "v1.22.0", commit)
    tag = Tag(name="v1.22.0", commit=commit)
    with (
        open_workspace(tmp_path / "cache") as workspace,
        pytest.raises(BrokenSource, match="v1") as caught,
    ):
        fetch_tag(str(upstream), tag, workspace.work / "tree", workspace, recorder)
    assert "would leave its directory" in caught.value.details


def mktree(folder: Path, lines: str) -> str:
    made = subprocess.run(
        ["git", "mktree"], cwd=folder, input=lines, check=True, capture_output=True, text=True
    )
    return made.stdout.strip()
