import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kbuild.errors import DiskFull, NotWritable, OutputBusy
from kbuild.workspace import disk_errors, make_then_move, only_one, open_workspace, remove

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
