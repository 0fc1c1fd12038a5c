import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kbuild import cache
from kbuild.base import engine
from kbuild.base.errors import CacheInUse, NotACache
from kbuild.base.workspace import alone, open_workspace
from tests.support.fake_engine import Answer, fake_engine
from tests.support.trees import content_of

DAY = 86400
VOLUMES = {
    "Volumes": [
        {"Name": "other", "UsageData": {"Size": 1}},
        {"Name": "kbuild-gocache-k", "UsageData": {"Size": 5000}},
    ]
}


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """Give a cache with something of each kind: 4 KiB each, of the same age."""
    with open_workspace(tmp_path):
        pass
    for name in (
        *(
            "git/a.git/HEAD",
            "git/a.git/objects/pack/x.pack",
        ),
        *("go/go1.15.5/bin/go", "gocache/k/00/a", "gocache/k/01/b"),
        *("built/k/kubeadm", "logs/v1.log"),
    ):
        path = tmp_path / "v1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 4096)
    return tmp_path


def kinds(folder: Path) -> list[str]:
    return sorted(item.kind for item in cache.items(folder))


def age(monkeypatch: pytest.MonkeyPatch, **days: float) -> None:
    """Make all items as old as is said of their kind; a file's ctime cannot be set."""
    now, real = time.time(), os.lstat

    def lstat(path: str | Path, **where: int) -> object:
        status = real(path, **where)
        age = next((age for kind, age in days.items() if kind in Path(path).parts), 0)
        return os.stat_result((*status[:7], *[now - age * DAY] * 3))

    monkeypatch.setattr(os, "lstat", lstat)


def test_each_kind_is_counted(full: Path) -> None:
    assert kinds(full) == [
        *("built", "git", "go", "gocache", "gocache", "logs"),
    ]
    sizes = {item.path.name: item.size for item in cache.items(full)}
    assert sizes["a"] == 4096
    assert sizes["a.git"] > 2 * 4096
    assert all(abs(item.used - time.time()) < 60 for item in cache.items(full))


def test_an_absent_cache_is_empty(tmp_path: Path) -> None:
    assert cache.items(tmp_path / "absent") == ()


