import os
import shutil
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kbuild.base.addresses import shown
from kbuild.base.errors import BrokenSource, DiskFull
from kbuild.base.workspace import Workspace, open_workspace
from kbuild.kubeadm.model import Tag
from kbuild.kubeadm.source.fetch import fetch, resolve
from kbuild.kubeadm.source.store import fetch_tag
from tests.support.recorder import Recorder
from tests.support.repositories import git, make_repository
from tests.support.trees import files_of
from tests.unit.kubeadm.source.conftest import RequestFor

pytestmark = pytest.mark.slow


def _empty_the_objects(store: Path) -> None:
    for path in store.glob("objects/**/*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(b"")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no objects folder": lambda store: shutil.rmtree(store / "objects"),
    "empty objects": _empty_the_objects,
    "empty HEAD": lambda store: (store / "HEAD").write_text(""),
    "no HEAD": lambda store: (store / "HEAD").unlink(),
    "bad config": lambda store: (store / "config").write_text("[half"),
    "bad shallow": lambda store: (store / "shallow").write_text("x"),
    "no refs folder": lambda store: shutil.rmtree(store / "refs"),
    "empty ref": lambda store: (store / "refs/tags/v1.20.2").write_text(""),
}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "kubernetes"
    make_repository(folder, ("v1.20.1", "v1.20.2"))
    return folder


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(path))
    return path


