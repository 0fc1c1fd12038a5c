"""An archive says which commit it is; only a comparison with git verifies it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kbuild.base import git
from kbuild.base.errors import BadSetting
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import SourceTree
from kbuild.kubeadm.source.errors import SourceDiffers, TagNotFound
from kbuild.kubeadm.source.fetch import fetch, resolve
from tests.support.recorder import Recorder
from tests.support.repositories import git as run_git
from tests.support.repositories import make_repository
from tests.unit.kubeadm.source.conftest import RequestFor

pytestmark = pytest.mark.slow

TAGS = ("v1.13.0", "v1.20.2", "v1.31.0")
TAG = "v1.20.2"
CERT = "staging/src/k8s.io/client-go/util/cert/cert.go"
VERSION_PACKAGE = "k8s.io/component-base/version"
BASE = "staging/src/k8s.io/component-base/version/base.go"
Obtain = Callable[..., SourceTree]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upstream") / "kubernetes"
    make_repository(folder, TAGS)
    for tag in TAGS:  # upstream's kubeadm imports its version, which git archive fills in
        run_git(folder, "checkout", "--quiet", tag)
        package = "k8s.io/kubernetes/pkg/version" if tag == TAGS[0] else VERSION_PACKAGE
        edit(folder / "cmd/kubeadm/kubeadm.go", "", f'\nimport _ "{package}"\n')
        run_git(folder, "commit", "--quiet", "--all", "-m", "import the version")
        run_git(folder, "tag", "--force", "-a", "-m", tag, tag)
    return folder


@pytest.fixture
def obtain(workspace: Workspace, recorder: Recorder, request_for: RequestFor) -> Obtain:
    def run(source: str | Path, version: str = TAG, **changes: object) -> SourceTree:
        request = request_for(source, version, **changes)
        return fetch(request, resolve(request, workspace, recorder), workspace, recorder)

    return run


@pytest.fixture
def tree(upstream: Path, tmp_path: Path) -> Path:
    """Give the files of an archive that `git archive` made, to be edited."""
    folder = tmp_path / "kubernetes"
    folder.mkdir()
    archive = tmp_path / "genuine.tar"
    run_git(upstream, "archive", "--output", str(archive), TAG)
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    return folder


def pack(tree: Path) -> Path:
    archive = tree.with_suffix(".tar.gz")
    subprocess.run(["tar", "-czf", archive, "-C", tree.parent, tree.name], check=True)
    return archive


def edit(file: Path, old: str = "", new: str = "\nfunc init() { backdoor() }\n") -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1) if old else text + new)


@pytest.mark.parametrize("tag", TAGS)
def test_a_genuine_archive_is_verified_by_comparison(
    tag: str, upstream: Path, tmp_path: Path, obtain: Obtain
) -> None:
    archive = tmp_path / "kubernetes.tar.gz"
    run_git(upstream, "archive", "--prefix=kubernetes/", "--output", str(archive), tag)
    commit = run_git(upstream, "rev-parse", f"{tag}^{{commit}}")
    claimed = obtain(archive, tag)
    assert (claimed.commit, claimed.commit_proof) == (commit, "archive-claim")
    assert not claimed.commit_verified
    shutil.rmtree(claimed.path)
    compared = obtain(archive, tag, verify_against=str(upstream))
    assert (compared.commit, compared.commit_proof) == (commit, "compared")
    assert compared.commit_verified


def test_the_source_of_a_comparison_is_as_old_as_its_last_use(
    upstream: Path, tree: Path, obtain: Obtain, workspace: Workspace
) -> None:
    archive = pack(tree)
    shutil.rmtree(obtain(archive, verify_against=str(upstream)).path)
    [store] = (workspace.cache / "git").iterdir()
    for path in (store, *store.rglob("*")):
        os.utime(path, (0, 0))
    obtain(archive, verify_against=str(upstream))
    assert store.stat().st_mtime > 0


def test_a_git_source_is_verified_by_its_object_ids(upstream: Path, obtain: Obtain) -> None:
    assert obtain(upstream).commit_proof == "git-object"


def test_without_a_comparison_nothing_is_contacted(
    tree: Path, obtain: Obtain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "ask", lambda *_, **__: pytest.fail("it was contacted"))
    assert obtain(pack(tree)).commit_proof == "archive-claim"


@pytest.mark.parametrize(
    "name", [CERT, "cmd/kubeadm/kubeadm.go", "go.mod", "build/dependencies.yaml"]
)
def test_a_backdoored_archive_is_refused(
    name: str, tree: Path, upstream: Path, obtain: Obtain
) -> None:
    edit(tree / name)
    with pytest.raises(SourceDiffers, match=f"{name} differs"):
        obtain(pack(tree), verify_against=str(upstream))


def test_a_file_that_the_commit_has_not_is_refused(
    tree: Path, upstream: Path, obtain: Obtain
) -> None:
    (tree / "cmd/kubeadm/backdoor.go").write_text("package main\n\nfunc init() {}\n")
    with pytest.raises(SourceDiffers, match=r"cmd/kubeadm/backdoor\.go is not in the commit"):
        obtain(pack(tree), verify_against=str(upstream))


def test_a_package_that_only_the_archive_imports_is_refused(
    tree: Path, upstream: Path, obtain: Obtain
) -> None:
    edit(tree / "cmd/kubeadm/kubeadm.go", "package main\n", 'package main\n\nimport "evil/door"\n')
    (tree / "vendor/evil/door").mkdir(parents=True)
    (tree / "vendor/evil/door/door.go").write_text("package door\n")
    with pytest.raises(SourceDiffers) as caught:
        obtain(pack(tree), verify_against=str(upstream))
    assert caught.value.details.splitlines() == [
        "cmd/kubeadm/kubeadm.go differs",
        "vendor/evil/door/door.go is not in the commit",
    ]


def test_a_file_that_was_taken_out_is_refused(tree: Path, upstream: Path, obtain: Obtain) -> None:
    extra = next(p for p in (tree / "cmd/kubeadm/app/util/pkiutil").glob("*.go"))
    extra.unlink()
    name = extra.relative_to(tree)
    with pytest.raises(SourceDiffers, match=f"{name} is missing here"):
        obtain(pack(tree), verify_against=str(upstream))


def test_a_link_that_leads_elsewhere_is_refused(tree: Path, upstream: Path, obtain: Obtain) -> None:
    link = tree / "vendor/k8s.io/client-go"
    link.unlink()
    link.symlink_to("../../staging/src/k8s.io/evil")
    with pytest.raises(SourceDiffers, match=r"vendor/k8s\.io/client-go differs"):
        obtain(pack(tree), verify_against=str(upstream))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (BASE, "package version", "package version\n"),
        (BASE, "package version", "package version; func init() { backdoor() }"),
        (BASE, "v0.0.0-master+", 'v0.0.0-master+" + backdoor() + "'),
        ("hack/lib/version.sh", "tag: v1.20.2", "backdoor; tag: v1.20.2"),
        ("hack/lib/version.sh", "KUBE_GIT_COMMIT=", "backdoor; KUBE_GIT_COMMIT="),
    ],
)
def test_only_a_placeholder_may_be_filled_in(
    name: str, old: str, new: str, tree: Path, upstream: Path, obtain: Obtain
) -> None:
    edit(tree / name, old, new)
    with pytest.raises(SourceDiffers, match=f"{name} differs"):
        obtain(pack(tree), verify_against=str(upstream))


def test_a_placeholder_is_filled_in_with_this_commit_only(
    tree: Path, upstream: Path, obtain: Obtain
) -> None:
    commit = run_git(upstream, "rev-parse", f"{TAG}^{{commit}}")
    edit(tree / BASE, commit, commit[::-1])
    with pytest.raises(SourceDiffers, match=f"{BASE} differs"):
        obtain(pack(tree), verify_against=str(upstream))


def test_a_tag_of_another_commit_is_refused(tree: Path, upstream: Path, obtain: Obtain) -> None:
    commit = run_git(upstream, "rev-parse", f"{TAG}^{{commit}}")
    edit(tree / "hack/lib/version.sh", commit, "e" * 40)
    with pytest.raises(SourceDiffers, match=f"commit {commit} there, {'e' * 40} here"):
        obtain(pack(tree), verify_against=str(upstream))


def test_a_mirror_is_compared_by_the_commit_of_its_tag(
    upstream: Path, tmp_path: Path, obtain: Obtain
) -> None:
    mirror = tmp_path / "mirror"
    run_git(tmp_path, "clone", "--quiet", str(upstream), str(mirror))
    assert obtain(mirror, verify_against=str(upstream)).commit_proof == "git-object"
    run_git(mirror, "commit", "--quiet", "--allow-empty", "-m", "another")
    run_git(mirror, "tag", "--force", TAG)
    with pytest.raises(SourceDiffers, match="the tag is commit"):
        obtain(mirror, verify_against=str(upstream))


def test_a_source_without_the_tag_or_an_archive_cannot_be_compared_with(
    tree: Path, tmp_path: Path, obtain: Obtain
) -> None:
    make_repository(tmp_path / "other", ["v1.31.0"])
    archive = pack(tree)
    with pytest.raises(TagNotFound, match=TAG):
        obtain(archive, verify_against=str(tmp_path / "other"))
    with pytest.raises(BadSetting, match="an archive proves no commit"):
        obtain(archive, verify_against=str(archive))


def test_a_commit_demanded_of_an_archive_verifies_nothing_and_says_so(
    tree: Path, upstream: Path, obtain: Obtain, recorder: Recorder
) -> None:
    commit = run_git(upstream, "rev-parse", f"{TAG}^{{commit}}")
    assert obtain(pack(tree), commit=commit).commit_proof == "archive-claim"
    assert any("verifies nothing" in line for line in recorder.said)
