import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kbuild.errors import DiskFull, NotWritable, OutputBusy, OutputExists
from kbuild.model import (
    AppliedPatch,
    Binary,
    BuildRequest,
    GoPin,
    IssuedCertificate,
    Lifetimes,
    PatchedTree,
    Proof,
    SourceTree,
    Tag,
    Toolchain,
)
from kbuild.release import demand_free, publish, reserve
from kbuild.settings import Settings
from kbuild.workspace import sha256

LIFETIMES = Lifetimes(ca_years=100, leaf_years=10)
TAG = Tag(name="v1.20.2", commit="f" * 40)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def request_made() -> BuildRequest:
    settings = Settings(version=("1.20",), ca_years=100, leaf_years=10, build_date=NOON)
    return settings.requests({})[0]


@pytest.fixture
def binaries(tmp_path: Path) -> tuple[Binary, ...]:
    source = SourceTree(path=tmp_path, tag="v1.20.2", commit="f" * 40, origin="git://x")
    toolchain = Toolchain(
        builder="docker",
        pin=GoPin(version="1.15.5", files=("build/dependencies.yaml",)),
        go_version="1.15.15",
        image="golang@sha256:" + "0" * 64,
    )
    tree = PatchedTree(
        source=source,
        toolchain=toolchain,
        lifetimes=LIFETIMES,
        patches=(AppliedPatch(name="one.patch", sha256="1" * 64),),
        diff="--- a/x\n+++ b/x\n",
    )
    made = []
    for arch in ("amd64", "arm64"):
        path = tmp_path / f"made-{arch}"
        path.write_text(arch)
        made.append(
            Binary(path=path, arch=arch, sha256=sha256(path), tree=tree, command=("go", "build"))
        )
    return tuple(made)


def proofs(binaries: tuple[Binary, ...]) -> dict[Path, Proof]:
    certificate = IssuedCertificate(
        case="fresh-ca",
        moment="issued",
        kind="ca",
        path="pki/ca.crt",
        subject="CN=kubernetes",
        not_before=NOON,
        not_after=NOON + LIFETIMES.ca,
        years=100,
    )
    return {
        b.path: Proof(
            path=b.path,
            arch=b.arch,
            sha256=b.sha256,
            ran="native",
            where="sandbox",
            version={"gitVersion": "v1.20.2"},
            certificates=(certificate,),
        )
        for b in binaries
    }


def test_the_folder_holds_everything_and_its_sums_verify(
    binaries: tuple[Binary, ...], request_made: BuildRequest, tmp_path: Path
) -> None:
    folder = tmp_path / "dist" / "v1.20.2"
    release = publish(
        proofs(binaries), binaries, request_made, folder, {"build": 1.23456}, unchanged=False
    )
    assert sorted(path.name for path in folder.iterdir()) == sorted(release.files)
    assert sorted(release.files) == [
        "SHA256SUMS",
        "build.json",
        "kubeadm-linux-amd64",
        "kubeadm-linux-arm64",
        "kubeadm.patch",
        "proof.json",
    ]
    checked = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, check=True, capture_output=True
    )
    assert checked.stdout.count(b": OK") == 5
    assert (folder / "kubeadm-linux-arm64").stat().st_mode & 0o777 == 0o755


