"""What is fetched and compiled of the real v1.20.2, and what is not a second time."""

import json
import re
import subprocess
import tarfile
from datetime import datetime
from pathlib import Path

import pytest

from kbuild.base.workspace import open_workspace
from kbuild.kubeadm.compile.run import compile_kubeadm
from kbuild.kubeadm.model import GoPin, Lifetimes, SourceTree, Stamp, Tag, Toolchain
from kbuild.kubeadm.patching.apply import patch_tree
from kbuild.kubeadm.source.store import fetch_tag
from tests.e2e.command import BUILD_DATE, COMMIT, GO_VERSION, NEXT_VERSION, VERSION, YEARS, Kbuild
from tests.e2e.conftest import GitServer, Options
from tests.e2e.released import ARCHIVE_DOCKER, ARCHIVE_LOCAL, BINARY, Releases
from tests.support.failures import kind_of
from tests.support.recorder import Recorder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

FILES = 3000  # v1.20.2 has 22,700, its closure 2,500


@pytest.fixture(scope="module")
def fetched(
    git_server: GitServer, locally: Options, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Kbuild, list[int]]:
    """Give the cache of two tags fetched one after the other, and the requests of each.

    The dates make the runs stop before the compile, which is not what is counted here.
    """
    home = tmp_path_factory.mktemp("fetched")
    kbuild, requests = Kbuild(home, home / "cache"), []
    for version in (VERSION, NEXT_VERSION):
        trace = home / f"trace-{version}"
        done = kbuild.kubeadm(
            *("--version", version, "--source", git_server.address, *locally),
            *("--go-version", "1.15.14"),  # which the one at hand is not
            GIT_TRACE_PACKET=str(trace),
        )
        assert (done.code, kind_of(done.stderr)) == (30, "wrong-go"), done.stderr
        requests.append(len(re.findall(r"> command=", trace.read_text())))
    return kbuild, requests


def test_few_requests_are_made(fetched: tuple[Kbuild, list[int]]) -> None:
    cold, remembered = fetched[1]
    assert cold <= 16
    assert remembered <= 4


def test_a_third_of_the_bytes_are_fetched(
    fetched: tuple[Kbuild, list[int]], git_server: GitServer, tmp_path: Path
) -> None:
    clone = ("git", "clone", "--quiet", "--bare", "--depth", "1", "--branch", VERSION)
    subprocess.run((*clone, git_server.address, tmp_path / "whole"), check=True)
    [store] = (fetched[0].cache / "v1/git").iterdir()
    assert size(store) <= size(tmp_path / "whole") / 3
    with open_workspace(fetched[0].cache) as workspace:
        tag = Tag(name=VERSION, commit=git_server.commit)
        tree = fetch_tag(git_server.address, tag, workspace.work / "tree", workspace, Recorder())
        assert 0 < len(tree.files) < FILES


def size(repository: Path) -> int:
    """Return the bytes of all objects in a repository."""
    return sum(path.stat().st_size for path in repository.glob("objects/**/*") if path.is_file())


def test_the_closure_gives_the_same_bytes_as_the_whole_tree(
    releases: Releases, warm_cache: Path, kubernetes_archive: Path, goroot: Path
) -> None:
    stamp = Stamp(build_date=datetime.fromisoformat(BUILD_DATE), tree_state="dirty")
    with open_workspace(warm_cache) as workspace:
        parent = workspace.work / "whole"
        with tarfile.open(kubernetes_archive) as tar:
            tar.extractall(parent)
        [path] = parent.iterdir()
        path = path.rename(parent / "kubernetes")
        whole = SourceTree(path=path, tag=VERSION, commit=COMMIT, origin="the archive")
        toolchain = Toolchain(
            builder="local",
            pin=GoPin(version=GO_VERSION, files=("none",)),
            go_version=GO_VERSION,
            go_root=goroot,
        )
        patched = patch_tree(whole, toolchain, Lifetimes(ca_years=100, leaf_years=100), "keep")
        binary = compile_kubeadm(patched, "amd64", stamp, workspace, Recorder())
        assert len(list(path.rglob("*"))) > 20000
        assert binary.path.read_bytes() == releases[ARCHIVE_LOCAL].binary.read_bytes()


def test_a_run_with_nothing_changed_says_so_and_proves_again(
    releases: Releases, kbuild: Kbuild, ways: dict[str, Options]
) -> None:
    expected = releases[ARCHIVE_LOCAL].binary.read_bytes()
    first = kbuild.kubeadm(*ways[ARCHIVE_LOCAL])
    folder = kbuild.home / "dist" / VERSION
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert first.code == 0, first.stderr
    again = kbuild.kubeadm(*ways[ARCHIVE_LOCAL])
    assert again.code == 0, again.stderr
    assert f"Nothing changed since {BUILD_DATE}" in again.stdout
    assert "certificates issued and renewed" in again.stderr
    assert "compile:" not in again.stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    other = kbuild.kubeadm(*ways[ARCHIVE_LOCAL], "--leaf-years", "99")
    assert (other.code, kind_of(other.stderr)) == (80, "output-exists"), other.stderr
    forced = kbuild.kubeadm(*ways[ARCHIVE_LOCAL], "--leaf-years", "99", "--force", "--json")
    assert json.loads(forced.stdout)["unchanged"] is False, forced.stderr
    assert (folder / BINARY).read_bytes() != expected


def test_several_versions_and_architectures_are_one_run(
    kbuild: Kbuild, git_server: GitServer, in_docker: Options, releases: Releases
) -> None:
    assert releases[ARCHIVE_DOCKER].binary.is_file()  # the cache is warm now
    done = kbuild(
        *("kubeadm", "--version", VERSION, "--version", NEXT_VERSION, *YEARS, "--json"),
        *("--arch", "amd64", "--arch", "arm64", "--go-version", GO_VERSION),
        *("--source", git_server.address, *in_docker),
    )
    assert done.code == 0, done.stderr
    made = json.loads(done.stdout)["releases"]
    assert [each["folder"] for each in made] == [f"dist/{VERSION}", f"dist/{NEXT_VERSION}"]
    for each in made:
        assert [binary["arch"] for binary in each["binaries"]] == ["amd64", "arm64"]
        assert each["binaries"][0]["version"]["gitVersion"] == each["source"]["tag"]
        assert each["binaries"][0]["certificates"]
        folder = kbuild.home / each["folder"]
        check = ("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
        subprocess.run(check, cwd=folder, check=True)
    # The second is prepared while the first is compiled.
    said = done.stderr
    assert said.index(f"{NEXT_VERSION}: Go {GO_VERSION}") < said.index(f"==> {VERSION} prove")
    assert kbuild.work_left == []
    # Of the second's packages only the one that differs is compiled.
    log = (kbuild.cache / f"v1/logs/{NEXT_VERSION}-arm64.log").read_text().splitlines()
    assert [line for line in log if " " not in line] == ["k8s.io/kubernetes/cmd/kubeadm"]