@pytest.mark.parametrize("version", ["v1.20.2", "v1.20.1"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_store_mends_itself_however_it_was_damaged(
    damage: str, version: str, upstream: Path, tmp_path: Path, request_for: RequestFor
) -> None:
    for wanted in ("v1.20.2", version):
        request = request_for(upstream, wanted)
        with open_workspace(tmp_path / "cache") as workspace:
            tag = resolve(request, workspace, Recorder())
            tree = fetch(request, tag, workspace, Recorder())
            assert files_of(tree)["cmd/kubeadm/kubeadm.go"]
        [store] = (tmp_path / "cache/v1/git").iterdir()
        DAMAGES[damage](store)


def test_a_commit_that_the_source_does_not_give_is_asked_for_once(
    upstream: Path, workspace: Workspace, recorder: Recorder
) -> None:
    moved = Tag(name="v1.20.2", commit="1" * 40)
    with pytest.raises(BrokenSource):
        fetch_tag(str(upstream), moved, workspace.work / "tree", workspace, recorder)
    assert recorder.said == []


def test_the_users_settings_do_not_change_the_tree(
    upstream: Path,
    settings_file: Path,
    tmp_path: Path,
    workspace: Workspace,
    recorder: Recorder,
    request_for: RequestFor,
) -> None:
    (tmp_path / "template/info").mkdir(parents=True)
    (tmp_path / "template/info/attributes").write_text("* text eol=crlf\n")
    settings_file.write_text(
        f"[init]\ntemplateDir = {tmp_path}/template\ndefaultObjectFormat = sha256\n"
        "[core]\neol = crlf\nautocrlf = true\nfsmonitor = true\nsparseCheckout = true\n"
    )
    request = request_for(upstream)
    tree = fetch(request, resolve(request, workspace, recorder), workspace, recorder)
    assert b"\r" not in files_of(tree)["cmd/kubeadm/kubeadm.go"]


@pytest.mark.parametrize("name", ["GIT_COMMON_DIR", "GIT_QUARANTINE_PATH", "GIT_SHALLOW_FILE"])
def test_what_a_hook_inherits_does_not_lead_astray(
    name: str,
    upstream: Path,
    workspace: Workspace,
    recorder: Recorder,
    request_for: RequestFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, "/nonexistent/folder")
    request = request_for(upstream)
    tree = fetch(request, resolve(request, workspace, recorder), workspace, recorder)
    assert (tree.path / "cmd/kubeadm").is_dir()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_told_in_gits_own_words_and_at_once(
    upstream: Path,
    settings_file: Path,
    tmp_path: Path,
    workspace: Workspace,
    recorder: Recorder,
    request_for: RequestFor,
) -> None:
    settings_file.touch()
    theirs = tmp_path / "theirs"
    git(tmp_path, "clone", "--quiet", "--bare", str(upstream), str(theirs))
    os.chown(theirs, 65534, 65534)
    with pytest.raises(BrokenSource) as caught:
        resolve(request_for(theirs), workspace, recorder)
    assert "dubious ownership" in caught.value.details
    assert recorder.said == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:p@ss@host/x.git", "https://host/x.git"),
        ("https://host/a@b", "https://host/a@b"),
        ("fatal: 'https://me:x@host/y': 404, mail a@b", "fatal: 'https://host/y': 404, mail a@b"),
    ],
)
def test_no_part_of_a_password_is_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_full_disk_is_told_and_costs_no_cache(
    upstream: Path, tmp_path: Path, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(upstream)
    with open_workspace(tmp_path / "cache") as workspace:
        tag = resolve(request, workspace, Recorder())
        fetch(request, tag, workspace, Recorder())
    [store] = (tmp_path / "cache/v1/git").iterdir()
    shutil.rmtree(store / "objects")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with open_workspace(tmp_path / "cache") as workspace, pytest.raises(DiskFull):
        fetch(request, tag, workspace, Recorder())
    assert store.exists()


def test_a_cache_may_be_named_from_here(
    upstream: Path, tmp_path: Path, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    request = request_for(upstream)
    with open_workspace(Path("cache")) as workspace:
        tag = resolve(request, workspace, Recorder())
        tree = fetch(request, tag, workspace, Recorder())
        assert "cmd/kubeadm/kubeadm.go" in files_of(tree)


def _plant(store: Path, oid: str, kind: str, content: bytes) -> None:
    """Put another object where git looks for one; git does not notice when it reads it."""
    loose = store / "objects" / oid[:2] / oid[2:]
    for pack in (store / "objects/pack").glob("*.pack"):
        moved = pack.rename(store / pack.name)
        for beside in (store / "objects/pack").glob(f"{pack.stem}.*"):
            beside.unlink()
        with moved.open("rb") as file:
            subprocess.run(
                ["git", "--git-dir", store, "unpack-objects", "-q"], stdin=file, check=True
            )
        moved.unlink()
    loose.unlink()
    loose.write_bytes(zlib.compress(f"{kind} {len(content)}\0".encode() + content))


@pytest.mark.parametrize("kind", ["blob", "tree", "commit"])
def test_a_planted_object_is_noticed_and_fetched_anew(
    kind: str, upstream: Path, workspace: Workspace, recorder: Recorder, request_for: RequestFor
) -> None:
    request = request_for(upstream)
    tag = resolve(request, workspace, recorder)
    genuine = files_of(fetch(request, tag, workspace.part("1"), recorder))
    [store] = (workspace.cache / "git").glob("*.git")
    name = "cmd/kubeadm/kubeadm.go"
    at = {"blob": f"{tag.commit}:{name}", "tree": f"{tag.commit}:cmd/kubeadm"}
    oid = git(upstream, "rev-parse", at.get(kind, str(tag.commit)))
    shown = subprocess.run(
        ["git", "cat-file", kind, oid], cwd=upstream, capture_output=True, check=True
    ).stdout
    other = git(upstream, "rev-parse", f"{tag.commit}:go.mod")
    blob = git(upstream, "rev-parse", f"{tag.commit}:{name}")
    edited = {
        "blob": shown + b"// a backdoor",
        "tree": shown.replace(bytes.fromhex(blob), bytes.fromhex(other)),
        "commit": shown + b"another message",
    }[kind]
    assert edited != shown
    _plant(store, oid, kind, edited)
    assert files_of(fetch(request, tag, workspace.part("2"), recorder)) == genuine
    assert any("damaged" in line and "fetching it again" in line for line in recorder.said)


def test_a_file_that_unpacks_to_more_than_any_kubernetes_is_refused(
    upstream: Path, workspace: Workspace, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.base.git.MOST_CONTENT", 16 << 20)
    (upstream / "cmd/kubeadm/zeros.go").write_bytes(bytes(32 << 20))
    git(upstream, "add", "-A")
    git(upstream, "commit", "--quiet", "-m", "zeros")
    git(upstream, "tag", "v1.20.9")
    request = request_for(upstream, "v1.20.9")
    tag = resolve(request, workspace, Recorder())
    tracemalloc.start()
    with pytest.raises(BrokenSource) as caught:
        fetch(request, tag, workspace, Recorder())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "larger than 16777216 bytes" in caught.value.details
    assert peak < 24 << 20
