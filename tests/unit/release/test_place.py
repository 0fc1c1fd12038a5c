"""The output folder: what of others is in it, beside it or on its way there is never lost."""

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kbuild.base import disk
from kbuild.base.errors import BadSetting, NotWritable, OutputExists, OutputNotReplaceable
from kbuild.base.workspace import Workspace, open_workspace
from kbuild.kubeadm.model import Binary, BuildRequest
from kbuild.release.check import check_folder
from kbuild.release.errors import OutputBusy
from kbuild.release.place import why_no_release
from kbuild.release.writer import publish, reserve
from tests.support.killed import killed_at_rename
from tests.support.opened import when_opened
from tests.support.recorder import Recorder
from tests.support.releases import (
    TAG,
    documents,
    make_binaries,
    make_proven,
    make_release,
    make_request,
)
from tests.support.trees import content_of

ROOT = Path(__file__).parents[3]
REQUEST = make_request()
FORCED = make_request(force=True)


@pytest.fixture
def binaries(tmp_path: Path) -> tuple[Binary, ...]:
    return make_binaries(tmp_path)


@pytest.fixture
def out(tmp_path: Path, binaries: tuple[Binary, ...]) -> Path:
    """Give a release in a folder that holds nothing else."""
    folder = tmp_path / "dist/out"
    publish(make_proven(binaries), REQUEST, folder, {}, Recorder())
    return folder


def put(
    binaries: tuple[Binary, ...], request: BuildRequest, folder: Path, workspace: Workspace
) -> None:
    """Reserve and publish, as a run does."""
    with reserve(folder, request, TAG, workspace):
        publish(make_proven(binaries), request, folder, {}, Recorder())


def demand_whole(folder: Path) -> None:
    [checked] = check_folder(folder)
    assert checked.problems == ()


def _git_project(out: Path) -> None:
    shutil.rmtree(out)
    subprocess.run(["git", "init", "-q", out], check=True)
    (out / "build.json").write_text("{}")
    (out / "main.go").write_text("package main")


def _only_documents(out: Path) -> None:
    for path in out.iterdir():
        if path.name not in ("build.json", "provenance.json"):
            path.unlink()


def _repository(out: Path) -> None:
    (out / ".git").mkdir()


def _stray_file(out: Path) -> None:
    (out / "notes.txt").write_text("mine")


def _stray_folder(out: Path) -> None:
    (out / "src").mkdir()
    (out / "src/main.go").write_text("package main")


def _folder_for_a_file(out: Path) -> None:
    (out / "proof.json").unlink()
    (out / "proof.json").mkdir()


def _link_for_a_file(out: Path) -> None:
    (out / "proof.json").rename(out.parent / "proof.json")
    (out / "proof.json").symlink_to(out.parent / "proof.json")


def _pipe_for_a_file(out: Path) -> None:
    (out / "SHA256SUMS").unlink()
    os.mkfifo(out / "SHA256SUMS")


def _other_sums(out: Path) -> None:
    with (out / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  thesis\n")
    (out / "thesis").write_text("mine")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        *(_git_project, _only_documents, _repository, _stray_file, _stray_folder),
        *(_folder_for_a_file, _link_for_a_file, _pipe_for_a_file, _other_sums),
    ],
)
def test_force_replaces_nothing_but_a_release(
    change: Callable[[Path], None], out: Path, workspace: Workspace
) -> None:
    change(out)
    before = [path.name for path in out.iterdir()]
    with pytest.raises(OutputNotReplaceable, match="does not replace"):
        reserve(out, FORCED, TAG, workspace).__enter__()
    assert [path.name for path in out.iterdir()] == before
    assert [path.name for path in out.parent.iterdir() if path != out] in ([], ["proof.json"])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["flat", "tree"])
def test_force_replaces_a_signed_release(
    layout: str, binaries: tuple[Binary, ...], tmp_path: Path, workspace: Workspace
) -> None:
    out = make_release(tmp_path / "work", tmp_path / "out", layout=layout)
    for name in ("SHA256SUMS.sigstore.json", "provenance.sigstore.json", "cosign.pub"):
        (out / name).write_text("old")
    put(binaries, FORCED, out, workspace)
    demand_whole(out)
    assert not (out / "cosign.pub").exists()
    assert not (out / "bin").exists()


