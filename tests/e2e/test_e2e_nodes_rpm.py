"""`kbuild nodes install` where an rpm owns kubeadm, with a real rpm and dnf, and a repository."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbuild.nodes.connection import prepare
from tests.support.command import Done, run_here
from tests.support.node import Node, running_node
from tests.support.runnable import make_runnable_release

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
]
STOCK, UPDATE = "v1.20.0", "v1.20.15"
SPEC = """\
Name: kubeadm
Version: {version}
Release: 0
Summary: the stock one
License: Apache-2.0
AutoReqProv: no
%description
The stock one.
%install
mkdir -p %{{buildroot}}/usr/bin
printf '#!/bin/sh\\necho v{version}\\n' >%{{buildroot}}/usr/bin/kubeadm
%files
%attr(0755, root, root) /usr/bin/kubeadm
"""
# Debian's rpm keeps its database below $HOME, and its dnf a repository of its own.
MOUNTS = """\
for each in /etc /usr/bin /usr/lib/systemd; do
  mkdir -p /run/up$each /run/work$each
done
mkdir -p /run/up/etc/rpm /run/up/etc/yum.repos.d /run/up/etc/dnf/plugins /var/lib/rpm /var/cache
cp /etc/passwd /run/up/etc/passwd
echo '%_dbpath /var/lib/rpm' >/run/up/etc/rpm/macros.dbpath
echo '[main]' >/run/up/etc/dnf/dnf.conf
cp /etc/dnf/plugins/versionlock.conf /run/up/etc/dnf/plugins/
: >/run/up/etc/dnf/plugins/versionlock.list
mknod /run/up/etc/dnf/plugins/local.conf c 0 0
cp {repository}/kubernetes.repo /run/up/etc/yum.repos.d/
for each in /etc /usr/bin /usr/lib/systemd; do
  mount -t overlay -o lowerdir=$each,upperdir=/run/up$each,workdir=/run/work$each over $each
done
mount -t tmpfs cache /var/cache
"""
Kbuild = Callable[..., Done]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prepare()
    folder = tmp_path_factory.mktemp("release")
    return make_runnable_release(folder / "work", folder / "v1.20.2", package=("rpm",))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a repository with two stock kubeadms, as their vendor does."""
    folder = tmp_path_factory.mktemp("repository")
    for tag in (STOCK, UPDATE):
        (folder / "spec").write_text(SPEC.format(version=tag.removeprefix("v")))
        where = ("--define", f"_topdir {folder}/top", "--define", f"_rpmdir {folder}/rpms")
        run("rpmbuild", "-bb", "--quiet", *where, folder / "spec")
    run("createrepo_c", "--quiet", folder / "rpms")
    (folder / "kubernetes.repo").write_text(
        f"[kubernetes]\nname=Kubernetes\nbaseurl=file://{folder}/rpms\nenabled=1\ngpgcheck=0\n"
    )
    return folder


@pytest.fixture
def node(tmp_path: Path, repository: Path) -> Iterator[Node]:
    mounts = MOUNTS.format(repository=repository)
    with running_node(tmp_path / "node", b"", mounts=mounts, run_options="size=256m") as made:
        made.kubeadm.unlink()
        made.run(f"rpm --install {repository}/rpms/*/kubeadm-{STOCK.removeprefix('v')}-0.*.rpm")
        assert says(made) == STOCK
        yield made


@pytest.fixture
def kbuild(tmp_path: Path) -> Kbuild:
    def run(*words: object) -> Done:
        return run_here("nodes", *words, cwd=tmp_path, HOME=str(tmp_path))

    return run


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def dnf(node: Node, words: str) -> str:
    return node.run(f"cd /; dnf -y --releasever 1 --setopt metadata_expire=0 {words} 2>&1")


def says(node: Node) -> str:
    return node.run("/usr/bin/kubeadm version -o short").strip()


def options(node: Node) -> tuple[str | Path, ...]:
    return tuple("/usr/bin/kubeadm" if "/kubeadm" in str(o) else o for o in node.options)


def install(kbuild: Kbuild, release: Path, node: Node, *more: str) -> tuple[str, str]:
    """Install, and return the state of the host, and what was said of it."""
    done = kbuild("install", release, *options(node), "--yes", "--json", *more)
    return json.loads(done.stdout)["hosts"][0]["state"], done.stderr


