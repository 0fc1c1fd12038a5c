"""Trees of every era, patched and read back."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from kbuild.base.errors import DiskFull, GitMissing, KbuildError, NotWritable
from kbuild.kubeadm.model import SourceTree
from kbuild.kubeadm.patching import series
from kbuild.kubeadm.patching.apply import leave_stock
from kbuild.kubeadm.patching.errors import LifetimeNotReached, NoPatchFits
from kbuild.kubeadm.patching.gosource import const_value
from kbuild.settings import STORED_DEFAULTS
from tests.support.eras import CERT, CONSTANTS, DEFAULTS, TAGS, make_tree
from tests.support.patching import TOOLCHAIN, YEAR, edit, lifetimes, patch, snapshot

LEAF, CA = "CertificateValidityPeriod", "CACertificateValidityPeriod"
YEARS = st.integers(min_value=1, max_value=292)


def git(folder: Path, *args: str, text: str = "") -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CEILING_DIRECTORIES": "/"}
    command = ("git", "-C", str(folder), *args)
    return subprocess.run(
        command, check=True, capture_output=True, text=True, input=text, env=env
    ).stdout


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(("ca", "leaf"), [(100, 10), (1, 1), (10, 1), (292, 292), (292, 1)])
def test_each_era_gets_the_lifetimes_asked_for(
    tmp_path: Path, tag: str, ca: int, leaf: int
) -> None:
    make_tree(tmp_path, tag)
    assert lifetimes(tmp_path, tag) == (10, 1)
    patch(tmp_path, tag, ca, leaf)
    assert lifetimes(tmp_path, tag) == (ca, leaf)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.sampled_from(TAGS), YEARS, YEARS)
def test_any_lifetimes_can_be_had(tag: str, ca: int, leaf: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        make_tree(Path(name), tag)
        patch(Path(name), tag, ca, leaf)
        assert lifetimes(Path(name), tag) == (ca, leaf)


@pytest.mark.parametrize("tag", TAGS)
def test_two_lines_change_and_nothing_else(tmp_path: Path, tag: str) -> None:
    make_tree(tmp_path, tag)
    before = snapshot(tmp_path)
    patch(tmp_path, tag, stored_defaults="keep")
    after = snapshot(tmp_path)
    assert before.keys() == after.keys()
    new = [
        line
        for file in before
        for old, line in zip(before[file].split(b"\n"), after[file].split(b"\n"), strict=True)
        if old != line
    ]
    factors = [re.findall(rb" \* (\d+)(?=\)|$)", line) for line in new]
    assert sorted(factors) == [[b"10"], [b"100"]]


@pytest.mark.slow
@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(("ca", "leaf"), [(100, 10), (10, 2)])
def test_the_diff_applies_to_the_pristine_tree(
    tmp_path: Path, tag: str, ca: int, leaf: int
) -> None:
    make_tree(tmp_path / "one", tag)
    make_tree(tmp_path / "two", tag)
    patched = patch(tmp_path / "one", tag, ca, leaf)
    git(tmp_path / "two", "init", "--quiet")
    git(tmp_path / "two", "apply", "-", text=patched.diff)
    shutil.rmtree(tmp_path / "two/.git")
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


@pytest.mark.parametrize(("ca", "leaf"), [(100, 10), (10, 1), (1, 1), (292, 292)])
def test_a_stored_stock_default_counts_like_an_absent_value(
    tmp_path: Path, ca: int, leaf: int
) -> None:
    make_tree(tmp_path, "v1.33.3")
    before = (tmp_path / DEFAULTS).read_text().splitlines()
    patched = patch(tmp_path, "v1.33.3", ca, leaf)
    after = (tmp_path / DEFAULTS).read_text().splitlines()
    new = [line.strip() for old, line in zip(before, after, strict=True) if old != line]
    conditions = [line.removeprefix("if ").removesuffix(" {").split(" || ") for line in new]
    constants = (tmp_path / CONSTANTS).read_text()
    for condition, name, years in zip(conditions, (LEAF, CA), (1, 10), strict=True):
        absent, stock = condition
        assert absent == f"obj.{name} == nil"
        left, right = stock.split(" == ")
        assert left == f"obj.{name}.Duration"
        expression = right.replace(f"constants.{name}", str(const_value(constants, name)))
        assert re.fullmatch(r"\d+/\d+(\*10)?", expression)
        assert eval(expression) == years * YEAR  # the same in Go: no step has a remainder
    assert patched.stored_defaults == "override"
    assert "uses its own lifetimes" in patched.note


def test_stored_defaults_are_left_alone_where_that_is_asked_for(tmp_path: Path) -> None:
    make_tree(tmp_path, "v1.33.3")
    before = (tmp_path / DEFAULTS).read_text()
    patched = patch(tmp_path, "v1.33.3", stored_defaults="keep")
    assert (tmp_path / DEFAULTS).read_text() == before
    assert [each.name for each in patched.patches] == ["kubeadm-constants.patch"]
    assert patched.stored_defaults == "keep"
    assert "obey it" in patched.note


@pytest.mark.parametrize("tag", [tag for tag in TAGS if Version(tag).minor < 31])
def test_before_1_31_no_defaults_are_stored(tmp_path: Path, tag: str) -> None:
    made = {}
    for choice in STORED_DEFAULTS:
        make_tree(tmp_path / choice, tag)
        made[choice] = patch(tmp_path / choice, tag, stored_defaults=choice)
        assert (made[choice].stored_defaults, made[choice].note) == (None, "")
    assert made["override"].diff == made["keep"].diff
    assert made["override"].patches == made["keep"].patches


def test_a_stock_tree_of_1_31_keeps_stored_defaults(tmp_path: Path) -> None:
    for tag, expected in (("v1.30.14", None), ("v1.31.0", "keep")):
        make_tree(tmp_path / tag, tag)
        tree = SourceTree(path=tmp_path / tag, tag=tag, commit="0" * 40, origin="a test")
        assert leave_stock(tree, TOOLCHAIN).stored_defaults == expected


def test_the_patches_are_told_with_their_digests(tmp_path: Path) -> None:
    make_tree(tmp_path, "v1.33.3")
    applied = patch(tmp_path, "v1.33.3", 7, 3).patches
    assert [each.name for each in applied] == [
        "kubeadm-constants.patch",
        "kubeadm-stored-defaults.patch",
    ]
    folder = Path(__file__).parents[4] / "patches"
    for each in applied:
        text = (folder / each.name).read_text()
        rendered = text.replace("$ca_years", "7").replace("$leaf_years", "3")
        assert each.sha256 == hashlib.sha256(rendered.encode()).hexdigest()


@pytest.mark.parametrize("own", [False, True])
def test_a_repository_around_or_in_the_tree_changes_nothing(
    tmp_path: Path,
    own: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "some/tree"
    make_tree(folder, "v1.20.2")
    home = folder if own else tmp_path
    git(home, "init", "--quiet")
    config = tmp_path / "config"
    for each in (config, home / ".git/config"):  # whoever reads one of them fails
        each.write_text("[a broken line\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", str(home / ".git"))  # as in a git hook
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    patch(folder, "v1.20.2")
    assert lifetimes(folder, "v1.20.2") == (100, 10)
    assert b"\r" not in (folder / CERT).read_bytes()


@pytest.mark.parametrize(
    ("then", "error", "told"),
    [
        ("exit 0", NoPatchFits, r"duration365d \* 100"),
        ("echo 'error: x: No space left on device' >&2; exit 128", DiskFull, "no space is left"),
        ("echo 'error: x: Permission denied' >&2; exit 128", NotWritable, "cannot be used"),
    ],
)
def test_a_git_that_changes_nothing_is_noticed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    then: str,
    error: type[KbuildError],
    told: str,
) -> None:
    make_tree(tmp_path / "tree", "v1.20.2")
    script = tmp_path / "git"
    script.write_text(f'#!/bin/sh\ncase "$*" in *--check*) exit 0;; esac\n{then}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(error, match=told):
        patch(tmp_path / "tree", "v1.20.2")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("now := time.Now()", "const duration365d = 1\n\tnow := x()", "may be declared again"),
        ("func NewSelfSignedCACert", "func Other", "there is no function NewSelfSignedCACert"),
        ("IsCA: ", "NotAfter: now, IsCA: ", "more than one NotAfter"),
    ],
)
def test_a_lifetime_that_cannot_be_read_back_is_an_error(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    make_tree(tmp_path, "v1.20.2")
    edit(tmp_path, CERT, old, new)
    with pytest.raises(LifetimeNotReached, match=told) as caught:
        patch(tmp_path, "v1.20.2")
    assert "not 100 years" in str(caught.value)
    assert CERT in str(caught.value)


def test_a_lifetime_that_is_off_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "tree", "v1.33.3")
    shutil.copytree(series.patches_folder(), tmp_path / "patches")
    edit(tmp_path, "patches/kubeadm-constants.patch", "365 * $ca_years", "364 * $ca_years")
    monkeypatch.setattr(series, "patches_folder", lambda: tmp_path / "patches")
    with pytest.raises(LifetimeNotReached, match="is 36400 days, not 100 years"):
        patch(tmp_path / "tree", "v1.33.3")


@pytest.mark.slow
def test_a_machine_without_git_is_told(tmp_path: Path) -> None:
    make_tree(tmp_path, "v1.20.2")
    script = (
        "import sys; from pathlib import Path; from kbuild.base.errors import GitMissing\n"
        "from kbuild.kubeadm.model import *; from kbuild.kubeadm.patching.apply import patch_tree\n"
        "tree = SourceTree(path=Path(sys.argv[1]), tag='v1.20.2', commit='0', origin='x')\n"
        "try:\n    patch_tree(tree, None, Lifetimes(ca_years=1, leaf_years=1), 'keep')\n"
        "except GitMissing as error:\n    print(error)\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", script, str(tmp_path)),
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[4],
        env={"PATH": "/nonexistent"},
    )  # fmt: skip
    assert done.stdout.strip() == GitMissing().happened