def test_a_stray_below_a_folder_of_the_layout_tree_is_found(
    tmp_path: Path, workspace: Workspace
) -> None:
    out = make_release(tmp_path / "work", tmp_path / "out", layout="tree")
    (out / "bin/linux/amd64/mine").write_text("mine")
    with (
        pytest.raises(OutputNotReplaceable, match="bin/linux/amd64/mine"),
        reserve(out, FORCED, TAG, workspace),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("what", ["current", "home"])
@pytest.mark.parametrize("inside", [".", "bin/linux"])
def test_force_replaces_neither_the_current_nor_the_home_folder_nor_one_above(
    what: str, inside: str, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make_release(tmp_path / "work", tmp_path / "out", layout="tree")
    before = content_of(out)
    if what == "current":
        monkeypatch.chdir(out / inside)
    else:
        monkeypatch.setenv("HOME", str(out / inside))
    with (
        pytest.raises(OutputNotReplaceable, match=f"{what} directory"),
        reserve(out, FORCED, TAG, workspace),
    ):
        pass
    assert content_of(out) == before


def test_what_somebody_adds_during_the_build_is_not_replaced(
    binaries: tuple[Binary, ...], out: Path, workspace: Workspace
) -> None:
    with (
        pytest.raises(OutputNotReplaceable, match=r"notes\.txt"),
        reserve(out, FORCED, TAG, workspace),
    ):
        (out / "notes.txt").write_text("mine")
        publish(make_proven(binaries), FORCED, out, {}, Recorder())
    assert (out / "notes.txt").read_text() == "mine"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("exists", [True, False])
def test_what_somebody_adds_while_files_are_written_is_not_replaced(
    exists: bool,
    binaries: tuple[Binary, ...],
    tmp_path: Path,
    workspace: Workspace,
) -> None:
    out = tmp_path / "out"
    if exists:
        out.mkdir()

    def add(name: str) -> None:
        if name == "SHA512SUMS":  # which is written last
            out.mkdir(exist_ok=True)
            (out / "kubeadm.patch").write_text("mine")

    with when_opened(add), pytest.raises(OutputExists):
        put(binaries, REQUEST, out, workspace)
    assert content_of(out) == {"kubeadm.patch": b"mine"}
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
def test_a_kill_while_a_release_is_replaced_loses_none(
    exchanges: bool,
    binaries: tuple[Binary, ...],
    out: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not exchanges:
        monkeypatch.setattr("ctypes.CDLL", lambda _: object())  # without renameat2
    (out / "cosign.pub").write_text("old")
    number = 1
    while killed_at_rename(number, lambda folder: put(binaries, FORCED, folder, workspace), out):
        # Without --force the next run must not replace what the killed one had moved away.
        other = replace(REQUEST, tree_state="clean")
        with pytest.raises(OutputExists), reserve(out, other, TAG, workspace):
            pass
        demand_whole_and_alone(out)
        assert (out / "cosign.pub").read_text() == "old"
        number += 1
    assert number == (1 if exchanges else 3)
    demand_whole_and_alone(out)
    assert not (out / "cosign.pub").exists()


def demand_whole_and_alone(out: Path) -> None:
    assert why_no_release(out) is None
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.slow
def test_what_an_exchange_left_is_removed_by_the_next_run(
    binaries: tuple[Binary, ...],
    out: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def put_and_die(folder: Path) -> None:
        monkeypatch.setattr(disk, "remove", lambda _: folder.rename(folder))
        put(binaries, FORCED, folder, workspace)

    (out / "cosign.pub").write_text("old")
    assert killed_at_rename(1, put_and_die, out)
    assert not (out / "cosign.pub").exists()
    demand_whole(out)
    with reserve(out, REQUEST, TAG, workspace):
        pass
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["absent", "empty", "current"])
def test_a_run_that_is_killed_while_it_publishes_can_be_repeated(
    kind: str,
    binaries: tuple[Binary, ...],
    tmp_path: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "dist/out"
    folder = out
    if kind != "absent":
        out.mkdir(parents=True)
    if kind == "current":
        monkeypatch.chdir(out)
        folder = Path()
    number = 1
    while killed_at_rename(number, lambda path: put(binaries, REQUEST, path, workspace), folder):
        left = [path.name for path in out.iterdir()] if out.exists() else []
        assert "provenance.json" not in left  # so that it is no release to kbuild check
        with reserve(folder, REQUEST, TAG, workspace):
            assert not out.exists() or list(out.iterdir()) == []
        number += 1
        assert number < 50
    assert number > (1 if kind == "absent" else 10)
    demand_whole(folder)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_files_of_others_among_what_a_killed_run_left_stay(
    binaries: tuple[Binary, ...], tmp_path: Path, workspace: Workspace
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert killed_at_rename(9, lambda path: put(binaries, REQUEST, path, workspace), out)
    (out / "notes.txt").write_text("mine")
    for request in (REQUEST, FORCED):
        with (
            pytest.raises((OutputExists, OutputNotReplaceable)),
            reserve(out, request, TAG, workspace),
        ):
            pass
        assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_failure_while_a_folder_is_filled_leaves_it_empty(
    binaries: tuple[Binary, ...],
    tmp_path: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    real, left = os.rename, [0]

    def rename(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.EIO, "Input/output error", str(source))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    for number in range(1, 18):
        left[0] = number
        with pytest.raises(NotWritable):
            put(binaries, REQUEST, out, workspace)
        assert list(out.iterdir()) == []


def test_an_empty_folder_is_filled_and_stays_the_same_folder(
    binaries: tuple[Binary, ...],
    tmp_path: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o775)
    monkeypatch.chdir(out)
    before = out.stat().st_ino
    put(binaries, REQUEST, Path(), workspace)
    demand_whole(Path())
    assert Path().stat().st_ino == out.stat().st_ino == before
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["[a]", "*", "?", "v1 [x]*", "-", "\N{SNOWMAN}", "x" * 222])
def test_any_name_can_be_made_and_replaced(
    name: str, binaries: tuple[Binary, ...], tmp_path: Path, workspace: Workspace
) -> None:
    (tmp_path / ".x.kbuild-new-0123456789ab").mkdir()
    for request in (REQUEST, FORCED):
        put(binaries, request, tmp_path / name, workspace)
    demand_whole(tmp_path / name)
    assert [path.name for path in tmp_path.glob(".*")] == [".x.kbuild-new-0123456789ab"]


def test_a_name_that_is_too_long_is_told_before_the_work(
    tmp_path: Path, workspace: Workspace
) -> None:
    with (
        pytest.raises(NotWritable, match="too long"),
        reserve(tmp_path / ("x" * 250), REQUEST, TAG, workspace),
    ):
        pass


def test_the_output_and_the_cache_are_apart(tmp_path: Path, workspace: Workspace) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "link").symlink_to(cache)
    inside = (cache, cache / "out", cache / "v1/built/out", tmp_path / "link/out")
    for folder, what in (
        *((each, "inside the cache") for each in inside),
        (tmp_path, "is inside it"),
    ):
        for request in (REQUEST, FORCED):
            with pytest.raises(BadSetting, match=what), reserve(folder, request, TAG, workspace):
                pass
    assert sorted(path.name for path in cache.iterdir()) == ["CACHEDIR.TAG", "v1"]
    with reserve(workspace.work / "release", REQUEST, TAG, workspace):  # of a rebuild
        pass


@pytest.mark.slow
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("way", ["link", "dots", "relative", "current"])
def test_an_output_is_held_whatever_it_is_called_and_whichever_the_cache(
    way: str, exists: bool, tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dist/out"
    out.parent.mkdir()
    if exists:
        out.mkdir()
    (tmp_path / "link").symlink_to(out.parent)
    monkeypatch.chdir(tmp_path)
    other = {
        "link": tmp_path / "link/out",
        "dots": out.parent / "../dist/out",
        "relative": Path("dist/out"),
        "current": Path() if exists else Path("out"),
    }[way]
    with open_workspace(tmp_path / "other-cache") as another, reserve(out, REQUEST, TAG, workspace):
        if way == "current":
            monkeypatch.chdir(out if exists else out.parent)
        with pytest.raises(OutputBusy), reserve(other, REQUEST, TAG, another):
            pass
    with reserve(other, REQUEST, TAG, workspace):
        pass


def test_other_outputs_in_the_same_folder_are_free(tmp_path: Path, workspace: Workspace) -> None:
    with (
        reserve(tmp_path / "dist/one", REQUEST, TAG, workspace),
        reserve(tmp_path / "dist/two", REQUEST, TAG, workspace),
    ):
        pass


def test_holding_an_output_leaves_nothing(tmp_path: Path, workspace: Workspace) -> None:
    (tmp_path / "a").mkdir()
    with reserve(tmp_path / "a/b/c/out", REQUEST, TAG, workspace):
        assert (tmp_path / "a/b/c").is_dir()
    assert list((tmp_path / "a").iterdir()) == []


def test_the_lock_file_of_a_killed_run_holds_nothing(tmp_path: Path, workspace: Workspace) -> None:
    (tmp_path / ".out.kbuild.lock").touch()
    with reserve(tmp_path / "out", REQUEST, TAG, workspace):
        pass
    assert list(tmp_path.glob(".*")) == []


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path, workspace: Workspace) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".out.kbuild.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(NotWritable), reserve(tmp_path / "out", REQUEST, TAG, workspace):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_file_system_without_locks_is_told_before_the_work(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.raises(NotWritable, match="cannot be locked"),
        reserve(tmp_path / "out", REQUEST, TAG, workspace),
    ):
        pass


def _take_turns(folder: Path, workspace: Workspace, times: int) -> None:
    taken = 0
    while taken < times:
        try:
            with reserve(folder / "a/out", REQUEST, TAG, workspace):
                os.close(os.open(folder / "alone", os.O_CREAT | os.O_EXCL))
                (folder / "alone").unlink()
                taken += 1
        except OutputBusy:
            pass


@pytest.mark.slow
def test_many_runs_that_begin_and_end_never_hold_it_at_once(
    tmp_path: Path, workspace: Workspace
) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_take_turns, args=(tmp_path, workspace, 40)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert not any((tmp_path / "a").glob("*"))  # the folder itself may stay


MOUNTED = """
import sys
from dataclasses import replace
from pathlib import Path
from kbuild.base.errors import OutputNotReplaceable
from kbuild.release.writer import publish, reserve
from kbuild.release.check import check_folder
from kbuild.release.place import why_no_release
from kbuild.base.workspace import Workspace
from tests.support.recorder import Recorder
from tests.support.releases import TAG, make_binaries, make_proven, make_request

folder, here = Path(sys.argv[1]), Path(sys.argv[2])
cache = here / "cache/v1"
cache.mkdir(parents=True)
workspace = Workspace(cache=cache, work=cache / "work", run_id="run")
binaries = make_binaries(here)
request = make_request()
with reserve(folder, request, TAG, workspace):
    publish(make_proven(binaries), request, folder, {}, Recorder())
[checked] = check_folder(folder)
assert checked.problems == (), checked.problems
try:
    with reserve(folder, make_request(force=True), TAG, workspace):
        sys.exit("a mount point cannot be replaced")
except OutputNotReplaceable as error:
    print(error)
with reserve(folder, request, TAG, workspace):
    publish(make_proven(binaries, unchanged=True), request, folder, {}, Recorder())
print(sorted(path.name for path in folder.parent.iterdir()))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "mount",
    [
        "mount -t tmpfs none $0",
        "mount --bind $1/volume $0",
        "mount --bind $2 $2 && mount --bind $1/volume $0 && mount -o remount,bind,ro $2",
    ],
    ids=["another file system", "the same file system", "below a read-only folder"],
)
def test_a_mount_point_is_filled_and_not_replaced(mount: str, tmp_path: Path) -> None:
    out, here = tmp_path / "parent/out", tmp_path / "here"
    out.mkdir(parents=True)
    (here / "volume").mkdir(parents=True)
    words = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    paths = (out, here, out.parent)
    probe = subprocess.run(
        [*words, mount, *map(str, paths)], check=False, capture_output=True, text=True
    )
    if probe.returncode != 0:
        pytest.skip(f"no mounts are possible here: {probe.stderr}")
    script = f'{mount} && exec "{sys.executable}" -c "$3" "$0" "$1"'
    done = subprocess.run(
        [*words, script, *map(str, paths), MOUNTED],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "it is a mount point" in done.stdout
    assert "['out']" in done.stdout


def test_the_documents_of_a_release_left_as_it_is_are_the_same(
    binaries: tuple[Binary, ...], out: Path, workspace: Workspace
) -> None:
    before = documents(out)
    with reserve(out, REQUEST, TAG, workspace):
        publish(make_proven(binaries, unchanged=True), REQUEST, out, {}, Recorder())
    assert documents(out) == before
