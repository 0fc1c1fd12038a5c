import io
import tarfile
from pathlib import Path

import pytest

from kbuild.base.unpack import UnsafeMember, open_tar, unpack_all


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o777
    return info


def archive(*members: tarfile.TarInfo) -> tarfile.TarFile:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for each in members:
            tar.addfile(each, io.BytesIO())
    buffer.seek(0)
    return tarfile.open(fileobj=buffer)


@pytest.mark.parametrize(
    "members",
    [
        (member("../x"),),
        (member("a/../../x"),),
        (member("/x"),),
        (member("link", tarfile.SYMTYPE, ".."),),
        (member("link", tarfile.SYMTYPE, "/etc"),),
        (member("a/link", tarfile.SYMTYPE, "../../x"),),
        (member("hard", tarfile.LNKTYPE, "../x"),),
        (member("hard", tarfile.LNKTYPE, "/etc/passwd"),),
        (member("pipe", tarfile.FIFOTYPE),),
        (member("device", tarfile.BLKTYPE),),
        # Each link alone points inside; the second one is written through the first.
        (member("a", tarfile.SYMTYPE, "."), member("a/b", tarfile.SYMTYPE, "..")),
        (member("a", tarfile.SYMTYPE, "sub"), member("a/x")),
        (member("a", tarfile.SYMTYPE, "sub"), member("a")),
        (member("a", tarfile.SYMTYPE, "."), member("./a/x")),
        # What looks inside by its text is outside for a file system, which follows links first.
        (member("a/b", tarfile.SYMTYPE, ".."), member("a/b/../x")),
        (member("a/b", tarfile.SYMTYPE, ".."), member("link", tarfile.SYMTYPE, "a/b/..")),
        (member("a/b", tarfile.SYMTYPE, ".."), member("hard", tarfile.LNKTYPE, "a/b/../x")),
        (member("a/b", tarfile.SYMTYPE, ".."), member("hard", tarfile.LNKTYPE, "a/b/x")),
    ],
    ids=lambda members: " ".join(f"{m.name}>{m.linkname}" for m in members),
)
def test_what_leaves_the_folder_is_refused(
    members: tuple[tarfile.TarInfo, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with archive(*members) as tar, pytest.raises(UnsafeMember):
        unpack_all(tar, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_links_inside_are_kept_and_modes_are_tame(tmp_path: Path) -> None:
    members = (
        member("top/bin", tarfile.DIRTYPE),
        member("top/bin/x"),
        member("top/vendor/link", tarfile.SYMTYPE, "../bin"),
        member("top/hard", tarfile.LNKTYPE, "top/bin/x"),
    )
    with archive(*members) as tar:
        unpack_all(tar, tmp_path)
    assert (tmp_path / "top/vendor/link").readlink() == Path("../bin")
    assert (tmp_path / "top/bin/x").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "top/hard").samefile(tmp_path / "top/bin/x")


def extended(kind: bytes, content: bytes) -> bytes:
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, len(content)
    return header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
def test_an_extended_header_that_no_member_needs_is_not_read(kind: bytes, tmp_path: Path) -> None:
    after = member("file").tobuf()
    (tmp_path / "good.tar").write_bytes(extended(kind, b"12 path=abc\n") + after + bytes(1024))
    with open_tar(tmp_path / "good.tar") as tar:
        assert len([*tar]) == 1
    # A regular expression of Python 3.11.9 takes minutes for a megabyte of digits.
    (tmp_path / "bad.tar").write_bytes(extended(kind, b"1" * 20_000) + after + bytes(1024))
    with pytest.raises(tarfile.ReadError, match="more than 16384 bytes"):
        open_tar(tmp_path / "bad.tar")


def test_a_header_later_in_the_tar_is_bounded_too(tmp_path: Path) -> None:
    content = member("first").tobuf() + extended(b"x", b"1" * 20_000) + member("file").tobuf()
    (tmp_path / "k.tar").write_bytes(content + bytes(1024))
    with open_tar(tmp_path / "k.tar") as tar, pytest.raises(tarfile.ReadError):
        assert [*tar]


def test_a_member_of_a_negative_size_is_refused(tmp_path: Path) -> None:
    # Its content would end where its own pax header begins, so tarfile would read it for ever.
    again = member("again")
    again.pax_headers = {"size": "-1536"}
    content = member("first").tobuf() + again.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    (tmp_path / "k.tar").write_bytes(content)
    # Newer versions of Python refuse it themselves.
    refused = pytest.raises((UnsafeMember, tarfile.ReadError), match=r"again|invalid offset")
    with open_tar(tmp_path / "k.tar") as tar, refused:
        unpack_all(tar, tmp_path)
