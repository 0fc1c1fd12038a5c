"""`kbuild kubeadm` from a tag to a release: the Go is a script, and the kubeadm is in Python."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kbuild.base import sandbox
from kbuild.base.errors import GitMissing
from tests.support.command import Done, run_here
from tests.support.fake_go import DATE, GO, prove_with_fake, write_go_root
from tests.support.fake_kubeadm import FakeKubeadm
from tests.support.goelf import write_go_elf
from tests.support.repositories import make_repository
from tests.support.trees import content_of

pytestmark = pytest.mark.skipif(
    not sandbox.is_available(), reason="the local builder needs the sandbox"
)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("upstream") / "kubernetes"
    return folder, make_repository(folder, ("v1.20.2",))["v1.20.2"]


@pytest.fixture
def kubeadm(upstream: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> FakeKubeadm:
    return prove_with_fake(upstream[1], monkeypatch)


@pytest.fixture
def go_root(tmp_path: Path) -> Path:
    return write_go_root(tmp_path / "go")


def build(home: Path, source: Path, go_root: Path, *more: str, version: str = "v1.20.2") -> Done:
    words = ("--version", version, "--ca-years", "100", "--leaf-years", "10")
    go = ("--builder", "local", "--go-root", go_root, "--build-date", DATE)
    return run_here(
        *("kubeadm", *words, "--source", source, *go, "--output", "out", *more),
        cwd=home,
        HOME=str(home),
    )


def test_a_build_is_released_checked_and_not_repeated(
    upstream: tuple[Path, str], kubeadm: FakeKubeadm, go_root: Path, tmp_path: Path
) -> None:
    done = build(tmp_path, upstream[0], go_root, "--json")
    assert done.returncode == 0, done.stderr
    for stage in ("source", "toolchain", "patch", "build", "prove", "release"):
        assert f"==> {stage}" in done.stderr
    assert json.loads(done.stdout)["unchanged"] is False
    assert any("renew" in call for call in kubeadm.calls)
    checked = run_here("check", tmp_path / "out", "--ca-years", "100", "--leaf-years", "10")
    assert checked.returncode == 0, checked.stderr
    before = content_of(tmp_path / "out")
    again = build(tmp_path, upstream[0], go_root)
    assert again.returncode == 0, again.stderr
    assert "nothing changed since the last build" in again.stderr
    assert content_of(tmp_path / "out") == before
    assert list((tmp_path / ".cache/kbuild/v1/work").iterdir()) == []


def test_what_fails_its_proof_is_not_released(
    upstream: tuple[Path, str], kubeadm: FakeKubeadm, go_root: Path, tmp_path: Path
) -> None:
    kubeadm.leaf *= 2
    done = build(tmp_path, upstream[0], go_root)
    assert done.returncode != 0
    assert "error[wrong-lifetime]" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_another_go_than_the_pinned_one_is_refused(
    upstream: tuple[Path, str], kubeadm: FakeKubeadm, go_root: Path, tmp_path: Path
) -> None:
    (go_root / "bin/go").write_text(GO.replace("1.15.5", "1.15.6"))
    done = build(tmp_path, upstream[0], go_root)
    assert "error[wrong-go]" in done.stderr
    assert kubeadm.calls == []
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["override", "keep"])
def test_what_becomes_of_stored_defaults_is_told_recorded_and_proven(
    chosen: str, go_root: Path, tmp_path: Path, kubeadm: FakeKubeadm
) -> None:
    commit = make_repository(tmp_path / "upstream", ("v1.33.3",))["v1.33.3"]
    (go_root / "bin/go").write_text(GO.replace("1.15.5", "1.24.4"))
    write_go_elf(go_root / "kubeadm", go_version="1.24.4")
    new = {"minor": "33", "gitVersion": "v1.33.3", "gitCommit": commit, "goVersion": "go1.24.4"}
    kubeadm.fields |= new
    words = (tmp_path, tmp_path / "upstream", go_root, "--stored-defaults", chosen)
    if chosen == "override":
        kubeadm.kept = {"leaf"}
        wrong = build(*words, version="v1.33.3")
        assert "error[wrong-lifetime]" in wrong.stderr
        assert "(stored-defaults, issued)" in wrong.stderr
    kubeadm.kept = set() if chosen == "override" else {"ca", "leaf"}
    done = build(*words, version="v1.33.3")
    assert done.returncode == 0, done.stderr
    told = {"override": "each with the lifetimes asked for", "keep": "each with stock's lifetimes"}
    assert f"stored in the configuration: 26 more, {told[chosen]}." in done.stdout
    assert "With other values stored there: 26 more, each with these values." in done.stdout
    noted = {"override": "treats these two values as not set", "keep": "join obey it"}
    assert noted[chosen] in " ".join(done.stdout.split())
    patch = (tmp_path / "out/kubeadm.patch").read_text()
    assert ("v1beta4/defaults.go" in patch) == (chosen == "override")
    provenance = json.loads((tmp_path / "out/provenance.json").read_text())
    definition = provenance["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["stored_defaults"] == chosen
    names = {each["name"] for each in definition["resolvedDependencies"]}
    assert ("patches/kubeadm-stored-defaults.patch" in names) == (chosen == "override")
    assert run_here("check", tmp_path / "out").returncode == 0


@pytest.mark.slow
def test_a_machine_without_git_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    source = ("--source", "http://127.0.0.1:9/kubernetes.tar.gz", "--builder", "local")
    years = ("--version", "v1.20.2", "--ca-years", "100", "--leaf-years", "10")
    done = subprocess.run(
        (sys.executable, "-m", "kbuild", "kubeadm", *years, *source),
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PATH": "/nonexistent", "HOME": str(tmp_path),
             "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    what, todo = GitMissing().happened, GitMissing().hint
    assert done.returncode == GitMissing.exit_code
    assert done.stderr == f"error[git-missing]: {what}\nhint: {todo}\n"
