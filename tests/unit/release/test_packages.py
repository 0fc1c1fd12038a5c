import os
import shutil
import stat
from pathlib import Path

import pytest

from kbuild.base.errors import PackagerFailed, PackagerMissing
from kbuild.kubeadm.model import PackageKind
from kbuild.release.packages import demand_tools, make_package, package_name
from tests.support.releases import make_binaries


@pytest.mark.parametrize(
    ("kind", "tag", "arch", "name"),
    [
        ("deb", "v1.20.2", "amd64", "kubeadm-kbuild_1.20.2_amd64.deb"),
        ("deb", "v1.20.2", "arm", "kubeadm-kbuild_1.20.2_armhf.deb"),
        ("deb", "v1.31.0-rc.1", "ppc64le", "kubeadm-kbuild_1.31.0~rc.1_ppc64el.deb"),
        ("rpm", "v1.20.2", "amd64", "kubeadm-kbuild-1.20.2-1.x86_64.rpm"),
        ("rpm", "v1.31.0-rc.1", "arm64", "kubeadm-kbuild-1.31.0~rc.1-1.aarch64.rpm"),
    ],
)
def test_a_package_is_named_as_its_kind_has_it(
    kind: PackageKind, tag: str, arch: str, name: str
) -> None:
    assert package_name(kind, tag, arch) == name


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_packager_that_is_missing_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    demand_tools(())
    with pytest.raises(PackagerMissing, match="rpmbuild"):
        demand_tools(("rpm",))
    fake(tmp_path, "rpmbuild", "exit 0")
    demand_tools(("rpm",))


@pytest.mark.parametrize(("kind", "tool"), [("deb", "dpkg-deb"), ("rpm", "rpmbuild")])
def test_a_packager_that_fails_is_told_in_its_own_words(
    kind: PackageKind, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, tool, "echo its own words >&2; exit 3")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    binary = make_binaries(tmp_path)[0]
    with pytest.raises(PackagerFailed, match="exit code 3") as caught:
        make_package(kind, binary, tmp_path / "work", tmp_path)
    assert "its own words" in caught.value.details


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="not a Debian machine")
def test_the_same_binary_gives_the_same_deb(tmp_path: Path) -> None:
    binary = make_binaries(tmp_path)[0]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_package("deb", binary, tmp_path / f"work-{name}", tmp_path / name)
    name = "kubeadm-kbuild_1.20.2_amd64.deb"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
