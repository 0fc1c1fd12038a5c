import json
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor

from kbuild.base.errors import DiskFull, NotWritable, OutputExists
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import Binary, BuildRequest, Lifetimes
from kbuild.release.documents import commit_notes
from kbuild.release.errors import OutputBusy
from kbuild.release.sums import read_sums
from kbuild.release.writer import demand_free, list_files, publish, reserve
from tests.support.recorder import Recorder
from tests.support.releases import (
    ARCHIVE,
    NOON,
    TAG,
    make_binaries,
    make_proven,
    make_release,
    make_request,
)

NOON_LATER = NOON + timedelta(hours=2)
FLAT = {
    "build.json",
    "kubeadm-amd64.spdx.json",
    "kubeadm-arm64.spdx.json",
    "kubeadm-linux-amd64",
    "kubeadm-linux-arm64",
    "kubeadm.patch",
    "proof.json",
    "provenance.json",
}


@pytest.fixture
def request_made() -> BuildRequest:
    return make_request()


@pytest.fixture
def binaries(tmp_path: Path) -> tuple[Binary, ...]:
    return make_binaries(tmp_path)


@pytest.mark.parametrize("layout", ["flat", "tree"])
def test_the_folder_holds_everything_and_its_sums_verify(layout: str, tmp_path: Path) -> None:
    folder = make_release(tmp_path / "work", tmp_path / "dist" / "v1.20.2", layout=layout)
    names = FLAT
    if layout == "tree":
        names = {n for n in FLAT if "linux" not in n}
        names |= {f"bin/linux/{arch}/kubeadm" for arch in ("amd64", "arm64")}
    beside = {f"{name}.sha256" for name in names}
    assert {*list_files(folder)} == names | beside | {"SHA256SUMS", "SHA512SUMS"}
    for program, sums in (("sha256sum", "SHA256SUMS"), ("sha512sum", "SHA512SUMS")):
        checked = subprocess.run(
            [program, "--strict", "-c", sums], cwd=folder, check=True, capture_output=True
        )
        assert checked.stdout.count(b": OK") == len(names)
    for name in names:
        line = f"{(folder / f'{name}.sha256').read_text()}  {name}\n"
        assert line in (folder / "SHA256SUMS").read_text()
        assert len(line.split(maxsplit=1)[0]) == 64
    binary = "bin/linux/arm64/kubeadm" if layout == "tree" else "kubeadm-linux-arm64"
    assert (folder / binary).stat().st_mode & 0o777 == 0o755


def test_the_documents_say_what_was_asked_made_and_seen(tmp_path: Path) -> None:
    folder = make_release(tmp_path / "work", tmp_path / "out")
    build = json.loads((folder / "build.json").read_text())
    assert build["request"]["build_date"] == "2026-01-02T12:00:00Z"
    assert build["request"]["lifetimes"] == {"ca_years": 100, "leaf_years": 10}
    assert build["source"]["commit"] == "f" * 40
    assert build["go"]["overridden"] is True
    assert build["go"]["image"].startswith("golang@sha256:")
    assert build["seconds"] == {"build": 1.235}
    proof = json.loads((folder / "proof.json").read_text())
    certificate = proof["binaries"][0]["certificates"][0]
    assert certificate["not_after"] == "2125-12-09T12:00:00Z"
    assert proof["binaries"][1]["sha256"] == build["binaries"][1]["sha256"]


def test_no_credential_gets_into_a_release(tmp_path: Path) -> None:
    folder = make_release(tmp_path / "work", tmp_path / "out")
    for name in list_files(folder):
        assert b"secret" not in (folder / name).read_bytes(), name


def test_the_provenance_is_a_statement_with_everything_in_it(tmp_path: Path) -> None:
    folder = make_release(tmp_path / "work", tmp_path / "out")
    text = (folder / "provenance.json").read_text()
    statement = json_format.Parse(text, statement_pb2.Statement())  # refuses an unknown field
    assert statement.type == "https://in-toto.io/Statement/v1"
    sums = read_sums((folder / "SHA256SUMS").read_bytes())
    del sums["provenance.json"]
    assert {subject.name: subject.digest["sha256"] for subject in statement.subject} == sums
    assert statement.predicate_type == "https://slsa.dev/provenance/v1"
    predicate = json.dumps(json.loads(text)["predicate"])
    slsa = json_format.Parse(predicate, provenance_pb2.Provenance())
    definition = slsa.build_definition
    asked = json_format.MessageToDict(definition.external_parameters)
    assert asked["version"] == "v1.20.2"
    assert asked["lifetimes"] == {"ca_years": 100, "leaf_years": 10}
    assert "output" not in asked
    resolved = {each.name: each for each in definition.resolved_dependencies}
    assert resolved["source"].digest["gitCommit"] == "f" * 40
    assert resolved["go"].digest["sha256"] == "0" * 64
    assert resolved["patches/one.patch"].digest["sha256"] == "1" * 64
    for each in (*statement.subject, *resolved.values()):
        ResourceDescriptor.copy_from_pb(each).validate()


