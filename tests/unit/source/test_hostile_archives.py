import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kbuild.errors import BrokenArchive, KbuildError, SourceChecksumMismatch, SourceUnreachable
from kbuild.source import fetch, resolve
from kbuild.source.archive import is_archive
from kbuild.workspace import Workspace, open_workspace
from tests.support.recorder import Recorder
from tests.unit.source.conftest import RequestFor

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
        lambda tar: link(tar, "k/hard", "k/absent", tarfile.LNKTYPE),
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
    with pytest.raises(BrokenArchive):
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


@given(where=st.integers(0, 4095), byte=st.integers(0, 255))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
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
