import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kbuild.base.disk import disk_errors, make_then_move, remove, resolved
from kbuild.base.errors import DiskFull, NotWritable
from tests.support.killed import killed_at_rename
from tests.support.trees import content_of


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
    (tmp_path / ".v1.kbuild-new-0123456789ab").mkdir()
    with make_then_move(target) as made:
        (made / "new").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]
    assert [path.name for path in target.iterdir()] == ["new"]


@pytest.mark.parametrize("name", ["v[1]", "v*", "v?", "-v1", "v1 2"])
def test_a_name_is_no_pattern(name: str, tmp_path: Path) -> None:
    others = [".v1.kbuild-new-0123456789ab", ".vx.kbuild-old-0123456789ab", f".{name}.kbuild-notes"]
    for other in others:
        (tmp_path / other).mkdir()
    for text in ("old", "new"):
        (tmp_path / f".{name}.kbuild-new-0123456789ab").mkdir()
        with make_then_move(tmp_path / name) as made:
            (made / "file").write_text(text)
    assert content_of(tmp_path / name) == {"file": b"new"}
    assert {path.name for path in tmp_path.iterdir()} == {name, *others}


@pytest.mark.parametrize("empty", [True, False])
def test_what_a_killed_run_moved_away_is_put_back(empty: bool, target: Path) -> None:
    target.rename(target.with_name(".v1.kbuild-old-0123456789ab"))
    if empty:  # somebody has seen that it is gone
        target.mkdir()
    with pytest.raises(ZeroDivisionError), make_then_move(target):
        raise ZeroDivisionError
    assert content_of(target) == {"file": b"old"}
    assert [path.name for path in target.parent.iterdir()] == ["v1"]


def test_a_link_that_is_named_like_a_leftover_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    (tmp_path / ".v1.kbuild-new-0123456789ab").symlink_to(tmp_path / "mine")
    with make_then_move(tmp_path / "v1"):
        pass
    assert (tmp_path / "mine/file").read_text() == "mine"


EXCHANGES = pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])


def replace_with_new(target: Path) -> None:
    with make_then_move(target) as made:
        (made / "file").write_text("new")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Give a folder that holds something old."""
    target = tmp_path / "dist/v1"
    target.mkdir(parents=True)
    (target / "file").write_text("old")
    return target


@EXCHANGES
def test_what_is_replaced_stays_whichever_rename_fails(
    exchanges: bool, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames = 0
    real = os.rename

    def fails_at(number: int) -> Callable[[Path, Path], None]:
        def rename(source: Path, to: Path) -> None:
            nonlocal renames
            renames += 1
            if renames == number:
                raise OSError(errno.EIO, "Input/output error", str(source))
            real(source, to)

        return rename

    if not exchanges:
        monkeypatch.setattr("ctypes.CDLL", lambda _: object())  # without renameat2
    failures = 0
    for number in range(1, 4):
        renames = 0
        (target / "file").write_text("old")
        monkeypatch.setattr(os, "rename", fails_at(number))
        try:
            replace_with_new(target)
        except NotWritable:
            failures += 1
            assert content_of(target) == {"file": b"old"}
        else:
            assert content_of(target) == {"file": b"new"}
        assert [path.name for path in target.parent.iterdir()] == ["v1"]
    assert failures == (0 if exchanges else 2)


@EXCHANGES
def test_what_is_replaced_is_there_again_after_a_kill_at_any_rename(
    exchanges: bool, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanges:
        monkeypatch.setattr("ctypes.CDLL", lambda _: object())  # without renameat2
    number = 1
    while killed_at_rename(number, replace_with_new, target):
        # The next run finds what was there, so it can still fail without a loss.
        with pytest.raises(ZeroDivisionError), make_then_move(target):
            raise ZeroDivisionError
        assert [path.name for path in target.parent.iterdir()] == ["v1"]
        assert content_of(target) == {"file": b"old"}
        number += 1
    assert number == (1 if exchanges else 3)
    assert content_of(target) == {"file": b"new"}


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


@pytest.mark.parametrize("place", ["/proc/x", "/proc/1/x", "/proc/999999999/x", "/proc/self/x/y"])
def test_what_cannot_be_made_in_proc_is_told(place: str) -> None:
    with (
        pytest.raises(NotWritable, match=r"/proc/.*cannot be used: No such file") as caught,
        make_then_move(Path(place)),
    ):
        pytest.fail("nothing can be made there")
    assert "kbuild-new" not in str(caught.value)
    with pytest.raises(NotWritable, match="cannot be used: No such file"), disk_errors(Path(place)):
        Path(place).mkdir(parents=True)


def test_a_loop_of_links_is_told_in_the_words_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(NotWritable, match=r"cannot be used: Too many levels of symbolic links$"):
        resolved(tmp_path / "loop/x")


def test_remove_takes_read_only_folders_too(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "file").write_text("x")
    folder.chmod(0o500)
    (tmp_path / "a").chmod(0o500)
    remove(tmp_path / "a")
    remove(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root is asked for no permission")
def test_remove_changes_nothing_above_what_it_removes(tmp_path: Path) -> None:
    folder = tmp_path / "parent/folder"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o555)
    with pytest.raises(PermissionError):
        remove(folder)
    assert folder.parent.stat().st_mode & 0o777 == 0o555
    folder.parent.chmod(0o755)
