import io
import tarfile
from pathlib import Path

import pytest

from kbuild.base.unpack import UnsafeMember, unpack_all


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
