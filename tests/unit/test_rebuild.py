import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kbuild import rebuild
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import BuildRequest
from kbuild.release.api import Release
from kbuild.release.errors import AddressNotAllowed, BadProvenance, RebuildDiffers, ReleaseBroken
from kbuild.release.provenance import BUILD_TYPE
from kbuild.settings import UPSTREAM, Settings
from tests.support.recorder import Recorder
from tests.support.releases import ARCHIVE, GIT, make_binaries, make_proven, make_release

COMPARED = {**ARCHIVE, "commit_proof": "compared"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    return make_release(folder / "work", folder / "v1.20.2")


@pytest.fixture
def made(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "v1.20.2")


class Builder:
    """Stands in for the pipeline: what it "builds" is what was built before, or something else."""

    def __init__(self, work: Path, **changes: Any) -> None:
        self.work, self.changes = work, changes
        self.requests: list[BuildRequest] = []

    def __call__(
        self,
        requests: Sequence[BuildRequest],
        workspace: Workspace,
        _: object,
        *,
        independent: bool,
    ) -> tuple[Release, ...]:
        assert independent
        [request] = requests
        folder = request.output.folder
        assert folder is not None
        assert workspace.work in folder.parents  # which the next run removes
        self.requests.append(request)
        folder = make_release(self.work, folder, **self.changes)
        binaries = make_binaries(self.work, tree_changes=self.changes.get("tree_changes"))
        return (
            Release(
                folder=folder,
                files=(),
                tree=binaries[0].tree,
                proofs=tuple(each.proof for each in make_proven(binaries).binaries),
                unchanged=False,
            ),
        )


def run(
    path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch, **given: Any
) -> rebuild.Rebuilt:
    """Rebuild with the settings given, and with a source unless one is given or is None."""
    monkeypatch.setattr(rebuild, "build", builder)
    given = {"source": GIT, "cache_dir": builder.work / "cache"} | given
    given = {name: value for name, value in given.items() if value is not None}
    return rebuild.rebuild(
        path, Settings(**given, given=dict.fromkeys(given, "a test")), Recorder()
    )


def test_the_request_is_that_of_the_provenance_with_every_input_demanded(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder(made.parent / "work")
    run(made / "provenance.json", builder, monkeypatch)
    [request] = builder.requests
    assert request.version == "v1.20.2"
    assert request.source.commit == "f" * 40
    assert request.go.image == "golang@sha256:" + "0" * 64
    assert request.go.version == "1.15.15"
    assert (request.lifetimes.ca_years, request.lifetimes.leaf_years) == (100, 10)
    assert request.arches == ("amd64", "arm64")
    assert request.go.builder == "docker"
    assert request.build_date is not None
    assert request.build_date.isoformat() == "2026-01-02T12:00:00+00:00"


def test_stored_defaults_are_as_they_were_and_kept_by_an_earlier_kbuild(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder(made.parent / "work")
    run(made, builder, monkeypatch)
    edit(made, '"stored_defaults": "override"', '"stored_defaults": "keep"')
    run(made, builder, monkeypatch)
    edit(made, '"stored_defaults": "keep",', "")
    run(made, builder, monkeypatch)
    assert [each.stored_defaults for each in builder.requests] == ["override", "keep", "keep"]


def test_the_same_bytes_are_equal(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(made, Builder(made.parent / "work"), monkeypatch)
    assert set(found.files) == {
        "kubeadm-amd64.spdx.json",
        "kubeadm-arm64.spdx.json",
        "kubeadm-linux-amd64",
        "kubeadm-linux-arm64",
        "kubeadm.patch",
    }


@pytest.mark.parametrize("name", ["kubeadm-linux-amd64", "kubeadm.patch", "proof.json"])
@pytest.mark.parametrize("way", ["other bytes", "a directory", "a loop", "too large"])
def test_no_other_file_than_that_of_the_provenance_is_called_equal(
    name: str, way: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made / name).unlink()
    match way:
        case "other bytes":
            (made / name).write_bytes(b"something else")
        case "a directory":
            (made / name).mkdir()
        case "a loop":
            (made / name).symlink_to(name)
        case _:
            (made / name).touch()
            os.truncate(made / name, 1 << 40)
    builder = Builder(made.parent / "work")
    for path in (made, made / "provenance.json"):
        with pytest.raises(ReleaseBroken, match="1 problem") as caught:
            run(path, builder, monkeypatch)
        assert caught.value.details.startswith(f"different: {name}: it")
    assert builder.requests == []


def test_a_provenance_alone_can_be_rebuilt(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = made.parent / "alone"
    alone.mkdir()
    shutil.copy(made / "provenance.json", alone)
    assert len(run(alone, Builder(made.parent / "work"), monkeypatch).files) == 5


def test_where_it_is_had_may_be_said(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder(made.parent / "work")
    run(made, builder, monkeypatch, source="/mirror.git", golang_repository="mirror/golang")
    assert builder.requests[0].source.address == "/mirror.git"
    assert builder.requests[0].go.repository == "mirror/golang"
    assert builder.requests[0].go.image == "mirror/golang@sha256:" + "0" * 64


def record(made: Path, image: str | None = None, **asked: str) -> Path:
    """Write other addresses into the provenance."""
    path = made / "provenance.json"
    document = json.loads(path.read_text())
    definition = document["predicate"]["buildDefinition"]
    definition["externalParameters"] |= asked
    [go] = [each for each in definition["resolvedDependencies"] if each["name"] == "go"]
    go["annotations"]["image"] = image or go["annotations"]["image"]
    path.write_text(json.dumps(document, indent=2))
    return path


def test_a_release_of_an_archive_is_rebuilt_with_its_digest_and_the_claimed_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = {"verify_against": "https://evil.invalid/kubernetes.git"}
    folder = make_release(tmp_path / "work", tmp_path / "v1.20.2", tree_changes=ARCHIVE, **recorded)
    builder = Builder(tmp_path / "work", tree_changes=COMPARED, verify_against="x")
    found = run(folder, builder, monkeypatch)
    [request] = builder.requests
    assert (request.source.commit, request.source.sha256) == ("f" * 40, "a" * 64)
    assert request.source.verify_against is None
    assert found.tree.source.commit_proof == "compared"
    forget_binary(folder)
    with pytest.raises(RebuildDiffers) as caught:
        run(folder, builder, monkeypatch, verify_against="https://mine.invalid/k.git")
    assert builder.requests[1].source.verify_against == "https://mine.invalid/k.git"
    assert "source:" not in caught.value.details


EVIL = {
    "source": "https://evil.invalid/kubernetes.git",
    "golang_repository": "evil.invalid/golang",
    "go_site": "https://evil.invalid/dl",
    "release_site": "https://evil.invalid/release",
}
EVIL_IMAGE = "evil.invalid/golang@sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("image", "asked"),
    [
        *((None, {name: address}) for name, address in EVIL.items()),
        (EVIL_IMAGE, {}),
        ("golang:5000/evil@sha256:" + "0" * 64, {}),
        (EVIL_IMAGE, EVIL),
    ],
    ids=str,
)
def test_an_address_that_only_the_provenance_names_is_refused_before_anything_runs(
    image: str | None, asked: dict[str, str], made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(made, image, **{"source": UPSTREAM, **asked})
    builder = Builder(made.parent / "work")
    with pytest.raises(AddressNotAllowed) as caught:
        run(path, builder, monkeypatch, source=None)
    assert builder.requests == []
    names = [*asked, *(["image"] if image else [])]
    for name in names:
        assert f"--{name.replace('_', '-')}" in caught.value.hint
        assert {**asked, "image": str(image)}[name] in str(caught.value)
    assert caught.value.hint.count("--") == len(names)


def test_an_address_of_the_user_wins_over_the_provenance(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(made, EVIL_IMAGE, **EVIL)
    builder = Builder(made.parent / "work")
    mine = {name: f"mine.invalid/{name}" for name in EVIL}
    run(path, builder, monkeypatch, **mine)
    [request] = builder.requests
    used = {
        "source": request.source.address,
        "golang_repository": request.go.repository,
        "go_site": request.go.site,
        "release_site": request.release_site,
    }
    assert {name: used[name] for name in EVIL} == mine
    assert request.go.image == "mine.invalid/golang_repository@sha256:" + "0" * 64
    run(path, builder, monkeypatch, **mine, image="mine.invalid/image@sha256:" + "1" * 64)
    assert builder.requests[1].go.image == "mine.invalid/image@sha256:" + "1" * 64


def test_the_default_addresses_need_no_flag_and_may_be_given(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder(made.parent / "work")
    run(record(made, source=UPSTREAM), builder, monkeypatch, source=None)
    run(record(made, source=EVIL["source"]), builder, monkeypatch, source=UPSTREAM)
    assert [request.source.address for request in builder.requests] == [UPSTREAM, UPSTREAM]


def test_a_local_go_needs_no_image(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder(made.parent / "work")
    run(record(made, EVIL_IMAGE), builder, monkeypatch, go_root=Path("/usr/lib/go"))
    [request] = builder.requests
    assert (request.go.builder, request.go.image) == ("local", None)


def test_a_source_of_another_machine_must_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = str(tmp_path / "kubernetes")
    made = make_release(tmp_path / "work", tmp_path / "v1.20.2", origin=here, source=here)
    builder = Builder(tmp_path / "work")
    with pytest.raises(AddressNotAllowed, match="local:kubernetes"):
        run(made, builder, monkeypatch, source=None)
    assert builder.requests == []
    run(made, builder, monkeypatch, source=str(tmp_path / "elsewhere/kubernetes"))
    assert builder.requests[0].source.address == str(tmp_path / "elsewhere/kubernetes")


def edit(made: Path, old: str, new: str) -> Path:
    path = made / "provenance.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def forget_binary(made: Path) -> None:
    """Make the provenance name another binary than the rebuild will give."""
    path = made / "provenance.json"
    document = json.loads(path.read_text())
    for subject in document["subject"]:
        if subject["name"] == "kubeadm-linux-amd64":
            subject["digest"]["sha256"] = "0" * 64
    path.write_text(json.dumps(document, indent=2))
    (made / "kubeadm-linux-amd64").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("1" * 64, "2" * 64, "patches/one.patch"),
        ("0" * 64, "3" * 64, "go: sha256 333"),
        ('"kbuild": "', '"kbuild": "9.', "kbuild: 9."),
        ('"go",\n            "arm64"', '"go",\n            "other"', "the Go command for arm64"),
        ("patches/one.patch", "patches/two.patch", "patches/two.patch: sha256 1"),
        ('"_type"', '"_type"', "does not contain all inputs"),
    ],
)
def test_the_input_that_differed_is_named(
    made: Path, old: str, new: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(made, old, new)
    forget_binary(made)
    with pytest.raises(RebuildDiffers, match="kubeadm-linux-amd64") as caught:
        run(made, Builder(made.parent / "work"), monkeypatch)
    assert told in caught.value.details


def set_at(document: Any, path: str, value: object) -> None:
    """Set a value in a provenance: a dotted path, where a list is entered by each one's name."""
    *above, last = path.split(".")
    for name in above:
        if isinstance(document, list):
            [document] = [each for each in document if each["name"] == name]
        else:
            document = document[name]
    document[last] = value


ASKED = "predicate.buildDefinition.externalParameters"
INPUTS = "predicate.buildDefinition.resolvedDependencies"
OUT = "amd64/../../../../../../../tmp/out"
HOSTILE: dict[str, list[Any]] = {
    f"{ASKED}.arches": [
        *([], [{}], [None], ["x86"], "amd64", ["amd64"] * 2, ["amd64", OUT]),
        *(["amd64/x"], ["$(id)"], 5, None),
    ],
    f"{ASKED}.package": [["exe"], [{}], ["../x"], None, ["deb", "deb"]],
    f"{ASKED}.layout": ["x", "../..", "", None, []],
    f"{ASKED}.tree_state": ["dirty' -X 'a=b", "", "clean\n", 5, None],
    f"{ASKED}.version": ["../x", "v1.20", "", "v1.20.2\n", 5, None],
    f"{ASKED}.build_date": [
        *("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00", "0001-01-01T00:00:00Z"),
        *("2026-01-02", "2026-01-02T03:04:05+01:00", 5),
    ],
    f"{ASKED}.lifetimes.ca_years": [True, 0, 293, "1", 1.5, None, 9],
    f"{ASKED}.lifetimes": [{"ca_years": 100, "leaf_years": 10, "other_years": 1}, [], None],
    f"{ASKED}.stock": ["no", 0, None],
    f"{ASKED}.source": [None, [], "", {}],
    f"{INPUTS}.source.digest": [{}, [], {"gitCommit": ""}, "x"],
    f"{INPUTS}.source.digest.gitCommit": [None, "zz", "f" * 39, 5, {}],
    f"{INPUTS}.source.annotations.commitProof": ["the NSA", "compared", 5],
    f"{INPUTS}.go.annotations.version": [5, [], "../../1.15", "\x1b[2J"],
    f"{INPUTS}.go.annotations.image": [5, "golang", "golang@sha256:zz"],
    f"{INPUTS}.go.digest": [["x"], {}, {"sha256": "1" * 64}],
    "subject": [
        [],
        [{"name": "kubeadm.patch", "digest": {"sha256": "1" * 64}}],
        [{"name": 5, "digest": {"sha256": "1" * 64}}],
    ],
    "subject.kubeadm-linux-amd64.digest": [{"sha512": "1" * 128}, {"sha256": 5}],
    "subject.kubeadm-linux-amd64.name": ["kubeadm-linux-s390x"],
}
CASES = [
    pytest.param(path, value, id=f"{path.rpartition('.')[2]}-{number}-{len(path)}")
    for path, values in HOSTILE.items()
    for number, value in enumerate(values)
]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "value"), CASES)
def test_a_provenance_that_kbuild_did_not_write_is_refused_before_anything_runs(
    path: str, value: object, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads((made / "provenance.json").read_text())
    set_at(document, path, value)
    (made / "provenance.json").write_text(json.dumps(document))
    builder = Builder(made.parent / "work")
    with pytest.raises(BadProvenance):
        run(made, builder, monkeypatch)
    assert builder.requests == []


def test_an_input_that_is_named_twice_is_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads((made / "provenance.json").read_text())
    inputs = document["predicate"]["buildDefinition"]["resolvedDependencies"]
    inputs.append(inputs[0])
    (made / "provenance.json").write_text(json.dumps(document))
    with pytest.raises(BadProvenance):
        run(made, Builder(made.parent / "work"), monkeypatch)


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
def test_what_is_no_document_is_not_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "provenance.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(BadProvenance):
        run(path, Builder(tmp_path), monkeypatch)


@pytest.mark.parametrize(
    "image", ["golang@evil.example/x@sha256:{}", "golang:x@127.0.0.1:5000/x@sha256:{}"]
)
def test_an_image_of_another_host_is_not_taken_for_golangs(
    image: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(made, image.format("0" * 64), source=UPSTREAM)
    builder = Builder(made.parent / "work")
    with pytest.raises((AddressNotAllowed, BadProvenance)):
        run(path, builder, monkeypatch, source=None)
    assert builder.requests == []


def test_a_go_of_another_machine_must_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "go/bin").mkdir(parents=True)
    (tmp_path / "go/bin/go").write_text("go")
    here: dict[str, Any] = {"go_root": tmp_path / "go", "builder": "local"}
    made = make_release(tmp_path / "work", tmp_path / "v1.20.2", **here)
    builder = Builder(tmp_path / "work", **here)
    with pytest.raises(AddressNotAllowed) as caught:
        run(made, builder, monkeypatch, source=None)
    assert "--source" in caught.value.hint
    assert "--go-root" in caught.value.hint
    run(made, builder, monkeypatch, go_root=tmp_path / "go")
    assert builder.requests[0].go.root == tmp_path / "go"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"),
        (BUILD_TYPE, "https://example.invalid/other"),
        ('"lifetimes"', '"lifetime"'),
        ('"ca_years"', '"years"'),
        ('"ca_years": 100', '"ca_years": "100"'),
        ('"ca_years": 100', '"ca_years": 10000'),
        ('"stock": false', '"stock": "no"'),
        ('"stock": false', '"stock": true'),  # with 100 and 10 years
        ('"tree_state": "dirty"', '"tree_state": null'),
        ("2026-01-02T12:00:00Z", "yesterday"),
        ('"image": "golang@', '"image": 1, "was": "golang@'),
        ("{", "["),
    ],
)
def test_what_is_no_provenance_of_ours_is_refused(
    made: Path, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = edit(made, old, new)
    builder = Builder(made.parent / "work")
    with pytest.raises(BadProvenance):
        run(path, builder, monkeypatch)
    assert builder.requests == []


def test_an_older_build_type_is_refused_and_named(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = edit(made, BUILD_TYPE, "urn:kbuild:kubeadm:v1")
    with pytest.raises(BadProvenance, match="urn:kbuild:kubeadm:v1: read it with the older kbuild"):
        run(path, Builder(made.parent / "work"), monkeypatch)


def test_an_absent_provenance_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadProvenance, match="No such file"):
        run(tmp_path / "absent.json", Builder(tmp_path), monkeypatch)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
