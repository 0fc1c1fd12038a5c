"""Reports: whole or not there, and nothing else is ever replaced."""

import os
import stat
from pathlib import Path

import pytest

from kbuild.base.errors import NotWritable
from kbuild.base.reports import write_report
from tests.support.killed import killed_at_rename

MARK = b"# ours"
OLD, NEW = MARK + b"\nold\n", MARK + b"\nnew\n"


def write(path: Path) -> None:
    write_report(path, NEW, mark=MARK)


def refused(path: Path) -> str:
    with pytest.raises(NotWritable) as caught:
        write(path)
    return caught.value.happened


def test_a_report_appears_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "certs.prom"
    for old in (None, OLD, b""):
        if old is not None:
            path.write_bytes(old)
        write(path)
        assert path.read_bytes() == NEW
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_is_as_demanded_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_report(tmp_path / "open", NEW, mark=MARK, mode=0o644)
        write_report(tmp_path / "private", NEW, mark=MARK)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("open", "private")]
    assert modes == [0o644, 0o600]


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "certs.html"
    for mode in (0o600, 0o664):
        path.write_bytes(OLD)
        path.chmod(mode)
        write_report(path, NEW, mark=MARK)
        assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (NEW, mode)
    write_report(path, NEW, mark=MARK, mode=0o644)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o6755)
    write_report(path, NEW, mark=MARK)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_the_mode_of_another_users_file_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "certs.html"
    path.touch()
    os.chown(path, 65534, -1)
    path.chmod(0o666)
    before = os.umask(0o077)
    try:
        write_report(path, NEW, mark=MARK)
    finally:
        os.umask(before)
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (0, 0o600)


def test_what_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ca.crt"
    for content in (b"-----BEGIN CERTIFICATE-----\n", b"x" * 5000 + MARK):
        path.write_bytes(content)
        assert "this option did not write it" in refused(path)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_links_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "ours").write_bytes(OLD)
    (tmp_path / "link").symlink_to("ours")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    for name in ("link", "dangling", "fifo", "folder"):
        assert "not a regular file" in refused(tmp_path / name)
    assert "not a regular file" in refused(Path("/dev/null"))
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "ours").read_bytes() == OLD


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    wanted = f"{tmp_path}/missing is not there: make that directory first"
    assert wanted in refused(tmp_path / "missing" / "certs.prom")
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(tmp_path / "file" / "certs.prom")
    assert "name too long" in refused(tmp_path / ("x" * 250))


def test_a_killed_run_leaves_the_old_report_and_a_later_one_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "certs.prom"
    path.write_bytes(OLD)
    assert killed_at_rename(1, write, path)
    assert path.read_bytes() == OLD
    (left,) = set(tmp_path.iterdir()) - {path}
    assert not left.name.endswith(".prom")  # node_exporter would read it
    write(path)
    assert left.exists()  # a run that is still writing has one too
    os.utime(left, (0, 0))
    decoy = tmp_path / f".other.prom.kbuild-new-{'0' * 12}"
    decoy.touch()
    os.utime(decoy, (0, 0))
    write(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, decoy])
    assert path.read_bytes() == NEW