def test_the_documents_say_what_was_asked_made_and_seen(
    binaries: tuple[Binary, ...], request_made: BuildRequest, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    publish(proofs(binaries), binaries, request_made, folder, {"build": 1.23456}, unchanged=False)
    build = json.loads((folder / "build.json").read_text())
    assert build["request"]["build_date"] == "2026-01-02T12:00:00Z"
    assert build["request"]["lifetimes"] == {"ca_years": 100, "leaf_years": 10}
    assert build["source"]["commit"] == "f" * 40
    assert build["go"]["overridden"] is True
    assert build["go"]["image"].startswith("golang@sha256:")
    assert build["seconds"] == {"build": 1.235}
    proof = json.loads((folder / "proof.json").read_text())
    [certificate] = proof["binaries"][0]["certificates"]
    assert certificate["not_after"] == "2125-12-09T12:00:00Z"
    assert proof["binaries"][1]["sha256"] == build["binaries"][1]["sha256"]


def test_a_full_output_folder_is_refused(request_made: BuildRequest, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with reserve(tmp_path / "out", request_made, TAG, tmp_path):
        pass
    (tmp_path / "out" / "mine").write_text("x")
    with (
        pytest.raises(OutputExists, match="out"),
        reserve(tmp_path / "out", request_made, TAG, tmp_path),
    ):
        pass


def test_force_replaces_a_release_and_nothing_else(
    request_made: BuildRequest, tmp_path: Path
) -> None:
    forced = replace(request_made, force=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(NotWritable), reserve(tmp_path / "out", forced, TAG, tmp_path):
        pass
    (tmp_path / "out" / "build.json").write_text("{}")
    with reserve(tmp_path / "out", forced, TAG, tmp_path):
        pass


def test_a_release_of_the_same_request_and_binaries_is_left_as_it_is(
    binaries: tuple[Binary, ...], request_made: BuildRequest, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    publish(proofs(binaries), binaries, request_made, folder, {}, unchanged=False)
    before = {path: path.stat().st_ino for path in folder.iterdir()}
    for again in (
        request_made,
        replace(request_made, build_date=None),
        replace(request_made, version="v1.20.2"),
    ):
        with reserve(folder, again, TAG, tmp_path):
            release = publish(proofs(binaries), binaries, again, folder, {}, unchanged=True)
            with pytest.raises(OutputExists):
                demand_free(folder, again)
        assert release.unchanged
        assert sorted(release.files) == sorted(path.name for path in folder.iterdir())
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
) -> None:
    folder = tmp_path / "out"
    publish(proofs(binaries), binaries, request_made, folder, {}, unchanged=False)
    with (
        pytest.raises(OutputExists),
        reserve(folder, replace(request_made, **change), TAG, tmp_path),
    ):
        pass


@pytest.mark.parametrize("change", [{"name": "v1.20.3"}, {"commit": "e" * 40}], ids=str)
def test_a_release_of_another_tag_is_told_before_the_work(
    change: dict[str, str],
    binaries: tuple[Binary, ...],
    request_made: BuildRequest,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out"
    publish(proofs(binaries), binaries, request_made, folder, {}, unchanged=False)
    with (
        pytest.raises(OutputExists),
        reserve(folder, request_made, replace(TAG, **change), tmp_path),
    ):
        pass


@pytest.mark.parametrize("damage", ["other binary", "extra", "lost", "edited"])
def test_a_release_that_is_not_what_was_made_is_never_called_unchanged(
    damage: str, binaries: tuple[Binary, ...], request_made: BuildRequest, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    publish(proofs(binaries), binaries, request_made, folder, {}, unchanged=False)
    if damage == "other binary":
        binaries = (replace(binaries[0], sha256="0" * 64), binaries[1])
    elif damage == "extra":
        (folder / "extra").touch()
    elif damage == "lost":
        (folder / "proof.json").unlink()
    else:
        (folder / "kubeadm-linux-amd64").write_text("edited")
    with pytest.raises(OutputExists):
        publish(proofs(binaries), binaries, request_made, folder, {}, unchanged=True)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_an_output_that_is_no_folder_is_refused(
    kind: str, request_made: BuildRequest, tmp_path: Path
) -> None:
    if kind == "file":
        (tmp_path / "out").write_text("x")
    else:
        (tmp_path / "out").symlink_to(tmp_path)
    forced = replace(request_made, force=True)
    with pytest.raises(NotWritable), reserve(tmp_path / "out", forced, TAG, tmp_path):
        pass


def test_the_same_output_is_held_by_one_run(request_made: BuildRequest, tmp_path: Path) -> None:
    with (
        reserve(tmp_path / "out", request_made, TAG, tmp_path),
        pytest.raises(OutputBusy),
        reserve(tmp_path / "out", request_made, TAG, tmp_path),
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
        publish(proofs(binaries), binaries, request_made, folder, {}, unchanged=False)
    assert list((tmp_path / "dist").iterdir()) == []
