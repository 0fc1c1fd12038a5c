"""What a release tells the world: every input, the builder, and nothing of the machine."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from kbuild import HOME
from kbuild.base.settings import options
from kbuild.release.provenance import BUILD_TYPE, parse_provenance
from kbuild.release.writer import list_files
from kbuild.settings import Limited, Networked, Settings
from tests.support.fake_engine import fake_engine
from tests.support.releases import ARCHIVE, make_release

DOCS = Path(__file__).parents[3] / "docs"
MARKER = "marker-of-a-path"
GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "org/kubeadm",
    "GITHUB_WORKFLOW_REF": "org/kubeadm/.github/workflows/release.yml@refs/heads/main",
    "GITHUB_RUN_ID": "42",
    "GITHUB_RUN_ATTEMPT": "2",
}
GITLAB = {
    "GITLAB_CI": "true",
    "CI_SERVER_URL": "https://gitlab.example",
    "CI_PROJECT_PATH": "org/kubeadm",
    "CI_CONFIG_PATH": ".gitlab-ci.yml",
    "CI_COMMIT_REF_NAME": "main",
    "CI_JOB_URL": "https://gitlab.example/org/kubeadm/-/jobs/42",
}


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI"):
        monkeypatch.delenv(name, raising=False)


def predicate(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "provenance.json").read_text())["predicate"]
    return document


def definition(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = predicate(folder)["buildDefinition"]
    return found


def source_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = definition(folder)["resolvedDependencies"][0]
    assert found["name"] == "source"
    return found


@pytest.fixture
def go_root(tmp_path: Path) -> Path:
    root = tmp_path / MARKER / "go"
    (root / "bin").mkdir(parents=True)
    (root / "bin/go").write_text("go")
    return root


@pytest.mark.parametrize("kind", ["folder", "archive", "file URL"])
def test_no_path_of_this_machine_is_published(kind: str, tmp_path: Path, go_root: Path) -> None:
    source = tmp_path / MARKER / "kubernetes"
    source.mkdir()
    origin = source.as_uri() if kind == "file URL" else str(source)
    folder = make_release(
        *(tmp_path / MARKER / "work", tmp_path / MARKER / "out"),
        origin=origin,
        source=origin,
        tree_changes=ARCHIVE if kind == "archive" else None,
        go_root=go_root,
        builder="local",
        lock=tmp_path / MARKER / "lock",
        output=tmp_path / MARKER / "out",
    )
    for name in list_files(folder):
        assert MARKER.encode() not in (folder / name).read_bytes(), name
    build = json.loads((folder / "build.json").read_text())
    assert build["source"]["origin"] == build["request"]["source"] == "local:kubernetes"
    assert build["request"]["go_root"] == "local"
    assert "uri" not in source_of(folder)
    assert source_of(folder)["annotations"]["origin"] == "local:kubernetes"
    go = definition(folder)["resolvedDependencies"][1]
    assert re.fullmatch("[0-9a-f]{64}", go["digest"]["sha256"])


def test_a_release_is_known_again_though_its_paths_are_not_written(
    tmp_path: Path, go_root: Path
) -> None:
    folder = make_release(tmp_path / "work", tmp_path / "out", go_root=go_root)
    asked = parse_provenance((folder / "provenance.json").read_bytes()).asked
    assert asked == {
        **json.loads((folder / "build.json").read_text())["request"],
        "version": "v1.20.2",
        "requested_version": "1.20",
    }


def test_every_input_is_an_external_parameter(tmp_path: Path) -> None:
    asked = definition(
        make_release(
            *(tmp_path / "work", tmp_path / "out"),
            commit="f" * 7,
            source_sha256="a" * 64,
            image="golang@sha256:" + "0" * 64,
            go_version="1.15.15",
            against_stock=True,
            stock=False,
        )
    )["externalParameters"]
    # Where the release is put, and how the user wants to be served, are no inputs. A bundle only
    # carries the source and Go: it is named with the source, in resolvedDependencies.
    own = {
        "bundle",
        "bundle_sha256",
        "output",
        "lock",
        "force",
        "dry_run",
        "require_proof",
        *(field.name for field in fields(Limited)),
    }
    own |= {field.name for field in fields(Networked)}
    renamed = {"ca_years": "lifetimes", "leaf_years": "lifetimes", "arch": "arches"}
    names = {renamed.get(name, name) for name in options(Settings).keys() - own}
    assert asked.keys() == names | {"requested_version"}
    assert (asked["version"], asked["requested_version"]) == ("v1.20.2", "1.20")
    assert (asked["commit"], asked["source_sha256"]) == ("f" * 7, "a" * 64)
    assert asked["image"] == "golang@sha256:" + "0" * 64
    assert asked["against_stock"] is True
    assert asked["go_root"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("origin", "sha256", "uri"),
    [
        ("https://u:p@h.example/k.git", None, "git+https://h.example/k.git@refs/tags/v1.20.2"),
        ("git@h.example:org/k.git", None, "git+ssh://git@h.example/org/k.git@refs/tags/v1.20.2"),
        ("h.example:/srv/k.git", None, "git+ssh://h.example/srv/k.git@refs/tags/v1.20.2"),
        ("git@[::1]:org/k.git", None, "git+ssh://git@[::1]/org/k.git@refs/tags/v1.20.2"),
        ("ssh://git@h.example/k", None, "git+ssh://git@h.example/k@refs/tags/v1.20.2"),
        ("https://h.example/k.tar.gz?t=1", "a" * 64, "https://h.example/k.tar.gz"),
    ],
)
def test_a_source_is_a_download_location_with_its_digests(
    origin: str, sha256: str | None, uri: str, tmp_path: Path
) -> None:
    folder = make_release(
        *(tmp_path / "work", tmp_path / "out"),
        origin=origin,
        tree_changes=ARCHIVE if sha256 else None,
    )
    source = source_of(folder)
    assert (source["name"], source["uri"]) == ("source", uri)
    assert source["digest"] == ({"sha256": sha256} if sha256 else {"gitCommit": "f" * 40})


def test_the_build_type_is_the_address_of_a_page_that_explains_every_parameter(
    tmp_path: Path,
) -> None:
    found = definition(make_release(tmp_path / "work", tmp_path / "out"))
    assert found["buildType"] == BUILD_TYPE
    home, _, page = BUILD_TYPE.partition("/blob/main/")
    assert home == HOME
    text = (DOCS.parent / page).read_text()
    for name in (*found["externalParameters"], *found["internalParameters"]):
        assert f"| `{name}` |" in text, name
    for dependency in found["resolvedDependencies"]:
        assert f"| `{dependency['name'].partition('/')[0]}" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "builder", "invocation"),
    [
        ({}, f"{HOME}/blob/main/docs/builders.md#local", r"urn:uuid:[0-9a-f-]{36}"),
        (
            GITHUB,
            "https://github.com/org/kubeadm/.github/workflows/release.yml@refs/heads/main",
            "https://github.com/org/kubeadm/actions/runs/42/attempts/2",
        ),
        (
            GITLAB,
            "https://gitlab.example/org/kubeadm//.gitlab-ci.yml@refs/heads/main",
            "https://gitlab.example/org/kubeadm/-/jobs/42",
        ),
        (
            {**GITLAB, "CI_COMMIT_TAG": "v1", "CI_COMMIT_REF_NAME": "v1"},
            "https://gitlab.example/org/kubeadm//.gitlab-ci.yml@refs/tags/v1",
            "https://gitlab.example/org/kubeadm/-/jobs/42",
        ),
        (
            {**GITHUB, "GITHUB_ACTIONS": "false"},
            f"{HOME}/blob/main/docs/builders.md#local",
            r"urn:uuid:[0-9a-f-]{36}",
        ),
    ],
    ids=[
        "local",
        "GitHub Actions",
        "GitLab CI",
        "GitLab CI of a tag",
        "a laptop with some of the variables",
    ],
)
def test_the_builder_id_tells_a_laptop_from_ci(
    environment: dict[str, str],
    builder: str,
    invocation: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run = predicate(make_release(tmp_path / "work", tmp_path / "out"))["runDetails"]
    assert run["builder"]["id"] == builder
    assert re.fullmatch(invocation, run["metadata"]["invocationId"])


def test_exactly_the_files_that_the_docs_name_are_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        make_release(
            *(tmp_path / name / "work", tmp_path / name / "out"),
            origin=f"https://{name}.example/k.git",
            source=f"https://{name}.example/k.git",
            lock=tmp_path / name / "lock",
        )
        for name in ("first", "second")
    )
    same = {n for n in list_files(first) if (first / n).read_bytes() == (second / n).read_bytes()}
    per_binary = {
        "kubeadm-linux-ARCH": "kubeadm-linux-{}",
        "kubeadm-ARCH.spdx.json": "kubeadm-{}.spdx.json",
    }
    named = {name.format(arch) for name in per_binary.values() for arch in ("amd64", "arm64")}
    named.add("kubeadm.patch")
    page = (DOCS / "releases.md").read_text()
    section = page.partition("### Which files are the same bytes")[2].partition("\n## ")[0]
    same_list, _, other_list = section.partition("Different bytes")
    for name in (*per_binary, "kubeadm.patch"):
        assert f"`{name}`" in same_list
    for name in ("proof.json", "build.json", "provenance.json", "SHA256SUMS", "SHA512SUMS"):
        assert f"`{name}`" in other_list
    # With these fakes nothing of a proof differs; of a real one its keys and serial numbers do.
    assert same - {"proof.json", "proof.json.sha256"} == named | {f"{n}.sha256" for n in named}


def test_the_page_of_the_local_builder_is_shipped() -> None:
    assert "## local\n" in (DOCS / "builders.md").read_text().lower()


def test_the_version_of_the_engine_is_told_if_it_still_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = (200, {"ApiVersion": "1.47", "Version": "27.5.1", "Arch": "amd64"})
    with fake_engine({"GET /version": [answer]}, "1.47") as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        there = predicate(make_release(tmp_path / "work", tmp_path / "out"))
    gone = predicate(make_release(tmp_path / "work", tmp_path / "out-2"))
    assert there["runDetails"]["builder"]["version"]["docker"] == "27.5.1 (API 1.47)"
    assert "docker" not in gone["runDetails"]["builder"]["version"]
    assert gone["buildDefinition"]["internalParameters"]["builder"] == "docker"


def test_the_environments_versions_are_told_and_no_name_of_the_machine(
    tmp_path: Path, go_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "host-of-somebody")
    folder = make_release(tmp_path / "work", tmp_path / "out", go_root=go_root)
    versions = predicate(folder)["runDetails"]["builder"]["version"]
    assert versions.keys() >= {"kbuild", "python", "linux", "distribution", "sandbox"}
    assert all(isinstance(version, str) and version for version in versions.values())
    assert definition(folder)["internalParameters"]["builder"] == "local"
    assert "host-of-somebody" not in (folder / "provenance.json").read_text()