def test_a_full_output_folder_is_refused(
    request_made: BuildRequest, tmp_path: Path, workspace: Workspace
) -> None:
    (tmp_path / "out").mkdir()
    with reserve(tmp_path / "out", request_made, TAG, workspace):
        pass
    (tmp_path / "out" / "mine").write_text("x")
    with (
        pytest.raises(OutputExists, match="out"),
        reserve(tmp_path / "out", request_made, TAG, workspace),
    ):
        pass


def test_a_release_of_the_same_request_and_binaries_is_left_as_it_is(
    binaries: tuple[Binary, ...], request_made: BuildRequest, tmp_path: Path, workspace: Workspace
) -> None:
    folder = tmp_path / "out"
    publish(make_proven(binaries), request_made, folder, {}, Recorder())
    before = {path: path.stat().st_ino for path in folder.iterdir()}
    for again in (
        request_made,
        replace(request_made, build_date=None),
        replace(request_made, version="v1.20.2"),
    ):
        with reserve(folder, again, TAG, workspace):
            release = publish(make_proven(binaries, unchanged=True), again, folder, {}, Recorder())
            with pytest.raises(OutputExists):
                demand_free(folder, again.output)
        assert release.unchanged
        assert sorted(release.files) == list_files(folder)
    assert {path: path.stat().st_ino for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"lifetimes": Lifetimes(ca_years=99, leaf_years=10)},
        {"build_date": NOON.replace(hour=13)},
        {"arches": ("arm64",)},
        {"tree_state": "clean"},
    ],
    ids=str,
)
def test_a_release_of_another_request_is_told_before_the_work(
    change: dict[str, Any],
    binaries: tuple[Binary, ...],
    request_made: BuildRequest,
    tmp_path: Path,
    workspace: Workspace,
) -> None:
    folder = tmp_path / "out"
    publish(make_proven(binaries), request_made, folder, {}, Recorder())
    with (
        pytest.raises(OutputExists),
        reserve(folder, replace(request_made, **change), TAG, workspace),
    ):
        pass


@pytest.mark.parametrize("change", [{"name": "v1.20.3"}, {"commit": "e" * 40}], ids=str)
def test_a_release_of_another_tag_is_told_before_the_work(
    change: dict[str, str],
    binaries: tuple[Binary, ...],
    request_made: BuildRequest,
    tmp_path: Path,
    workspace: Workspace,
) -> None:
    folder = tmp_path / "out"
    publish(make_proven(binaries), request_made, folder, {}, Recorder())
    with (
        pytest.raises(OutputExists),
        reserve(folder, request_made, replace(TAG, **change), workspace),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["other binary", "extra", "lost", "edited"])
