import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kbuild import cache
from kbuild.base import engine
from kbuild.base.errors import BadSetting, CacheInUse, DiskFull, NotACache
from kbuild.base.workspace import alone, open_workspace
from kbuild.cli.app import app
from kbuild.cli.cache import cache_within_limit
from kbuild.cli.console import Screen
from kbuild.settings import Settings, read_settings
from tests.support.command import run_here
from tests.support.fake_engine import Answer, FakeEngine, fake_engine
from tests.support.killed import killed_at_rename
from tests.support.repositories import make_repository
from tests.support.trees import content_of

ONE_VOLUME = "kbuild-gocache-0123456789abcdef"

DAY = 86400
VOLUMES = {
    "Volumes": [
        {"Name": "other", "UsageData": {"Size": 1}},
        {"Name": ONE_VOLUME, "UsageData": {"Size": 5000}},
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


def age(folder: Path, **days: float) -> None:
    """Make all items as old as is said of their kind."""
    for item in cache.items(folder):
        then = time.time() - days[item.kind] * DAY
        for path in (item.path, *item.path.rglob("*")):
            os.utime(path, (then, then))


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


def test_what_is_old_goes(full: Path) -> None:
    age(full, git=1, go=1, gocache=31, built=29, logs=400)
    done = cache.prune(full, age=30 * DAY, size=None)
    assert kinds(full) == ["built", "git", "go"]
    assert done.removed == 3
    assert done.left == sum(item.size for item in cache.items(full))


def test_the_oldest_goes_until_the_rest_is_small_enough(full: Path) -> None:
    age(full, git=1, go=3, gocache=4, built=5, logs=6)
    total = sum(item.size for item in cache.items(full))
    done = cache.prune(full, age=None, size=total - 4096 - 1)
    assert "logs" not in kinds(full)
    assert "built" not in kinds(full)
    assert "gocache" in kinds(full)
    assert done.freed + done.left == total
    assert cache.prune(full, age=None, size=0).left == 0
    assert kinds(full) == []


def test_a_source_is_as_young_as_the_youngest_file_of_its_store(full: Path) -> None:
    age(full, git=9, go=0, gocache=0, built=0, logs=0)
    (full / "v1/git/a.git/objects/pack/x.pack").write_bytes(b"new")
    [used] = [item.used for item in cache.items(full) if item.kind == "git"]
    assert time.time() - used < 60


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


@pytest.mark.slow
def test_a_run_that_begins_waits(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[subprocess.Popen[str]] = []

    @contextlib.contextmanager
    def alone_for_long(folder: Path) -> Iterator[Path]:
        with alone(folder) as shared_folder:
            command = [sys.executable, "-c", RUN, str(full)]
            runs.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            assert runs[0].stdout is not None
            runs[0].stdout.readline()
            time.sleep(0.5)
            assert not (full / "began").exists()
            yield shared_folder

    monkeypatch.setattr(cache, "alone", alone_for_long)
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
            Path("d" * 20).mkdir()
            os.chdir("d" * 20)
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
    nest(content / "go/deep", 1100)
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


@pytest.mark.slow
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
        "GET /volumes/kbuild-gocache-0123456789abcdef": [
            (200, {"Name": "kbuild-gocache-0123456789abcdef"})
        ],
        "DELETE /volumes/kbuild-gocache-0123456789abcdef": [(204, b"")],
    }
    with fake_engine(answers) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        assert engine.why_unavailable() is None
        assert cache.volume_size() == 5000
        before = sum(item.size for item in cache.items(full))
        assert cache.clear(full).freed == before + 5000
        assert f"DELETE /volumes/{ONE_VOLUME}" in fake.asked
    assert kinds(full) == []


def test_an_engine_without_the_volume_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_engine({"GET /system/df": [(200, {"Volumes": None})]}) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        assert cache.volume_size() is None


def test_clearing_a_cache_that_does_not_exist_does_not_make_it(tmp_path: Path) -> None:
    assert cache.clear(tmp_path / "deep/absent").removed == 0
    assert list(tmp_path.iterdir()) == []


def run_within(folder: Path, limit: int, *used: str) -> None:
    """Be a run that uses these files of the cache."""
    settings = Settings(cache_dir=folder, cache_limit=limit)
    with (
        cache_within_limit(settings, Screen(verbose=True, quiet=False, as_json=False)),
        open_workspace(folder) as workspace,
    ):
        for name in used:
            os.utime(workspace.cache / name)
        (workspace.cache / "logs/v2.log").write_text("x" * 4096)


def names(folder: Path) -> set[str]:
    content = folder / "v1"
    return {item.path.relative_to(content).as_posix() for item in cache.items(folder)}


def size_of(folder: Path) -> int:
    return sum(item.size for item in cache.items(folder))


def test_a_run_removes_the_least_recently_used_above_the_limit(
    full: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    age(full, git=1, go=5, gocache=2, built=4, logs=3)
    [go] = [item for item in cache.items(full) if item.kind == "go"]
    run_within(full, size_of(full) - go.size)
    assert "1 unused entry" not in (said := capsys.readouterr().err)
    assert "cache: removed 2 unused entries, " in said  # the log of the run takes 4 KiB
    assert ", to stay below " in said
    assert names(full) == {
        *("git/a.git", "gocache/k/00/a", "gocache/k/01/b", "logs/v1.log", "logs/v2.log"),
    }
    assert list((full / "v1/work").iterdir()) == []


def test_below_the_limit_nothing_is_removed(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    age(full, git=900, go=900, gocache=900, built=900, logs=900)
    before = names(full)
    run_within(full, size_of(full) + 4096)
    assert names(full) == before | {"logs/v2.log"}
    assert capsys.readouterr().err == ""


def test_limit_0_is_no_limit(full: Path) -> None:
    age(full, git=900, go=900, gocache=900, built=900, logs=900)
    before = names(full)
    run_within(full, 0)
    assert names(full) == before | {"logs/v2.log"}


def test_what_the_run_used_is_kept_above_the_limit_and_the_user_is_told(
    full: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    age(full, git=1, go=5, gocache=0.03, built=4, logs=3)  # Go noted the use 43 minutes ago
    (full / "v1/gocache/other/00").mkdir(parents=True)
    shutil.copy2(full / "v1/gocache/k/00/a", full / "v1/gocache/other/00/a")
    os.utime(full / "v1/gocache/other", (0, 0))
    run_within(full, 1, "go/go1.15.5", "gocache/k")
    assert names(full) == {"go/go1.15.5", "gocache/k/00/a", "gocache/k/01/b", "logs/v2.log"}
    said = capsys.readouterr().err
    assert "cache: removed 4 unused entries" in said
    assert "in use and was kept; the limit is 1 B" in said


@pytest.mark.slow
def test_nothing_is_removed_while_another_process_uses_the_cache(
    full: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    age(full, git=1, go=5, gocache=2, built=4, logs=3)
    command = [sys.executable, "-c", HOLD, str(full)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "runs\n"
        before = names(full)
        run_within(full, 1)
        assert names(full) == before | {"logs/v2.log"}
        assert "another run uses it" in capsys.readouterr().err
        other.communicate("end\n", timeout=20)
    run_within(full, 1)
    assert names(full) == {"logs/v2.log"}


HOLD = """
import sys
from pathlib import Path
from kbuild.base.workspace import open_workspace
with open_workspace(Path(sys.argv[1])):
    print("runs", flush=True)
    sys.stdin.readline()
"""


def test_a_run_that_failed_keeps_the_limit_too(
    full: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    age(full, git=1, go=5, gocache=2, built=4, logs=3)
    settings = Settings(cache_dir=full, cache_limit=1)
    screen = Screen(verbose=False, quiet=False, as_json=False)
    with pytest.raises(NotACache), cache_within_limit(settings, screen):
        raise NotACache(path="elsewhere", reason="of no matter", hint="")
    assert names(full) == set()
    assert "cache: removed 6 unused entries" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_keeps_the_limit(full: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = tmp_path_factory.mktemp("source") / "kubernetes"
    make_repository(source, ("v1.20.2",))
    age(full, git=1, go=5, gocache=2, built=4, logs=3)
    words = ["kubeadm", "--version", "v1.20.3", "--ca-years", "9", "--leaf-years", "9"]
    words += ["--source", str(source), "--builder", "local", "--cache-dir", str(full)]
    done = CliRunner().invoke(app, [*words, "--cache-limit", "0"])
    assert len(names(full)) == 6, done.stderr
    done = CliRunner().invoke(app, [*words, "--cache-limit", "9kB"])
    assert "to stay below 9.0 kB" in done.stderr, done.stderr
    assert "the nearest is v1.20.2" in done.stderr
    assert size_of(full) <= 9000
    done = CliRunner().invoke(app, [*words, "--cache-limit", "9 apples"])
    assert "cache-limit cannot be '9 apples'" in done.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        (0, 0),
        ("0B", 0),
        ("500MB", 500 * 10**6),
        (" 1.5 gb ", 15 * 10**8),
        (None, 5 * 10**9),
    ],
    ids=repr,
)
def test_the_limit_is_a_size(text: object, size: int) -> None:
    assert read_settings(Settings, {"cache_limit": text}, {}, None).cache_limit == size


@pytest.mark.parametrize("text", ["5", 5, "-1GB", "GB", "1GiB", "٣GB", True, "1e3B", ""], ids=repr)
def test_what_is_no_size_is_no_limit(text: object) -> None:
    with pytest.raises(BadSetting, match="it must be a size"):
        read_settings(Settings, {"cache_limit": text}, {}, None)


def test_a_cache_that_a_run_refuses_or_never_made_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v1/logs").mkdir(parents=True)
    (tmp_path / "v1/logs/mine").write_text("mine")
    before = content_of(tmp_path)
    screen = Screen(verbose=True, quiet=False, as_json=False)
    for folder in (tmp_path, tmp_path / "absent"):
        with cache_within_limit(Settings(cache_dir=folder, cache_limit=1), screen):
            pass
    assert content_of(tmp_path) == before
    assert capsys.readouterr().err == ""


def test_sizes_are_read_again_only_after_a_run_that_added_something(full: Path) -> None:
    age(full, git=1, go=5, gocache=2, built=4, logs=3)
    limit = size_of(full)
    assert cache.keep_below(full, limit, time.time()) is not None
    assert cache.keep_below(full, limit, time.time()) is None
    assert cache.keep_below(full, limit - 1, time.time()) is not None  # the limit is another one
    (full / "v1/logs/v9.log").write_text("x")
    assert cache.keep_below(full, limit, time.time()) is not None
    for damage in ("", "[]", '{"folders": {}}', '{"bytes": "x"}'):
        (full / "v1/measured.json").write_text(damage)
        assert cache.keep_below(full, limit, time.time()) is not None


@pytest.mark.slow
def test_a_kill_leaves_whole_entries_and_the_next_run_removes_the_rest(full: Path) -> None:
    (full / "v1/built/other").mkdir()
    age(full, git=1, go=5, gocache=2, built=4, logs=3)
    whole = {name: content_of(full / "v1" / name) for name in ("git/a.git", "built/k")}
    number = 1
    while killed_at_rename(number, lambda folder: cache.keep_below(folder, 1, 1e12), full):
        for name, before in whole.items():
            assert not (full / "v1" / name).exists() or content_of(full / "v1" / name) == before
        assert len(list((full / "v1/work").iterdir())) == 1
        with open_workspace(full):
            pass
        assert list((full / "v1/work").iterdir()) == []
        number = 2  # one is removed each time
    assert number == 2
    assert names(full) == set()


def test_an_entry_that_cannot_be_renamed_is_removed(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "rename", refuse)
    assert cache.prune(full, age=-1, size=None).left == 0
    assert kinds(full) == []


def named(word: str) -> str:
    return f"kbuild-gocache-{hashlib.sha256(word.encode()).hexdigest()[:16]}"


def volume(word: str, users: int = 0) -> dict[str, object]:
    return {"Name": named(word), "UsageData": {"Size": 500, "RefCount": users}}


WORDS = ("in-use", "this-run", "noted", "old", "foreign")


ENGINE: dict[str, list[Answer]] = {
    "GET /system/df": [
        (
            200,
            {
                "Volumes": [
                    volume("in-use", 1),
                    *(volume(word) for word in WORDS[1:]),
                    {"Name": "kbuild-gocache-of-somebody-else", "UsageData": {"Size": 10**9}},
                    {"Name": "other", "UsageData": {"Size": 10**9}},
                ]
            },
        )
    ],
    **{f"GET /volumes/{named(word)}": [(200, {"Name": named(word)})] for word in WORDS},
    **{f"DELETE /volumes/{named(word)}": [(204, b"")] for word in WORDS[1:]},
    f"DELETE /volumes/{named('in-use')}": [(409, {"message": "volume is in use"})],
}


@pytest.fixture
def engine_with_volumes(full: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """Give an engine of five Go caches; runs of this cache used three, in 2020, 2021 and 2022."""
    for year, word in enumerate(("in-use", "old", "noted"), start=2020):
        noted = full / "v1/volumes" / named(word)
        noted.touch()
        then = datetime(year, 1, 1, tzinfo=UTC).timestamp()
        os.utime(noted, (then, then))
    with fake_engine(ENGINE) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        yield fake


def deleted(fake: FakeEngine) -> list[str]:
    words = {f"DELETE /volumes/{named(word)}": word for word in WORDS}
    return [words[each] for each in fake.asked if each.startswith("DELETE /volumes/")]


def use_docker(full: Path) -> None:
    (full / "v1/volumes" / named("this-run")).touch()


def test_the_engines_volumes_are_kept_below_the_limit(
    full: Path, engine_with_volumes: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    with cache_within_limit(
        Settings(cache_dir=full, cache_limit=1200),
        Screen(verbose=False, quiet=False, as_json=False),
    ):
        use_docker(full)
    assert deleted(engine_with_volumes) == ["in-use", "old", "noted"]
    said = capsys.readouterr().err
    assert "engine's Go caches: removed 2 unused entries, 1.0 kB, to stay below 1.2 kB" in said


def test_volumes_in_use_are_kept_and_the_user_is_told(
    full: Path, engine_with_volumes: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    with cache_within_limit(
        Settings(cache_dir=full, cache_limit=1), Screen(verbose=False, quiet=False, as_json=False)
    ):
        use_docker(full)
    assert "this-run" not in deleted(engine_with_volumes)
    said = capsys.readouterr().err
    assert "engine's Go caches: 1.0 kB is in use and was kept; the limit is 1 B" in said


def test_the_engine_is_asked_once_a_day_and_only_after_a_build_in_it(
    full: Path, engine_with_volumes: FakeEngine
) -> None:
    def asks() -> bool:
        before = len(engine_with_volumes.asked)
        cache.keep_volumes_below(full, 10**6, time.time() - 1)
        return len(engine_with_volumes.asked) > before

    assert not asks()  # no volume was used
    use_docker(full)
    assert asks()
    assert not asks()
    checked = full / "v1/volumes/measured.json"
    for then in (time.time() - 2 * DAY, time.time() + 2 * DAY):  # or the clock was wrong
        os.utime(checked, (then, then))
        assert asks()
    assert deleted(engine_with_volumes) == []


def test_an_engine_that_fails_spoils_no_run(
    full: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_engine({"GET /system/df": [(500, {"message": "out of order"})]}) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        with cache_within_limit(
            Settings(cache_dir=full), Screen(verbose=False, quiet=False, as_json=False)
        ):
            use_docker(full)
    said = capsys.readouterr().err
    assert "warning: container engine's Go caches: not kept below 5.0 GB" in said
    assert "out of order" in said


def test_the_limit_is_shown(full: Path, engine_with_volumes: FakeEngine) -> None:
    assert engine_with_volumes.address
    size = size_of(full)
    words = ["cache", "--cache-dir", str(full), "--cache-limit"]
    shown = CliRunner().invoke(app, [*words, "10kB"]).stdout
    assert f"({size / 10_000:.0%} of the limit of 10.0 kB)" in shown
    assert "2.5 kB in the container engine (25% of the limit of 10.0 kB)" in shown
    document = json.loads(CliRunner().invoke(app, [*words, "10kB", "--json"]).stdout)
    assert document["limit_bytes"] == 10_000
    assert (document["cache_dir_bytes"], document["engine_bytes"]) == (size, 2500)
    unlimited = CliRunner().invoke(app, [*words, "0"])
    assert "of the limit" not in unlimited.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"Volumes": None},
        {"Volumes": [{"Name": named("this-run")}]},
        {"Volumes": [{"Name": named("this-run"), "UsageData": None}]},
        {"Volumes": [{"Name": named("this-run"), "UsageData": {"Size": -1}}]},
        {"VolumeUsage": {"Items": None}},
        {"Volumes": ["odd"]},
    ],
    ids=str,
)
def test_an_engine_that_does_not_know_its_sizes_spoils_no_run(
    usage: object, full: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_engine({"GET /system/df": [(200, usage)]}) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        with cache_within_limit(
            Settings(cache_dir=full, cache_limit=1),
            Screen(verbose=False, quiet=False, as_json=False),
        ):
            use_docker(full)
    assert deleted(fake) == []
    assert "cache: " in capsys.readouterr().err


def test_a_time_in_the_future_is_no_use(full: Path) -> None:
    age(full, git=1, go=5, gocache=2, built=-9, logs=3)
    run_within(full, 1)
    assert names(full) == {"logs/v2.log"}  # which this run wrote


def test_a_time_of_any_number_is_shown(full: Path) -> None:
    with contextlib.suppress(OSError, OverflowError):  # the file system may know no such time
        os.utime(full / "v1/built", (0, 0))
        [built] = [item for item in cache.items(full) if item.kind == "built"]
        os.utime(built.path, (99_999_999_999_999, 99_999_999_999_999))
    assert run_here("cache", "--cache-dir", str(full)).returncode == 0


def test_a_full_disk_is_emptied_all_the_same(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def no_room(*_: object, **__: object) -> Iterator[Path]:
        raise DiskFull(path=full)
        yield full

    monkeypatch.setattr("kbuild.cache.work_folder", no_room)
    assert cache.prune(full, age=-1, size=None).left == 0
    assert kinds(full) == []


def test_what_stands_in_place_of_the_measure_is_not_followed(full: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (full / "v1/measured.json").symlink_to(mine)
    cache.keep_below(full, 1, time.time())
    assert mine.read_text() == "mine"
