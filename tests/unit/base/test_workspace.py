import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from kbuild.base.disk import remove
from kbuild.base.errors import CacheInUse, NotACache, NotWritable, UnsafeCache
from kbuild.base.workspace import alone, open_workspace, why_refused
from tests.support.trees import content_of

HOLD = """
import sys, time
from pathlib import Path
from kbuild.base.workspace import open_workspace
with open_workspace(Path(sys.argv[1])) as workspace:
    (workspace.work / "half-made").write_text("x")
    print(workspace.work, flush=True)
    time.sleep(60)
"""


def hold(cache: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(cache)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str], how: signal.Signals) -> None:
    process.send_signal(how)
    process.communicate()


def test_a_work_folder_is_gone_when_its_run_ends(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as workspace:
        (workspace.work / "file").write_text("x")
    assert list((tmp_path / "v1/work").iterdir()) == []
    assert [path.name for path in (tmp_path / "v1/locks").iterdir()] == ["alone.lock"]


@pytest.mark.slow
def test_the_next_run_removes_what_a_killed_run_left_and_spares_the_living(tmp_path: Path) -> None:
    living, living_work = hold(tmp_path)
    killed, killed_work = hold(tmp_path)
    end(killed, signal.SIGKILL)
    assert killed_work.exists()
    with open_workspace(tmp_path):
        assert not killed_work.exists()
        assert (living_work / "half-made").exists()
    end(living, signal.SIGKILL)


FOLDERS = ("git", "go", "gocache", "built", "logs", "volumes", "locks", "work")
PLACES = (".", "v1", *(f"v1/{name}" for name in FOLDERS))
OPENERS = (open_workspace, alone)
Opener = Callable[[Path], AbstractContextManager[object]]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Give a cache that kbuild made."""
    with open_workspace(tmp_path / "cache"):
        pass
    return tmp_path / "cache"


def test_what_a_run_makes_in_a_cache_is_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        with open_workspace(tmp_path / "home/.cache/kbuild"):
            pass
    finally:
        os.umask(before)
    cache = tmp_path / "home/.cache/kbuild"
    assert {path.name for path in cache.iterdir()} == {"CACHEDIR.TAG", "v1"}
    assert {path.name for path in (cache / "v1").iterdir()} == {*FOLDERS}
    made = (cache.parents[1], cache.parent, *(cache / name for name in PLACES))
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}


def test_a_cache_has_a_tag_that_backup_programs_know(cache: Path) -> None:
    first, second = (cache / "CACHEDIR.TAG").read_text().splitlines()[:2]
    assert first == "Signature: 8a477f597d28d172789f06886806bc55"
    assert "kbuild" in second


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("through_link", [False, True])
def test_a_folder_that_kbuild_did_not_make_is_no_cache_and_keeps_its_files(
    through_link: bool, opener: Opener, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    for name in ("work/run-0123456789ab/thesis", "git/project/file", "go/bin/gopls", "v1/go/x"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("mine")
    before = content_of(home)
    (tmp_path / "link").symlink_to(home)
    with (
        pytest.raises(NotACache, match="not empty") as caught,
        opener(tmp_path / "link" if through_link else home),
    ):
        pass
    assert "--cache-dir" in caught.value.hint
    assert content_of(home) == before


@pytest.mark.parametrize(
    "tag", ["", "Signature: 8a477f597d28d172789f06886806bc55\n# made by another program\n"]
)
def test_the_tag_of_another_program_makes_no_cache(tag: str, tmp_path: Path) -> None:
    (tmp_path / "CACHEDIR.TAG").write_text(tag)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotACache), open_workspace(tmp_path):
        pass
    (tmp_path / "file").unlink()
    if tag:
        with pytest.raises(NotACache), open_workspace(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["CACHEDIR.TAG"]
    assert (tmp_path / "CACHEDIR.TAG").read_text() == tag


def test_a_tag_that_is_a_link_makes_no_cache(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "other/work").mkdir(parents=True)
    (tmp_path / "other/CACHEDIR.TAG").symlink_to(cache / "CACHEDIR.TAG")
    with pytest.raises(NotACache), open_workspace(tmp_path / "other"):
        pass


def test_a_cache_whose_first_run_was_killed_is_made_whole(cache: Path, tmp_path: Path) -> None:
    whole = (cache / "CACHEDIR.TAG").read_bytes()
    for length in (0, 1, 50, 100):
        begun = tmp_path / f"begun-{length}"
        begun.mkdir()
        (begun / "CACHEDIR.TAG").write_bytes(whole[:length])
        with open_workspace(begun):
            pass
        assert (begun / "CACHEDIR.TAG").read_bytes() == whole


def test_a_cache_of_the_earlier_layout_is_refused_and_can_be_deleted(tmp_path: Path) -> None:
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    (tmp_path / "built/k").mkdir()
    with pytest.raises(NotACache, match="earlier kbuild") as caught, open_workspace(tmp_path):
        pass
    assert f"rm -rf {tmp_path}" in caught.value.hint
    assert (tmp_path / "built/k").is_dir()


def test_a_folder_of_projects_is_not_said_to_be_a_cache(tmp_path: Path) -> None:
    for name in ("git", "go", "work"):
        (tmp_path / name).mkdir()
    with pytest.raises(NotACache) as caught, open_workspace(tmp_path):
        pass
    assert "rm -rf" not in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", PLACES[1:])
def test_a_link_in_the_place_of_a_folder_of_the_cache_is_refused(
    name: str, opener: Opener, cache: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "run-0123456789ab").mkdir(parents=True)
    remove(cache / name)
    (cache / name).symlink_to(other)
    with pytest.raises(NotACache, match="link"), opener(cache):
        pass
    assert [path.name for path in other.iterdir()] == ["run-0123456789ab"]


def test_only_folders_that_kbuild_named_are_swept(cache: Path) -> None:
    (cache / "v1/work/mine").mkdir()
    (cache / "v1/work/run-0123456789ab").mkdir()
    with open_workspace(cache):
        pass
    assert [path.name for path in (cache / "v1/work").iterdir()] == ["mine"]
    with alone(cache):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722])
@pytest.mark.parametrize("name", PLACES)
def test_a_cache_that_others_can_write_to_is_refused(
    name: str, mode: int, opener: Opener, cache: Path
) -> None:
    (cache / name).chmod(mode)
    with pytest.raises(UnsafeCache, match=f"{mode:04o}"), opener(cache):
        pass
    (cache / name).chmod(0o755)
    with opener(cache):
        pass


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_cache_below_a_folder_that_others_can_write_to_is_refused(
    mode: int, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    cache = shared / "mine/cache"
    with open_workspace(cache):
        pass
    (tmp_path / "link").symlink_to(cache)
    (shared / "link").symlink_to(cache)
    shared.chmod(mode)
    ways = (cache, tmp_path / "link", shared / "link", shared / "new", tmp_path / "x/../shared/new")
    for way in ways:
        with pytest.raises(UnsafeCache, match=f"{mode:04o}") as caught, open_workspace(way):
            pass
        assert f"chmod go-w {shared}" in caught.value.hint
    shared.chmod(0o1777)
    with open_workspace(cache):
        pass


@pytest.mark.parametrize("name", ["a", "a/b", "nul\0"])
def test_what_is_no_path_of_a_folder_is_no_cache(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert isinstance(why_refused(tmp_path / name), NotWritable)
    with pytest.raises(NotWritable), open_workspace(tmp_path / name):
        pass


def _open(cache: Path) -> None:
    with open_workspace(cache):
        pass


@pytest.mark.slow
def test_many_runs_may_make_the_same_cache_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(10):
        cache = tmp_path / f"cache-{number}"
        processes = [context.Process(target=_open, args=(cache,)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0, 0, 0]
        assert why_refused(cache) is None


@pytest.mark.parametrize("name", ["v1", "v1/built", "v1/git"])
def test_the_sticky_bit_makes_the_cache_safe_but_not_a_folder_in_it(name: str, cache: Path) -> None:
    cache.chmod(0o1777)
    with open_workspace(cache):
        pass
    (cache / name).chmod(0o1777)
    with pytest.raises(UnsafeCache, match=name), open_workspace(cache):
        pass


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", ["..", *PLACES])
def test_a_cache_of_another_user_is_refused(
    name: str, opener: Opener, cache: Path, tmp_path: Path
) -> None:
    os.chown((cache / name).resolve(), 65532, 65532)
    with pytest.raises(UnsafeCache, match="65532"), opener(cache):
        pass
    os.chown(tmp_path, 0, 0)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_link_of_another_user_to_a_cache_is_refused(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(cache)
    with open_workspace(tmp_path / "link"):
        pass
    os.chown(tmp_path / "link", 65532, 65532, follow_symlinks=False)
    with pytest.raises(UnsafeCache, match="65532"), open_workspace(tmp_path / "link"):
        pass


def test_what_is_below_a_folder_of_the_cache_may_be_of_the_build_user(cache: Path) -> None:
    inside = cache / "v1/gocache/65532"
    inside.mkdir(parents=True, mode=0o700)
    inside.chmod(0o777)
    with open_workspace(cache):
        pass


def test_nobody_gets_the_cache_alone_before_a_run_that_begins_has_its_work_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = Path.mkdir, []

    def mkdir(path: Path, *words: Any, **options: Any) -> None:
        if path.parent.name == "work":
            tried.append(path)
            with pytest.raises(CacheInUse), alone(tmp_path):
                pass
        real(path, *words, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with open_workspace(tmp_path) as workspace:
        assert tried == [workspace.work]
