import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.kubeadm.compile.recipe import TREE, go_command, recipe_for, recipes, stamp_fields
from kbuild.kubeadm.model import GoPin, Lifetimes, PatchedTree, SourceTree, Stamp, Toolchain

COMMIT = "faecb196815e248d3ecfb03c680a4507229c2a56"
LIFETIMES = Lifetimes(ca_years=100, leaf_years=10)


STAMP = Stamp(build_date=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), tree_state="dirty")


def tree_of(tag: str, path: Path, *, workspace: bool = False) -> PatchedTree:
    if workspace:
        (path / "go.work").write_text("go 1.22\n")
    source = SourceTree(path=path, tag=tag, commit=COMMIT, origin="git://x")
    toolchain = Toolchain(
        builder="local", pin=GoPin(version="1.15.5", files=()), go_version="1.15.5"
    )
    return PatchedTree(source=source, toolchain=toolchain, lifetimes=LIFETIMES, patches=(), diff="")


def flag(tree: PatchedTree, name: str) -> str | None:
    arguments = go_command(tree, "arm64", STAMP).arguments
    return next((a.partition("=")[2] for a in arguments if a.partition("=")[0] == name), None)


@pytest.mark.parametrize(
    ("tag", "module", "trim", "tags"),
    [
        ("v1.13.7", "off", " -trimpath=/go/src/k8s.io/kubernetes", None),
        ("v1.18.9", "off", " -trimpath=/go/src/k8s.io/kubernetes", "selinux"),
        ("v1.20.2", "off", " -trimpath=/go/src/k8s.io/kubernetes", "selinux,notest"),
        ("v1.24.1", "off", f"all=-trimpath={TREE} ", "selinux,notest"),
        ("v1.28.3", "on", f"all=-trimpath={TREE} ", "selinux,notest"),
    ],
)
def test_flags_follow_the_era(
    tag: str, module: str, trim: str, tags: str | None, tmp_path: Path
) -> None:
    tree = tree_of(tag, tmp_path)
    assert go_command(tree, "arm64", STAMP).environment["GO111MODULE"] == module
    assert flag(tree, "-gcflags") == trim
    assert flag(tree, "-asmflags") == trim.strip()
    assert flag(tree, "-tags") == tags
    assert flag(tree, "-mod") == ("vendor" if module == "on" else None)


def test_a_workspace_is_built_with_trimpath(tmp_path: Path) -> None:
    tree = tree_of("v1.33.3", tmp_path, workspace=True)
    assert "-trimpath" in go_command(tree, "amd64", STAMP).arguments
    assert flag(tree, "-gcflags") is None
    assert str(flag(tree, "-ldflags")).startswith("all=-X 'k8s.io/client-go/pkg/version.")


def test_a_tree_without_go_work_is_never_built_as_a_workspace(tmp_path: Path) -> None:
    assert recipe_for(tree_of("v1.30.0-alpha.1", tmp_path).source).mode == "module"


def test_a_tree_newer_than_all_takes_the_newest_recipe(tmp_path: Path) -> None:
    source = tree_of("v2.0.0", tmp_path, workspace=True).source
    assert recipe_for(source) == recipes()[-1]


@pytest.mark.parametrize("minor", range(13, 40))
def test_every_minor_has_one_recipe_for_either_kind_of_tree(minor: int) -> None:
    version = Version(f"1.{minor}.3")
    fits = [r for r in recipes() if SpecifierSet(r.versions).contains(version)]
    modes = [recipe.mode == "workspace" for recipe in fits]
    assert len(set(modes)) == len(modes) >= 1


def test_the_stamp_is_the_tag_itself_and_the_clock_of_the_request(tmp_path: Path) -> None:
    tree = tree_of("v1.20.2", tmp_path)
    assert stamp_fields(tree.source, STAMP) == {
        "buildDate": "2026-01-02T03:04:05Z",
        "gitCommit": COMMIT,
        "gitTreeState": "dirty",
        "gitVersion": "v1.20.2",
        "gitMajor": "1",
        "gitMinor": "20",
    }
    words = shlex.split(str(flag(tree, "-ldflags")))
    assert "k8s.io/kubernetes/vendor/k8s.io/component-base/version.gitVersion=v1.20.2" in words
    assert words[:3] == ["-s", "-w", "-buildid="]


def test_the_go_of_the_environment_has_no_say(tmp_path: Path) -> None:
    environment = go_command(tree_of("v1.20.2", tmp_path), "s390x", STAMP).environment
    assert environment["GOARCH"] == "s390x"
    assert environment["CGO_ENABLED"] == "0"
    assert environment["GOTOOLCHAIN"] == "local"
    assert environment["GOPROXY"] == "off"