def rolled_back(kbuild: Kbuild, node: Node) -> bool:
    return kbuild("rollback", *options(node), "--yes").returncode == 0


def locked(node: Node) -> list[str]:
    return dnf(node, "-q --disablerepo '*' versionlock list").split()


def test_dnf_brings_a_stock_kubeadm_back_as_kbuild_says(
    node: Node, release: Path, kbuild: Kbuild
) -> None:
    state, said = install(kbuild, release, node)
    assert (state, says(node)) == ("changed", "v1.20.2"), said
    assert "yum or dnf may bring back the old kubeadm: kubeadm owns the file" in said
    dnf(node, "upgrade")
    assert says(node) == UPDATE
    assert rolled_back(kbuild, node)
    assert says(node) == STOCK


def test_a_package_is_held_though_a_repository_cannot_be_reached(
    node: Node, release: Path, kbuild: Kbuild
) -> None:
    dead = "/etc/yum.repos.d/dead.repo"
    lines = ("[dead]", "name=dead", "baseurl=http://127.0.0.1:1/", "skip_if_unavailable=0")
    node.run(f"printf '%s\\n' {' '.join(lines)} >{dead}")
    state, said = install(kbuild, release, node, "--hold")
    assert state == "changed", said
    assert "owns the file" not in said
    node.run(f"rm {dead}")
    assert locked(node) == ["kubeadm-0:1.20.0-0.*"]
    dnf(node, "upgrade")
    assert says(node) == "v1.20.2"
    assert install(kbuild, release, node, "--hold")[0] == "unchanged"
    assert rolled_back(kbuild, node)
    assert says(node) == STOCK
    assert locked(node) == ["kubeadm-0:1.20.0-0.*"]  # which is not undone
    state, said = install(kbuild, release, node)
    assert (state, "owns the file" in said) == ("changed", False), said


def test_a_package_that_cannot_be_held_leaves_everything_as_it_was(
    node: Node, release: Path, kbuild: Kbuild
) -> None:
    node.run("cd /etc/dnf/plugins; rm versionlock.list; mkdir versionlock.list")
    state, said = install(kbuild, release, node, "--hold")
    assert (state, says(node)) == ("undone", STOCK), said
    assert "undone in the step hold: the package kubeadm cannot be held: " in said
    assert "versionlock.list" in said  # as dnf says
    assert node.run("ls -A /usr/bin | grep kubeadm.kbuild; ls /run | grep kbuild; true") == ""
    node.run("cd /etc/dnf/plugins; rmdir versionlock.list; touch versionlock.list")
    state, said = install(kbuild, release, node, "--hold")
    assert (state, locked(node)) == ("changed", ["kubeadm-0:1.20.0-0.*"]), said


def test_a_package_that_is_excluded_needs_no_plugin(
    node: Node, release: Path, kbuild: Kbuild
) -> None:
    node.run("echo 'exclude=kubelet kubeadm kubectl' >>/etc/yum.repos.d/kubernetes.repo")
    node.run("sed -i 's/^enabled.*/enabled = 0/' /etc/dnf/plugins/versionlock.conf")
    state, said = install(kbuild, release, node, "--hold")
    assert (state, says(node)) == ("changed", "v1.20.2"), said
    assert "kubeadm owns the file; yum and dnf leave it as it is because of exclude=" in said
    dnf(node, "upgrade")
    assert says(node) == "v1.20.2"
    dnf(node, "upgrade --disableexcludes all")
    assert says(node) == UPDATE


def test_the_rpm_of_the_release_takes_the_place_of_the_stock_one(
    node: Node, release: Path, kbuild: Kbuild
) -> None:
    (rpm,) = release.glob("kubeadm-kbuild-*.x86_64.rpm")
    dnf(node, f"swap kubeadm {rpm}")  # as docs/guide.md has it
    assert says(node) == "v1.20.2"
    state, said = install(kbuild, release, node, "--hold")
    assert state == "changed", said  # what it issues is recorded
    assert "1 of 1: record" in said
    assert "kubeadm-kbuild owns the file, which no repository has, so there is nothing to" in said
    assert node.run("rpm --verify kubeadm-kbuild") == ""
    dnf(node, "upgrade")
    assert (says(node), node.run("rpm -q kubeadm; true").strip()) == (
        "v1.20.2",
        "package kubeadm is not installed",
    )
