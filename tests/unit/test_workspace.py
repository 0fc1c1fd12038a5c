import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from kbuild.errors import DiskFull, NotWritable, OutputBusy, UnsafeCache
from kbuild.workspace import alone, disk_errors, make_then_move, only_one, open_workspace, remove

HOLD = """
import sys, time
from pathlib import Path
from kbuild.workspace import open_workspace
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
    assert list((tmp_path / "work").iterdir()) == []
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["alone.lock"]


def test_the_next_run_removes_what_a_killed_run_left_and_spares_the_living(tmp_path: Path) -> None:
    living, living_work = hold(tmp_path)
    killed, killed_work = hold(tmp_path)
    end(killed, signal.SIGKILL)
    assert killed_work.exists()
    with open_workspace(tmp_path):
        assert not killed_work.exists()
        assert (living_work / "half-made").exists()
    end(living, signal.SIGKILL)


FOLDERS = ("git", "trees", "go", "gocache", "built", "logs", "locks", "work")
OPENERS = (open_workspace, alone)


def test_what_a_run_makes_in_a_cache_is_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        with open_workspace(tmp_path / "home/.cache/kbuild"):
            pass
    finally:
        os.umask(before)
    cache = tmp_path / "home/.cache/kbuild"
    assert {path.name for path in cache.iterdir()} == {*FOLDERS}
    assert {path.stat().st_mode & 0o777 for path in (cache, *cache.iterdir())} == {0o700}


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722])
@pytest.mark.parametrize("name", [".", *FOLDERS])
def test_a_cache_that_others_can_write_to_is_refused(
    name: str, mode: int, opener: Callable[[Path], AbstractContextManager[object]], tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)
    with pytest.raises(UnsafeCache, match=f"{mode:04o}"), opener(tmp_path):
        pass
    folder.chmod(0o755)
    with opener(tmp_path):
        pass


@pytest.mark.parametrize("name", ["built", "git"])
def test_the_sticky_bit_makes_the_cache_safe_but_not_a_folder_in_it(
    name: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o1777)
    with open_workspace(tmp_path):
        pass
    (tmp_path / name).chmod(0o1777)
    with pytest.raises(UnsafeCache, match=name), open_workspace(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", [".", *FOLDERS])
def test_a_cache_of_another_user_is_refused(
    name: str, opener: Callable[[Path], AbstractContextManager[object]], tmp_path: Path
) -> None:
    (tmp_path / name).mkdir(exist_ok=True, mode=0o700)
    os.chown(tmp_path / name, 65532, 65532)
    with pytest.raises(UnsafeCache, match="65532"), opener(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_link_to_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    cache, other = tmp_path / "cache", tmp_path / "other"
    cache.mkdir()
    other.mkdir()
    (cache / "go").symlink_to(other)
    with open_workspace(cache):
        pass
    os.chown(other, 65532, 65532)
    with pytest.raises(UnsafeCache, match="65532"), open_workspace(cache):
        pass


def test_what_is_below_a_folder_of_the_cache_may_be_of_the_build_user(tmp_path: Path) -> None:
    inside = tmp_path / "gocache/65532"
    inside.mkdir(parents=True, mode=0o700)
    inside.chmod(0o777)
    with open_workspace(tmp_path):
        pass


def test_make_then_move_shows_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "dist" / "v1"
    with pytest.raises(ZeroDivisionError), make_then_move(target) as made:
        (made / "file").write_text("half")
        raise ZeroDivisionError
    assert list(target.parent.iterdir()) == []
    with make_then_move(target) as made:
        (made / "file").write_text("whole")
    assert [path.name for path in target.parent.iterdir()] == ["v1"]
    assert (target / "file").read_text() == "whole"


def test_make_then_move_replaces_and_removes_what_a_killed_run_left(tmp_path: Path) -> None:
    target = tmp_path / "v1"
    target.mkdir()
    (target / "old").write_text("old")
    (tmp_path / ".v1.kbuild-dead").mkdir()
    with make_then_move(target) as made:
        (made / "new").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]
    assert [path.name for path in target.iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EROFS, NotWritable),
        (errno.EACCES, NotWritable),
    ],
)
def test_disk_errors_become_ours(number: int, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="place"), disk_errors(tmp_path):
        raise OSError(number, os.strerror(number), "place")


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        (tmp_path / "absent").read_text()


def test_only_one_holds_a_thing(tmp_path: Path) -> None:
    busy = OutputBusy(path="dist")
    context = multiprocessing.get_context("fork")
    with only_one(tmp_path, "thing", busy):
        process = context.Process(target=_take, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == OutputBusy.exit_code
    with only_one(tmp_path, "thing", busy):
        pass


def _take(cache: Path) -> None:
    try:
        with only_one(cache, "thing", OutputBusy(path="dist")):
            time.sleep(0)
    except OutputBusy as error:
        sys.exit(error.exit_code)


def test_remove_takes_read_only_folders_too(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "file").write_text("x")
    folder.chmod(0o500)
    (tmp_path / "a").chmod(0o500)
    remove(tmp_path / "a")
    remove(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
