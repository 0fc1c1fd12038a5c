"""The trees that other tests rely on hold what their era's trees hold."""

import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from kbuild.kubeadm.patching.goconst import GoSourceError
from kbuild.kubeadm.patching.gosource import const_value
from tests.support.eras import CLIENT_GO, TAGS, go_pin, make_tree


@pytest.mark.slow
@pytest.mark.parametrize("tag", TAGS)
def test_the_go_files_parse(tmp_path: Path, tag: str) -> None:
    make_tree(tmp_path, tag)
    files = [path for path in tmp_path.rglob("*.go") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        with pytest.raises(GoSourceError, match="NoSuchName is not declared"):
            const_value(path.read_text(), "NoSuchName")


@pytest.mark.parametrize("tag", TAGS)
def test_client_go_is_a_link_or_a_workspace_module(tmp_path: Path, tag: str) -> None:
    make_tree(tmp_path, tag)
    assert (tmp_path / CLIENT_GO / "util/cert/cert.go").is_file() == (Version(tag).minor < 30)
    assert (tmp_path / "go.work").is_file() == (Version(tag).minor >= 30)


@pytest.mark.parametrize("tag", TAGS)
def test_every_pin_names_the_same_go(tmp_path: Path, tag: str) -> None:
    make_tree(tmp_path, tag)
    names = ("build/build-image/cross/VERSION", "build/dependencies.yaml", ".go-version")
    pins = [tmp_path / name for name in names if (tmp_path / name).exists()]
    said = [path.name for path in pins if go_pin(tag) in path.read_text()]
    assert said == {
        13: ["VERSION"], 14: ["VERSION"], 15: ["VERSION"], 16: ["VERSION"],
        20: ["VERSION", "dependencies.yaml"], 21: ["VERSION", "dependencies.yaml"],
    }.get(Version(tag).minor, [Path(name).name for name in names])  # fmt: skip


def test_git_archive_fills_in_the_tag(tmp_path: Path) -> None:
    make_tree(tmp_path, "v1.20.2")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for args in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "x"), ("tag", "v1.20.2")):
        subprocess.run(("git", "-C", str(tmp_path), *args), check=True)
    archive = ("git", "-C", str(tmp_path), "archive", "v1.20.2", "hack/lib/version.sh")
    packed = subprocess.run(archive, check=True, capture_output=True).stdout
    assert b"tag: v1.20.2" in packed
    assert b"Format" not in packed
