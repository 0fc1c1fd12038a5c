import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kbuild import cache, engine
from kbuild.errors import CacheInUse
from kbuild.workspace import open_workspace
from tests.support.fake_engine import Answer, fake_engine

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
    for name in (
        *(
            "git/a.git/HEAD",
            "git/a.git/objects/pack/x.pack",
            "trees/k/tree.tar",
            "trees/k/tree.json",
        ),
        *("go/go1.15.5/bin/go", "gocache/k/00/a", "gocache/k/01/b"),
        *("built/k/kubeadm", "logs/v1.log"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 4096)
    return tmp_path


def kinds(folder: Path) -> list[str]:
    return sorted(item.kind for item in cache.items(folder))


def age(monkeypatch: pytest.MonkeyPatch, **days: float) -> None:
    """Make all items as old as is said of their kind; a file's ctime cannot be set."""
    now = time.time()
    monkeypatch.setattr(
        cache,
        "_used",
        lambda path: now - days.get(next(k for k in days if k in path.parts), 0) * DAY,
    )


def test_each_kind_is_counted(full: Path) -> None:
    assert kinds(full) == [
        *("built", "git", "go", "gocache", "gocache", "logs", "trees"),
    ]
    sizes = {item.path.name: item.size for item in cache.items(full)}
    assert sizes["a"] == 4096
    assert sizes["a.git"] > 2 * 4096
    assert all(abs(item.used - time.time()) < 60 for item in cache.items(full))


def test_an_absent_cache_is_empty(tmp_path: Path) -> None:
    assert cache.items(tmp_path / "absent") == ()


def test_what_is_old_goes(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(monkeypatch, git=1, trees=40, go=1, gocache=31, built=29, logs=400)
    done = cache.prune(full, age=30 * DAY, size=None)
    assert kinds(full) == ["built", "git", "go"]
    assert done.removed == 4
    assert done.left == sum(item.size for item in cache.items(full))


def test_the_oldest_goes_until_the_rest_is_small_enough(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(monkeypatch, git=1, trees=2, go=3, gocache=4, built=5, logs=6)
    total = sum(item.size for item in cache.items(full))
    done = cache.prune(full, age=None, size=total - 4096 - 1)
    assert "logs" not in kinds(full)
    assert "built" not in kinds(full)
    assert "gocache" in kinds(full)
    assert done.freed + done.left == total
    assert cache.prune(full, age=None, size=0).left == 0
    assert kinds(full) == []


def test_what_was_of_use_today_is_of_today(full: Path) -> None:
    path = full / "built/k"
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
from kbuild.workspace import open_workspace
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