def test_what_is_old_goes(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(monkeypatch, git=1, go=1, gocache=31, built=29, logs=400)
    done = cache.prune(full, age=30 * DAY, size=None)
    assert kinds(full) == ["built", "git", "go"]
    assert done.removed == 3
    assert done.left == sum(item.size for item in cache.items(full))


def test_the_oldest_goes_until_the_rest_is_small_enough(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(monkeypatch, git=1, go=3, gocache=4, built=5, logs=6)
    total = sum(item.size for item in cache.items(full))
    done = cache.prune(full, age=None, size=total - 4096 - 1)
    assert "logs" not in kinds(full)
    assert "built" not in kinds(full)
    assert "gocache" in kinds(full)
    assert done.freed + done.left == total
    assert cache.prune(full, age=None, size=0).left == 0
    assert kinds(full) == []


def test_what_was_of_use_today_is_of_today(full: Path) -> None:
    path = full / "v1/built/k"
    os.utime(path, (0, 0))
    [used] = [item.used for item in cache.items(full) if item.path == path]
    assert time.time() - used < 60  # its ctime


def test_nothing_is_removed_under_a_run(full: Path) -> None:
    with open_workspace(full):
        with pytest.raises(CacheInUse):
            cache.prune(full, age=0, size=None)
        with pytest.raises(CacheInUse):
            cache.clear(full)
    assert cache.prune(full, age=-1, size=None).left == 0


RUN = """
import sys
from pathlib import Path
from kbuild.base.workspace import open_workspace
print("begins", flush=True)
with open_workspace(Path(sys.argv[1])):
    (Path(sys.argv[1]) / "began").touch()
"""


def test_a_run_that_begins_waits(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[subprocess.Popen[str]] = []

    def slowly(_: Path) -> None:
        if not runs:
            command = [sys.executable, "-c", RUN, str(full)]
            runs.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            assert runs[0].stdout is not None
            runs[0].stdout.readline()
            time.sleep(0.5)
            assert not (full / "began").exists()

    monkeypatch.setattr(cache, "remove", slowly)
    cache.prune(full, age=-1, size=None)
    [run] = runs
    run.communicate(timeout=20)
    assert run.returncode == 0
    assert (full / "began").exists()


def test_two_do_not_prune_at_once(full: Path) -> None:
    with alone(full), pytest.raises(CacheInUse):
        cache.prune(full, age=-1, size=None)
    assert cache.prune(full, age=-1, size=None).left == 0


def test_a_folder_that_is_no_cache_is_neither_pruned_nor_cleared(tmp_path: Path) -> None:
    for name in ("git/project/file", "go/bin/gopls", "v1/git/project/file"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    before = content_of(tmp_path)
    with pytest.raises(NotACache):
        cache.prune(tmp_path, age=-1, size=0)
    with pytest.raises(NotACache):
        cache.clear(tmp_path)
    assert content_of(tmp_path) == before


def nest(folder: Path, levels: int) -> None:
    """Make a folder in a folder, so many, which no path can name."""
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(folder)
        for _ in range(levels):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.fchdir(before)
        os.close(before)


@pytest.mark.slow
def test_a_damaged_cache_is_shown_and_cleared_and_no_link_is_followed(
    full: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "file").write_bytes(b"x" * 1_000_000)
    content = full / "v1"
    (content / "built/dangling").symlink_to(full / "absent")
    (content / "built/link").symlink_to(other)
    (content / "gocache/link").symlink_to(other.parent)
    (content / "git/file").write_text("x")
    (content / "gocache/file").write_text("x")
    (content / "gocache/k/file").write_text("x")
    (content / "go/deep").mkdir()
    nest(content / "go/deep", 3000)
    (content / "go/unreadable/inside").mkdir(parents=True)
    (content / "go/unreadable").chmod(0)
    found = {item.path.relative_to(content).as_posix() for item in cache.items(full)}
    assert found >= {"built/dangling", "built/link", "gocache/link", "gocache/file", "git/file"}
    assert found >= {"go/deep", "go/unreadable"}
    assert sum(item.size for item in cache.items(full) if item.kind == "built") < 100_000
    assert cache.clear(full).left == 0
    assert kinds(full) == []
    assert {folder.name for folder in content.iterdir() if any(folder.iterdir())} == {"locks"}
    assert [path.name for path in other.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["v1", "v1/git", "v1/built"])
@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_what_is_no_folder_where_one_belongs_is_shown_and_refused(
    kind: str, name: str, full: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "git").mkdir()
    (other / "git/mine").write_text("mine")
    before = content_of(other)
    shutil.rmtree(full / name)
    if kind == "file":
        (full / name).write_text("x")
    else:
        (full / name).symlink_to(other if kind == "link" else full / "absent")
    assert all(other not in item.path.resolve().parents for item in cache.items(full))
    with pytest.raises(NotACache, match="link or a file"):
        cache.clear(full)
    assert content_of(other) == before


def test_clearing_takes_the_engines_volume_too(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, list[Answer]] = {
        "GET /system/df": [(200, VOLUMES)],
        "GET /volumes/kbuild-gocache-k": [(200, {"Name": "kbuild-gocache-k"})],
        "DELETE /volumes/kbuild-gocache-k": [(204, b"")],
    }
    with fake_engine(answers) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        assert engine.why_unavailable() is None
        assert cache.volume_size() == 5000
        before = sum(item.size for item in cache.items(full))
        assert cache.clear(full).freed == before + 5000
        assert "DELETE /volumes/kbuild-gocache-k" in fake.asked
    assert kinds(full) == []


def test_an_engine_without_the_volume_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_engine({"GET /system/df": [(200, {"Volumes": None})]}) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        assert cache.volume_size() is None
