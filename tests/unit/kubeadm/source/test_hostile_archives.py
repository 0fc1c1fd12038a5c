import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kbuild.base.errors import KbuildError, NotKubernetes, SourceUnreachable
from kbuild.base.workspace import Workspace, open_workspace
from kbuild.kubeadm.source.archive import is_archive
from kbuild.kubeadm.source.errors import BrokenArchive, SourceChecksumMismatch, UnsafeArchive
from kbuild.kubeadm.source.fetch import fetch, resolve
from tests.support.recorder import Recorder
from tests.unit.kubeadm.source.conftest import RequestFor

COMMIT = "a" * 40
SCRIPT = "hack/lib/version.sh"
Add = Callable[[tarfile.TarFile], None]


def identity(tag: str, commit: str = COMMIT) -> bytes:
    return f"    KUBE_GIT_COMMIT='{commit}'\n    if [[ 'tag: {tag}' =~ tag: ]]; then\n".encode()


def put(tar: tarfile.TarFile, name: str, content: bytes = b"") -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def link(tar: tarfile.TarFile, name: str, target: str, kind: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    tar.addfile(info)


def put_folder_over_file(tar: tarfile.TarFile) -> None:
    put(tar, "k/cmd/kubeadm/app/constants/a.go")
    put(tar, "k/cmd/kubeadm/app/constants/a.go/b.go")


def put_file_over_folder(tar: tarfile.TarFile) -> None:
    put(tar, "k/cmd/kubeadm/app/constants/a.go/b.go")
    put(tar, "k/cmd/kubeadm/app/constants/a.go")


def write(path: Path, add: Add = lambda _: None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        put(tar, f"k/{SCRIPT}", identity("v1.20.2"))
        put(tar, "k/cmd/kubeadm/kubeadm.go", b"package main\n")
        add(tar)
    return path


def obtain(path: Path, workspace: Workspace, request_for: RequestFor) -> None:
    request = request_for(path)
    fetch(request, resolve(request, workspace, Recorder()), workspace, Recorder())


@pytest.mark.parametrize("commit", [None, COMMIT])
@pytest.mark.parametrize(
    "second", [identity("v1.21.0"), identity("v1.20.2", "b" * 40)], ids=["tag", "commit"]
)
def test_an_archive_that_names_itself_twice_is_refused(
    second: bytes,
    commit: str | None,
    tmp_path: Path,
    workspace: Workspace,
    request_for: RequestFor,
) -> None:
    path = write(tmp_path / "k.tar.gz", lambda tar: put(tar, f"k/{SCRIPT}", second))
    request = request_for(path, commit=commit)
    tag = resolve(request, workspace, Recorder())
    with pytest.raises(BrokenArchive, match="names itself"):
        fetch(request, tag, workspace, Recorder())


@pytest.mark.parametrize(
    "add",
    [
        put_file_over_folder,
        put_folder_over_file,
        lambda tar: put(tar, "k/cmd/kubeadm/" + "x" * 300 + ".go"),
        lambda tar: link(tar, "k/cmd/kubeadm/hard.go", "k/absent", tarfile.LNKTYPE),
    ],
    ids=["file over folder", "folder over file", "long name", "link to nothing"],
)
def test_members_that_cannot_be_together_are_refused(
    add: Add, tmp_path: Path, workspace: Workspace, request_for: RequestFor
) -> None:
    path = write(tmp_path / "k.tar.gz", add)
    with pytest.raises(BrokenArchive):
        obtain(path, workspace, request_for)


def test_a_script_that_is_a_link_to_nothing_is_refused(
    tmp_path: Path, workspace: Workspace, request_for: RequestFor
) -> None:
    with tarfile.open(tmp_path / "k.tar.gz", "w:gz") as tar:
        link(tar, f"k/{SCRIPT}", "absent", tarfile.SYMTYPE)
    with pytest.raises(NotKubernetes):
        obtain(tmp_path / "k.tar.gz", workspace, request_for)


def test_a_dry_run_checks_the_sum_demanded_too(
    tmp_path: Path, workspace: Workspace, request_for: RequestFor
) -> None:
    request = request_for(write(tmp_path / "k.tar.gz"), source_sha256="0" * 64)
    with pytest.raises(SourceChecksumMismatch):
        resolve(request, workspace, Recorder())


def test_an_archive_that_is_not_there_is_told_as_such(
    tmp_path: Path, workspace: Workspace, request_for: RequestFor
) -> None:
    assert is_archive("absent.tar.xz")
    with pytest.raises(SourceUnreachable) as caught:
        obtain(tmp_path / "absent.tar.gz", workspace, request_for)
    assert caught.value.details == "No such file or directory"


def zeros(path: Path, size: int) -> None:
    """Write a .tar.gz whose only file besides the version is so many zeros."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        put(tar, f"k/{SCRIPT}", identity("v1.20.2"))
        info = tarfile.TarInfo("k/cmd/kubeadm/kubeadm.go")
        info.size = size
        tar.addfile(info, Zeros())


class Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


@pytest.mark.slow
def test_a_bomb_is_refused_before_it_fills_memory_or_disk(
    tmp_path: Path, workspace: Workspace, request_for: RequestFor
) -> None:
    zeros(tmp_path / "k.tar.gz", 1 << 30)
    tracemalloc.start()
    with pytest.raises(BrokenArchive, match="100 times its size"):
        obtain(tmp_path / "k.tar.gz", workspace, request_for)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    assert sum(path.stat().st_size for path in workspace.work.rglob("*")) <= 64 << 20


def xz_with_a_huge_dictionary(path: Path) -> None:
    with lzma.open(path, "wb", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]) as file:
        file.write(bytes(1024))
    # The dictionary's size is a byte of the block's header, whose checksum follows it.
    content = bytearray(path.read_bytes())
    size = (content[12] + 1) * 4
    assert content[14] == 0x21  # LZMA2
    content[16] = 40  # 4 GiB
    content[12 + size - 4 : 12 + size] = zlib.crc32(content[12 : 12 + size - 4]).to_bytes(
        4, "little"
    )
    path.write_bytes(content)


def test_an_xz_that_demands_gigabytes_is_refused(
    tmp_path: Path, workspace: Workspace, request_for: RequestFor
) -> None:
    xz_with_a_huge_dictionary(tmp_path / "k.tar.xz")
    with pytest.raises(BrokenArchive, match=r"(?i)memory"):
        obtain(tmp_path / "k.tar.xz", workspace, request_for)


def test_an_xz_of_several_streams_is_read_to_its_end(
    tmp_path: Path, workspace: Workspace, request_for: RequestFor
) -> None:
    plain = gzip.decompress(write(tmp_path / "k.tar.gz").read_bytes())
    parts = [lzma.compress(plain[:700]), bytes(8), lzma.compress(plain[700:])]
    (tmp_path / "k.tar.xz").write_bytes(b"".join(parts))
    obtain(tmp_path / "k.tar.xz", workspace, request_for)
    (tmp_path / "cut.tar.xz").write_bytes(b"".join(parts)[:-20])
    with open_workspace(tmp_path / "other") as other, pytest.raises(BrokenArchive):
        obtain(tmp_path / "cut.tar.xz", other, request_for)


def sparse(tar: tarfile.TarFile) -> None:
    """Add a member that is one block in the archive and 8 EiB in a file system."""
    info = tarfile.TarInfo("k/cmd/kubeadm/sparse.go")
    info.size = 512
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": info.name,
        "GNU.sparse.realsize": str((1 << 63) - 1),
    }
    tar.addfile(info, io.BytesIO(b"0\n".ljust(512, b"\0")))


def many_links(tar: tarfile.TarFile) -> None:
    put(tar, "k/cmd/kubeadm/big.go", os.urandom(1 << 20))
    for number in range(10):
        link(tar, f"k/cmd/kubeadm/l{number}.go", "k/cmd/kubeadm/big.go", tarfile.LNKTYPE)


def huge_version(tar: tarfile.TarFile) -> None:
    put(tar, "other/hack/lib/version.sh", bytes(65 << 20))


@pytest.mark.slow
@pytest.mark.parametrize("add", [sparse, many_links, huge_version])
def test_members_larger_than_any_of_kubernetes_are_refused(
    add: Add,
    tmp_path: Path,
    workspace: Workspace,
    request_for: RequestFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if add is many_links:
        monkeypatch.setattr("kbuild.kubeadm.source.archive.MAX_BYTES", 8 << 20)
    path = tmp_path / "k.tar"
    with tarfile.open(path, "w") as tar:
        if add is huge_version:
            add(tar)
        put(tar, f"k/{SCRIPT}", identity("v1.20.2"))
        put(tar, "k/cmd/kubeadm/kubeadm.go", b"package main\n")
        add(tar)
    with pytest.raises((BrokenArchive, UnsafeArchive)):
        obtain(path, workspace, request_for)


def test_more_members_than_any_tree_has_are_refused(
    tmp_path: Path, workspace: Workspace, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.kubeadm.source.archive.MAX_MEMBERS", 10)

    def add(tar: tarfile.TarFile) -> None:
        for number in range(10):
            put(tar, f"k/{number}")

    path = write(tmp_path / "k.tar.gz", add)
    with pytest.raises(BrokenArchive, match="more than 10 members"):
        obtain(path, workspace, request_for)


@pytest.mark.parametrize(
    "name", ["fifo", "fifo.tar.gz", "loop.tar.gz", "x" * 300, "x" * 300 + ".tar"]
)
def test_what_is_no_regular_file_is_not_waited_for(
    name: str, tmp_path: Path, workspace: Workspace, request_for: RequestFor
) -> None:
    (tmp_path / "loop.tar.gz").symlink_to("loop.tar.gz")
    if name.startswith("fifo"):
        os.mkfifo(tmp_path / name)
    with pytest.raises((SourceUnreachable, NotKubernetes)):
        obtain(tmp_path / name, workspace, request_for)


@pytest.mark.slow
@given(where=st.integers(0, 4095), byte=st.integers(0, 255))
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
def test_no_damage_ends_in_a_traceback(
    where: int, byte: int, tmp_path: Path, request_for: RequestFor
) -> None:
    path = tmp_path / "k.tar"
    with tarfile.open(path, "w") as tar:
        put(tar, f"k/{SCRIPT}", identity("v1.20.2"))
        put(tar, "k/cmd/kubeadm/kubeadm.go", b"package main\n")
        link(tar, "k/link", "cmd", tarfile.SYMTYPE)
        link(tar, "k/hard", "k/cmd/kubeadm/kubeadm.go", tarfile.LNKTYPE)
    content = bytearray(path.read_bytes())
    content[where] = byte
    header = content[where // 512 * 512 :][:512]
    if where // 512 != 1:  # a header: its checksum is made right again
        header[148:156] = b" " * 8
        total = f"{sum(header):06o}\0 ".encode()
        content[where // 512 * 512 + 148 : where // 512 * 512 + 156] = total
    path.write_bytes(content)
    with open_workspace(tmp_path / "cache") as workspace:
        try:
            obtain(path, workspace, request_for)
        except KbuildError:
            return
