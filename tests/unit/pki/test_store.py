"""What a killed run leaves, and how the next one goes on: also in a copy, or after a move."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kbuild.pki.api import Renewal, plan_of
from tests.support.command import Done, run_here
from tests.unit.pki.conftest import KEY, REQUESTS, Recipe, facts, issue, snapshot
from tests.unit.pki.test_rotating import public

NODES = """\
key = "ecdsa-p256"
components = ["etcd"]
ca-keys = "usb/keys"
[nodes.m1]
addresses = ["192.0.2.11"]
roles = ["etcd"]
"""


class Killed(BaseException):
    """What stands for a kill: nothing of kbuild handles it."""


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    """Return what renews all keys of a directory, and is killed at a move."""

    def kill(folder: Path, number: int) -> None:
        left, replace = [number], Path.replace

        def dying(path: Path, target: Path) -> Path:
            left[0] -= 1
            if not left[0]:
                raise Killed
            return replace(path, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", dying)
            with pytest.raises(Killed):
                issue(folder, datetime.now(UTC), Renewal(new_keys=True), cap=True)

    return kill


@pytest.fixture
def several(recipe: Recipe) -> Path:
    """Return a directory with two CAs, and all certificates."""
    recipe.request("etcd-ca", {"CN": "etcd", "key": KEY, "ca": {"expiry": "87600h"}})
    recipe.change("ca", ca={"expiry": "87600h"})
    words = ("--signer", "server=etcd-ca", "--signer", "client=ca")
    assert pki("issue", recipe.folder, *words).returncode == 0
    return recipe.folder


def pki(command: str, folder: Path, *words: str) -> Done:
    profiles = ("--profile", "server=server", "--profile", "client=client")
    given = () if (folder / "pki.toml").exists() else profiles
    return run_here("pki", command, *words, "--dir", folder, *given, "-q")


def assert_pairs(folder: Path, names: tuple[str, ...] = ("server", "client")) -> None:
    for name in names:
        assert public(folder / f"{name}-key.pem") == facts(folder / f"{name}.pem").public_key
    assert not list(folder.rglob(".*.kbuild-new-*"))
    assert not (folder / ".kbuild-pki/journal.json").exists()


def assert_refused(done: Done, *said: str) -> None:
    assert (done.returncode, "error[bad-pki-file]" in done.stderr) == (2, True), done.stderr
    for each in said:
        assert each in done.stderr


# --- several CAs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("issue", ()),
        ("renew", ("client",)),
        ("add-host", ("n2", "192.0.2.2")),
        ("extend-ca", ()),
        ("rotate-ca", ("--step", "begin")),
    ],
)
def test_each_command_finishes_a_killed_run_of_several_cas(
    several: Path, killed_at: Callable[[Path, int], None], command: str, words: tuple[str, ...]
) -> None:
    killed_at(several, 2)
    assert public(several / "client-key.pem") != facts(several / "client.pem").public_key
    for path in several.glob("*ca-csr.json"):  # else there is nothing to extend today
        path.write_text(path.read_text().replace("87600h", "96360h"))
    done = pki(command, several, *words)
    assert done.returncode == 0, done.stderr
    assert_pairs(several)


@pytest.mark.parametrize("command", ["plan", "check", "rotate-ca"])
def test_what_only_looks_names_the_command_that_finishes(
    several: Path, killed_at: Callable[[Path, int], None], command: str
) -> None:
    killed_at(several, 2)
    before = snapshot(several)
    assert_refused(pki(command, several), "was killed", "`kbuild pki issue` finishes it")
    assert snapshot(several) == before
    assert pki("issue", several).returncode == 0
    assert "killed" not in pki(command, several).stderr


def test_components_tells_of_a_killed_run(
    several: Path, killed_at: Callable[[Path, int], None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    words = ("--version", "v1.20.2", "--output", str(tmp_path_factory.mktemp("out") / "made"))
    killed_at(several, 2)
    done = pki("components", several, *words)
    assert_refused(done, "was killed", "`kbuild pki issue` finishes it")
    assert pki("issue", several).returncode == 0
    killed_at(several, 1)
    assert "`kbuild pki issue` finishes it" in pki("components", several, *words).stdout
    assert pki("issue", several).returncode == 0
    assert "killed" not in pki("components", several, *words, "--force").stdout


def test_a_check_of_whole_pairs_tells_of_a_killed_run(
    several: Path, killed_at: Callable[[Path, int], None]
) -> None:
    killed_at(several, 1)
    assert "`kbuild pki issue` finishes it" in pki("check", several).stdout
    assert "`kbuild pki issue` finishes it" in pki("plan", several).stdout


def test_nothing_is_made_in_a_directory_without_a_plan(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert pki("issue", folder).returncode == 2
    assert list(tmp_path.iterdir()) == []


# --- moved and copied -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_directory_that_was_moved_is_finished(
    several: Path, tmp_path: Path, killed_at: Callable[[Path, int], None], number: int
) -> None:
    killed_at(several, number)
    moved = several.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    done = pki("issue", moved)
    assert done.returncode == 0, done.stderr
    assert_pairs(moved)


def test_a_copy_is_finished_and_the_original_stays(
    several: Path, tmp_path: Path, killed_at: Callable[[Path, int], None]
) -> None:
    killed_at(several, 2)
    copy = tmp_path.with_name(f"{tmp_path.name}-copy")
    shutil.copytree(several, copy, symlinks=True)
    before = snapshot(several)
    assert pki("issue", copy).returncode == 0
    assert_pairs(copy)
    assert snapshot(several) == before
    assert pki("issue", several).returncode == 0
    assert snapshot(several) == snapshot(copy)


@pytest.mark.parametrize("number", [1, 2, 6])
def test_keys_in_another_directory_move_with_the_plan(
    tmp_path: Path, killed_at: Callable[[Path, int], None], number: int
) -> None:
    folder = tmp_path / "one"
    (folder / "usb/keys").mkdir(parents=True)
    (folder / "pki.toml").write_text(NODES)
    killed_at(folder, number)
    moved = folder.rename(tmp_path / "two")
    done = pki("issue", moved)
    assert done.returncode == 0, done.stderr
    plan = plan_of(moved)
    assert plan.key_folders == {moved / "usb/keys"}
    for each in plan.specs:
        assert each.certificate
        assert each.key
        assert public(each.key) == facts(each.certificate).public_key
    assert not list(moved.rglob(".*.kbuild-new-*"))


def test_where_a_link_leads_is_finished_in_the_moved_directory(
    several: Path, tmp_path: Path, killed_at: Callable[[Path, int], None]
) -> None:
    (several / "real").mkdir()
    (several / "client-key.pem").rename(several / "real/key")
    (several / "client-key.pem").symlink_to("real/key")
    killed_at(several, 1)
    moved = several.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert pki("issue", moved).returncode == 0
    assert (moved / "client-key.pem").is_symlink()
    assert_pairs(moved)


@pytest.mark.parametrize("is_changed", [False, True])
def test_what_is_not_there_is_not_passed_over(
    several: Path, killed_at: Callable[[Path, int], None], *, is_changed: bool
) -> None:
    killed_at(several, 2)
    staged = next(several.glob(".client.pem.kbuild-new-*"))
    content = staged.read_bytes()
    if is_changed:
        staged.write_bytes(content[:-9])
    else:
        staged.unlink()
    before = snapshot(several)
    assert_refused(pki("issue", several), "client.pem", "generations", "Put the")
    assert snapshot(several) == before
    staged.write_bytes(content)
    assert pki("issue", several).returncode == 0
    assert_pairs(several)


def test_a_key_directory_that_is_no_longer_planned_is_told(
    tmp_path: Path, killed_at: Callable[[Path, int], None]
) -> None:
    (tmp_path / "pki.toml").write_text(NODES)
    killed_at(tmp_path, 1)
    (tmp_path / "pki.toml").write_text(NODES.replace('ca-keys = "usb/keys"\n', ""))
    assert_refused(pki("issue", tmp_path), "ca-keys")
    (tmp_path / "pki.toml").write_text(NODES)
    assert pki("issue", tmp_path).returncode == 0


def test_a_journal_that_was_not_synced_is_taken_back(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(recipe.folder)
    before = snapshot(recipe.folder)
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        made = rename(path, target)
        if target.name == "journal.json":
            raise OSError(28, "No space left on device")
        return made

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        done = pki("renew", recipe.folder, "--new-keys", "--cap")
    assert "error[disk-full]" in done.stderr
    assert snapshot(recipe.folder) == before
    assert pki("issue", recipe.folder).returncode == 0
    assert snapshot(recipe.folder) == before


# --- damaged --------------------------------------------------------------------------------------

GOOD: list[Any] = [0, "a.pem", ".a.pem.kbuild-new-0123456789ab", "0" * 64]


def _damaged() -> list[str]:
    entries: list[Any] = [
        ["/a/.x.kbuild-new-0123456789ab", "/a/x"],
        [9, *GOOD[1:]],
        [[], *GOOD[1:]],
        [0, 5, *GOOD[2:]],
        [0, "a\0b", *GOOD[2:]],
        [*GOOD[:2], "../../a", GOOD[3]],
        [*GOOD[:2], "x/.a.kbuild-new-0123456789ab", GOOD[3]],
        [*GOOD[:3], ""],
        [*GOOD[:3], 7],
        {"a": 1},
        5,
    ]
    texts = ["", "x", '{"a":1}', "5", "null", "[" * 100, '"abc"', "\x00"]
    return [*texts, *(json.dumps([each]) for each in entries)]


@pytest.mark.parametrize("content", _damaged())
def test_a_damaged_journal_is_told_and_kept(recipe: Recipe, content: str) -> None:
    (recipe.folder / ".kbuild-pki").mkdir()
    journal = recipe.folder / ".kbuild-pki/journal.json"
    journal.write_text(content)
    assert_refused(pki("issue", recipe.folder), "journal.json", "move the journal elsewhere")
    assert journal.read_text() == content
    assert not (recipe.folder / "ca.pem").exists()


def test_a_journal_that_is_a_directory_is_told(recipe: Recipe) -> None:
    (recipe.folder / ".kbuild-pki/journal.json").mkdir(parents=True)
    assert_refused(pki("issue", recipe.folder), "it is a directory")


def test_a_directory_named_like_a_new_file_is_left_alone(recipe: Recipe) -> None:
    folder = recipe.folder / ".x.kbuild-new-0123456789ab"
    folder.mkdir()
    file = recipe.folder / ".y.kbuild-new-0123456789ab"
    file.write_text("left by a killed run")
    done = pki("issue", recipe.folder)
    assert done.returncode == 0, done.stderr
    assert folder.is_dir()
    assert not file.exists()
    assert set(REQUESTS) == {each.stem for each in recipe.folder.glob("*.csr")}


# --- files that cannot be replaced ----------------------------------------------------------------


def test_a_mount_point_is_told_before_anything_changes(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(recipe.folder)
    before = snapshot(recipe.folder)
    mounted = {str(recipe.folder / "server.pem")}
    with monkeypatch.context() as patched:
        patched.setattr("kbuild.pki.store.mount_points", lambda: mounted)
        done = pki("renew", recipe.folder)
    assert done.returncode == 80
    assert "server.pem cannot be replaced: it is a mount point" in done.stderr
    assert "nothing was changed" in done.stderr
    assert snapshot(recipe.folder) == before
    assert pki("renew", recipe.folder).returncode == 0


@pytest.mark.parametrize("error", [errno.EBUSY, errno.EPERM])
def test_a_file_that_stops_a_run_in_the_middle_is_told_and_the_next_run_goes_on(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Such as one that was mounted meanwhile, or whose file system has rules of its own."""
    issue(recipe.folder)
    replace = Path.replace

    def refused(path: Path, target: Path) -> Path:
        if Path(target).name == "server.pem":
            raise OSError(error, os.strerror(error), str(target))
        return replace(path, target)

    for _ in range(2):  # the same as long as the file cannot be replaced
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", refused)
            done = pki("renew", recipe.folder, "--new-keys")
        assert done.returncode == 80
        assert f"server.pem cannot be replaced: {os.strerror(error)}" in done.stderr
        assert "the next `kbuild pki issue` finishes what this run began" in done.stderr
    assert pki("issue", recipe.folder).returncode == 0
    assert_pairs(recipe.folder)


@pytest.mark.root
@pytest.mark.slow
def test_a_real_mount_point_and_an_immutable_file_are_told(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    recipe = Recipe(tmp_path_factory.mktemp("with a blank"))
    issue(recipe.folder)
    server = recipe.folder / "server.pem"
    other = tmp_path_factory.mktemp("other") / "server.pem"
    shutil.copy(server, other)
    if run("mount", "--bind", str(other), str(server)):
        try:
            assert "it is a mount point" in pki("renew", recipe.folder).stderr
        finally:
            run("umount", str(server))
    if run("chattr", "+i", str(server)):
        try:
            assert "it is immutable" in pki("renew", recipe.folder).stderr
        finally:
            run("chattr", "-i", str(server))
    assert pki("renew", recipe.folder).returncode == 0


def run(*words: str) -> bool:
    """Tell whether a command has succeeded: a container may forbid it, or a file system lack it."""
    return subprocess.run(words, check=False, capture_output=True).returncode == 0
