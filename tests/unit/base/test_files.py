import os
from pathlib import Path

import pytest

from kbuild.base.files import read_file, read_head, reason_of


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(file)
    assert read_file(file, 5) == read_file(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="it is larger than 4 bytes"):
        read_file(file, 4)


@pytest.mark.parametrize("name", ["fifo", "/dev/zero", "/dev/tty", ".", "null", "absent"])
def test_what_is_no_regular_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(OSError, match=r"not a regular file|a directory|No such"):
        read_file(tmp_path / name, 10)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_cannot_be_is_an_os_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not a valid file name"):
        read_file(tmp_path / name, 10)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(2, "No such file or directory", "x"), "No such file or directory"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "invalid"), "it is not UTF-8 text"),
        (KeyError("x"), "it has no 'x'"),
        (RecursionError("x"), "it is nested too deep"),
        (OverflowError("x"), "a value in it is out of range (x)"),
        (IndexError("x"), "a value in it is not of the right type (x)"),
        (ValueError("{x}"), "{x}"),
        (ValueError(), "ValueError"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_wrong_is_told_in_words(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_a_file_that_comes_in_parts_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    read_some = os.read
    monkeypatch.setattr(os, "read", lambda number, most: read_some(number, min(most, 2)))
    assert read_file(tmp_path / "file", 5) == b"12345"
    assert read_head(tmp_path / "file", 3) == b"123"