def test_a_release_that_is_not_what_was_made_is_never_called_unchanged(
    damage: str, binaries: tuple[Binary, ...], request_made: BuildRequest, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    publish(make_proven(binaries), request_made, folder, {}, Recorder())
    if damage == "other binary":
        binaries = (replace(binaries[0], sha256="0" * 64), binaries[1])
    elif damage == "extra":
        (folder / "extra").touch()
    elif damage == "lost":
        (folder / "proof.json").unlink()
    else:
        (folder / "kubeadm-linux-amd64").write_text("edited")
    with pytest.raises(OutputExists):
        publish(make_proven(binaries, unchanged=True), request_made, folder, {}, Recorder())


@pytest.mark.parametrize("kind", ["file", "link"])
def test_an_output_that_is_no_folder_is_refused(
    kind: str, tmp_path: Path, workspace: Workspace
) -> None:
    if kind == "file":
        (tmp_path / "out").write_text("x")
    else:
        (tmp_path / "out").symlink_to(tmp_path)
    forced = make_request(force=True)
    with pytest.raises(NotWritable), reserve(tmp_path / "out", forced, TAG, workspace):
        pass


def test_the_same_output_is_held_by_one_run(
    request_made: BuildRequest, tmp_path: Path, workspace: Workspace
) -> None:
    with (
        reserve(tmp_path / "out", request_made, TAG, workspace),
        pytest.raises(OutputBusy),
        reserve(tmp_path / "out", request_made, TAG, workspace),
    ):
        pass


def test_a_failure_while_publishing_leaves_nothing(
    binaries: tuple[Binary, ...],
    request_made: BuildRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr("shutil.copyfile", full)
    folder = tmp_path / "dist" / "out"
    with pytest.raises(DiskFull):
        publish(make_proven(binaries), request_made, folder, {}, Recorder())
    assert list((tmp_path / "dist").iterdir()) == []


def test_the_provenance_of_a_kept_binary_names_the_time_of_its_compile(
    binaries: tuple[Binary, ...], request_made: BuildRequest, tmp_path: Path
) -> None:
    compiled = [(NOON, NOON + timedelta(hours=1)), (NOON + timedelta(hours=1), NOON_LATER)]
    kept = tuple(
        replace(binary, compiled=times) for binary, times in zip(binaries, compiled, strict=True)
    )
    folder = tmp_path / "v1.20.2"
    publish(make_proven(kept, unchanged=True), request_made, folder, {"build": 1.0}, Recorder())
    run = json.loads((folder / "provenance.json").read_text())["predicate"]["runDetails"]
    assert run["metadata"]["startedOn"] == "2026-01-02T12:00:00Z"
    assert run["metadata"]["finishedOn"] == "2026-01-02T14:00:00Z"


def _source(folder: Path) -> Any:
    definition = json.loads((folder / "provenance.json").read_text())["predicate"]
    return definition["buildDefinition"]["resolvedDependencies"][0]


@pytest.mark.parametrize("demanded", [False, True])
def test_a_commit_that_only_an_archive_claims_is_no_digest_of_the_source(
    demanded: bool, tmp_path: Path
) -> None:
    changes = {**ARCHIVE, "sha256_demanded": demanded}
    folder = make_release(tmp_path / "work", tmp_path / "out", tree_changes=changes)
    source = _source(folder)
    assert source["digest"] == {"sha256": "a" * 64}
    assert source["annotations"] == {
        "commitProof": "archive-claim",
        "claimedCommit": "f" * 40,
        "sha256Demanded": demanded,
    }
    built = json.loads((folder / "build.json").read_text())["source"]
    assert (built["commit_proof"], built["sha256_demanded"]) == ("archive-claim", demanded)
    sbom = json.loads((folder / "kubeadm-amd64.spdx.json").read_text())
    [main] = [package for package in sbom["packages"] if package["name"] == "kubeadm"]
    assert f"names itself commit {'f' * 40}" in main["sourceInfo"]


def test_a_commit_that_was_compared_is_a_digest_and_changes_no_other_byte(tmp_path: Path) -> None:
    compared = {**ARCHIVE, "commit_proof": "compared"}
    folders = [
        make_release(tmp_path / name, tmp_path / f"{name}-out", tree_changes=changes)
        for name, changes in (("claimed", ARCHIVE), ("compared", compared))
    ]
    source = _source(folders[1])
    assert source["digest"] == {"gitCommit": "f" * 40, "sha256": "a" * 64}
    assert "claimedCommit" not in source["annotations"]
    for name in ("kubeadm-amd64.spdx.json", "kubeadm.patch", "kubeadm-linux-amd64"):
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second, name


def test_the_terminal_says_that_a_commit_is_only_claimed_and_how_to_verify_it(
    tmp_path: Path,
) -> None:
    [claim] = commit_notes(make_binaries(tmp_path, tree_changes=ARCHIVE)[0].tree.source)
    assert "not verified" in claim
    assert "--verify-against https://github.com/kubernetes/kubernetes.git" in claim
    demanded = {**ARCHIVE, "sha256_demanded": True}
    notes = list(commit_notes(make_binaries(tmp_path, tree_changes=demanded)[0].tree.source))
    assert "required" in notes[1]
    for proof in ("compared", "git-object"):
        changes = {**ARCHIVE, "commit_proof": proof}
        tree = make_binaries(tmp_path, tree_changes=changes)[0].tree
        assert list(commit_notes(tree.source)) == []
    bundled = {"commit_proof": "git-object", "bundle": "b" * 64}
    [claim] = commit_notes(make_binaries(tmp_path, tree_changes=bundled)[0].tree.source)
    assert "is what the bundle claims" in claim
    both = {**ARCHIVE, "bundle": "b" * 64}
    notes = list(commit_notes(make_binaries(tmp_path, tree_changes=both)[0].tree.source))
    assert not any("--verify-against" in note for note in notes)  # a bundle takes none
