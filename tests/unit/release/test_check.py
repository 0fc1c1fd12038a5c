import json
import os
import random
import re
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kbuild.release.check import check_folder, check_release
from kbuild.release.demands import Demands
from kbuild.release.errors import NotARelease
from kbuild.release.writer import list_files
from tests.support.goelf import FUNCTIONS, MODULES, write_go_elf
from tests.support.releases import ARCHIVE, forge, forge_sums, make_release

AMD64, ARM64 = "kubeadm-linux-amd64", "kubeadm-linux-arm64"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    return make_release(folder / "work", folder / "v1.20.2")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "v1.20.2")


def found(folder: Path) -> list[str]:
    return [f"{p.kind} {p.file}" for p in check_release(folder).problems]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("layout", ["flat", "tree"])
def test_a_release_as_it_was_made_is_whole(layout: str, tmp_path: Path) -> None:
    folder = make_release(tmp_path / "work", tmp_path / "v1.20.2", layout=layout)
    checked = check_release(folder)
    assert checked.problems == ()
    assert checked.signer is None
    assert set(checked.files) == set(list_files(folder))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(18))
def test_each_file_that_is_missing_cut_or_flipped_is_named(folder: Path, number: int) -> None:
    name = list_files(folder)[number]
    content = (folder / name).read_bytes()
    for changed in (None, b"", content[:-1], content + b"\n", _flip(content)):
        (folder / name).unlink(missing_ok=True)
        if changed is not None:
            (folder / name).write_bytes(changed)
        problems = check_release(folder).problems
        # What is beside a file is held against the file, and the other way round.
        about = [str(problem) for problem in problems if name in str(problem)]
        assert about, (name, problems)
        if changed is None:
            assert f"missing {name}" in found(folder)


def _flip(content: bytes) -> bytes:
    at = random.Random(len(content)).randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_there_are_as_many_files_as_are_broken_above(folder: Path) -> None:
    assert len(list_files(folder)) == 18


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_one_bit_that_is_flipped_is_found(
    made: Path, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    name = data.draw(st.sampled_from(list_files(folder)))
    content = bytearray((folder / name).read_bytes())
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    (folder / name).write_bytes(content)
    assert check_release(folder).problems != ()


def test_a_swapped_binary_is_found(folder: Path) -> None:
    (folder / AMD64).rename(folder / "x")
    (folder / ARM64).rename(folder / AMD64)
    (folder / "x").rename(folder / ARM64)
    assert {f"different {AMD64}", f"different {ARM64}"} <= set(found(folder))


def test_a_swapped_binary_with_sums_to_fit_is_found(folder: Path) -> None:
    shutil.copyfile(folder / ARM64, folder / AMD64)
    forge(folder)
    assert f"different {AMD64}" in found(folder)  # its ELF file is of another machine
    assert "different proof.json" in found(folder)
    assert "different build.json" in found(folder)


def test_another_binary_with_sums_to_fit_is_found_by_proof_build_and_sbom(folder: Path) -> None:
    modules = MODULES.replace("cobra\tv1.1.1", "cobra\tv1.1.2")
    write_go_elf(folder / AMD64, modules=modules)
    forge(folder)
    assert found(folder) == [
        "different proof.json",
        "different build.json",
        "different kubeadm-amd64.spdx.json",
        "different kubeadm-amd64.spdx.json",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sums", ["SHA256SUMS", "SHA512SUMS"])
@pytest.mark.parametrize("change", ["removed", "doubled", "added", "no sum"])
def test_a_line_of_the_sums_too_few_or_too_many_is_found(
    folder: Path, sums: str, change: str
) -> None:
    lines = (folder / sums).read_text().splitlines(keepends=True)
    changed = {
        "removed": lines[1:],
        "doubled": [*lines, lines[0]],
        "added": [*lines, lines[0].replace("build.json", "other.json")],
        "no sum": ["build.json\n", *lines[1:]],
    }[change]
    (folder / sums).write_text("".join(changed))
    assert f"different {sums}" in found(folder)


def test_a_second_provenance_is_found_though_the_sums_name_it(folder: Path) -> None:
    shutil.copyfile(folder / "provenance.json", folder / "provenance-2.json")
    assert found(folder) == ["extra provenance-2.json"]
    forge(folder)
    assert "extra provenance-2.json" in found(folder)


@pytest.mark.parametrize("kind", ["folder", "empty folder", "hidden", "link", "pipe"])
def test_whatever_else_is_there_is_named(folder: Path, kind: str) -> None:
    path = folder / ".else"
    match kind:
        case "folder":
            path.mkdir()
            (path / "file").touch()
        case "empty folder":
            path.mkdir()
        case "link":
            path.symlink_to("/etc/passwd")
        case "pipe":
            os.mkfifo(path)
        case _:
            path.touch()
    assert any(".else" in text for text in found(folder))


def test_a_pipe_in_a_files_place_is_not_read(folder: Path) -> None:
    for name in ("provenance.json", "SHA256SUMS.sigstore.json"):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        assert f"different {name}" in found(folder)


def test_a_link_in_a_files_place_is_found(folder: Path, tmp_path: Path) -> None:
    (folder / "proof.json").rename(tmp_path / "elsewhere")
    (folder / "proof.json").symlink_to(tmp_path / "elsewhere")
    assert "different proof.json" in found(folder)


CONTRADICTIONS: list[tuple[str, str, str]] = [
    ("proof.json", '"years": 100', '"years": 99'),
    ("proof.json", "2125-12-09T12:00:00Z", "2125-12-08T12:00:00Z"),
    ("proof.json", "2125-12-09T12:00:00Z", "2225-12-09T12:00:00Z"),
    ("proof.json", '"gitVersion": "v1.20.2"', '"gitVersion": "v1.20.3"'),
    ("proof.json", '"goVersion": "go1.15.15"', '"goVersion": "go1.15.14"'),
    ("proof.json", "f" * 40, "e" * 40),
    ("proof.json", "2026-01-02T12:00:00Z", "2026-01-02T13:00:00Z"),
    ("proof.json", "kubeadm-linux-arm64", "kubeadm-linux-arm"),
    ("proof.json", '"stored_defaults": null', '"stored_defaults": "keep"'),
    ("proof.json", '"case": "fresh-ca"', '"case": "another"'),
    ("proof.json", '"case": "fresh-ca"', '"case": "stored-values"'),
    ("build.json", '"stored_defaults": "override"', '"stored_defaults": "keep"'),
    ("build.json", "f" * 40, "e" * 40),
    ("build.json", '"ca_years": 100', '"ca_years": 99'),
    ("build.json", "1" * 64, "2" * 64),
    ("build.json", '"version": "1.15.15"', '"version": "1.15.14"'),
    ("build.json", "golang@sha256:0", "golang@sha256:1"),
    ("build.json", '"go",\n        "arm64"', '"go",\n        "amd64"'),
    ("kubeadm.patch", "+++ b/x", "+++ x"),
    ("kubeadm-amd64.spdx.json", '"v1.1.1"', '"v1.1.0"'),
    ("kubeadm-amd64.spdx.json", "github.com/spf13/cobra", "github.com/spf13/cabra"),
    ("kubeadm-amd64.spdx.json", "SPDX-2.3", "SPDX-9"),
    ("kubeadm-amd64.spdx.json", '"checksumValue": "', '"checksumValue": "0'),
    ("kubeadm-arm64.spdx.json", "{", ""),
]


@pytest.mark.parametrize(("name", "old", "new"), CONTRADICTIONS)
def test_what_contradicts_the_rest_is_found_though_the_sums_fit(
    folder: Path, name: str, old: str, new: str
) -> None:
    edit(folder / name, old, new)
    forge(folder)
    assert f"different {name}" in found(folder)


@pytest.mark.parametrize("chosen", ["override", "keep"])
def test_the_stored_cases_of_a_proof_are_held_against_what_was_asked_for(
    chosen: str, tmp_path: Path
) -> None:
    folder = make_release(tmp_path / "work", tmp_path / "v1.20.2", stored_defaults=chosen)
    path = folder / "proof.json"
    document = json.loads(path.read_text())
    spans = {"override": (100, 10), "keep": (10, 1)}
    for case, years in (("stored-defaults", spans[chosen]), ("stored-values", (3, 2))):
        for proof in document["binaries"]:
            proof["stored_defaults"] = chosen
            for certificate, span in zip(proof["certificates"][:2], years, strict=True):
                born = datetime.fromisoformat(certificate["not_before"])
                ends = (born + timedelta(days=365 * span)).strftime("%Y-%m-%dT%H:%M:%SZ")
                new = {"case": case, "years": span, "not_after": ends}
                proof["certificates"].append({**certificate, **new})
    path.write_text(json.dumps(document))
    forge(folder)
    assert found(folder) == []
    edit(path, '"case": "stored-defaults"', '"case": "stored-values"')
    forge(folder)
    assert "different proof.json" in found(folder)


def test_a_release_by_an_earlier_kbuild_says_nothing_of_stored_defaults(folder: Path) -> None:
    for name in ("proof.json", "build.json", "provenance.json"):
        path = folder / name
        text, count = re.subn(r'\n *"stored_defaults": [a-z"]+(,?)(?=\n)', "", path.read_text())
        assert count
        path.write_text(re.sub(r",(\s*})", r"\1", text))
    forge(folder)
    assert found(folder) == []


def _asked(document: dict[str, Any], **values: object) -> None:
    document["predicate"]["buildDefinition"]["externalParameters"].update(values)


MISFITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "one architecture": lambda d: _asked(d, arches=["amd64"]),
    "no architecture": lambda d: _asked(d, arches=[]),
    "a path for an architecture": lambda d: _asked(d, arches=["../x"]),
    "a package": lambda d: _asked(d, package=["deb"]),
    "other lifetimes": lambda d: _asked(d, lifetimes={"ca_years": 99, "leaf_years": 10}),
    "no dependencies": lambda d: d["predicate"]["buildDefinition"].update(resolvedDependencies=[]),
    "another build type": lambda d: d["predicate"]["buildDefinition"].update(buildType="other"),
    "a subject twice": lambda d: d["subject"].append(d["subject"][0]),
    "a subject too few": lambda d: d["subject"].pop(),
    "a subject without digest": lambda d: d["subject"][0].update(digest={}),
    "no predicate": lambda d: d.update(predicate=None),
    "no type": lambda d: d.update(_type=3),
    "another word for stored defaults": lambda d: _asked(d, stored_defaults="none"),
    "no word for stored defaults": lambda d: _asked(d, stored_defaults=None),
    "another layout": lambda d: _asked(d, layout="other"),
    "a path for a version": lambda d: _asked(d, version="../v1.20.2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("misfit", MISFITS)
def test_a_provenance_that_does_not_fit_is_found(folder: Path, misfit: str) -> None:
    path = folder / "provenance.json"
    document = json.loads(path.read_text())
    MISFITS[misfit](document)
    path.write_text(json.dumps(document))
    forge_sums(folder)
    assert found(folder) != []


def test_a_gopath_build_is_held_against_its_function_table(tmp_path: Path) -> None:
    vendored = tmp_path / "work/vendor/modules.txt"
    vendored.parent.mkdir(parents=True)
    vendored.write_text(
        "# github.com/spf13/cobra v1.1.1 => github.com/spf13/cobra v1.1.2\n## explicit\n"
        "github.com/spf13/cobra\n# gopkg.in/yaml.v2 v2.2.8\ngopkg.in/yaml.v2\n"
        "# not/in/it v1.0.0\nnot/in/it\n"
    )
    folder = make_release(tmp_path / "work", tmp_path / "out", modules="")
    sbom = json.loads((folder / "kubeadm-amd64.spdx.json").read_text())
    assert {p["name"]: p["versionInfo"] for p in sbom["packages"]} == {
        "kubeadm": "v1.20.2",
        "stdlib": "1.15.15",
        "github.com/spf13/cobra": "v1.1.2",
        "gopkg.in/yaml.v2": "v2.2.8",
    }
    assert found(folder) == []
    for old, new in (("gopkg.in/yaml.v2", "gopkg.in/yaml.v3"), ("spf13/cobra", "spf13/cabra")):
        text = (folder / "kubeadm-amd64.spdx.json").read_text()
        edit(folder / "kubeadm-amd64.spdx.json", old, new)
        forge(folder)
        assert "different kubeadm-amd64.spdx.json" in found(folder)
        (folder / "kubeadm-amd64.spdx.json").write_text(text)
    assert len(FUNCTIONS) == 4  # two of them vendored


def test_one_that_was_not_run_has_no_certificates_to_check(folder: Path) -> None:
    path = folder / "proof.json"
    document = json.loads(path.read_text())
    document["binaries"][1] |= {"ran": None, "version": {}, "certificates": []}
    path.write_text(json.dumps(document))
    forge(folder)
    assert found(folder) == []


def test_a_proof_without_certificates_is_none(folder: Path) -> None:
    path = folder / "proof.json"
    document = json.loads(path.read_text())
    document["binaries"][0]["certificates"] = []
    path.write_text(json.dumps(document))
    forge(folder)
    assert found(folder) == ["different proof.json"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["provenance.json", "proof.json", "build.json", "kubeadm-amd64.spdx.json"]
)
@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, "null", "[]", '{"binaries": [1]}', '{"a": 1e999}', "\udcff", '{"packages": 3}'],
    ids=["deep", "null", "list", "numbers", "infinity", "no UTF-8", "packages"],
)
def test_a_document_of_nonsense_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    if name == "provenance.json":
        forge_sums(folder)
    else:
        forge(folder)
    assert f"different {name}" in found(folder)


def test_numbers_beyond_all_years_are_named(folder: Path) -> None:
    edit(folder / "proof.json", '"years": 100', '"years": 1' + "0" * 30)
    path = folder / "provenance.json"
    edit(path, '"ca_years": 100', '"ca_years": 1' + "0" * 30)
    forge(folder)
    assert found(folder) == ["different provenance.json"]


def test_a_folder_of_releases_is_every_one_of_them(made: Path, tmp_path: Path) -> None:
    for name in ("v1.20.2", "v1.20.3"):
        shutil.copytree(made, tmp_path / name)
    checked = check_folder(tmp_path)
    assert [each.folder for each in checked] == [tmp_path / "v1.20.2", tmp_path / "v1.20.3"]
    assert [each.problems for each in checked] == [(), ()]
    assert [each.folder for each in check_folder(tmp_path / "v1.20.2")] == [tmp_path / "v1.20.2"]


@pytest.mark.parametrize(
    "name",
    [".v1.20.3.kbuild-new-0123456789ab", ".v1.kbuild-old-0123456789ab", ".kbuild-new-0123456789ab"],
)
def test_what_a_killed_run_left_is_no_release_even_if_it_is_whole(
    name: str, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / name)
    with pytest.raises(NotARelease):
        check_folder(tmp_path)
    shutil.copytree(made, tmp_path / "v1.20.2")
    stray, release = check_folder(tmp_path)
    assert [(each.kind, each.file) for each in stray.problems] == [("extra", name)]
    assert (release.folder, release.problems) == (tmp_path / "v1.20.2", ())


def test_a_release_may_have_a_name_like_that_of_an_unfinished_one(
    made: Path, tmp_path: Path
) -> None:
    for name in ("v1.kbuild-new-0123456789ab", ".v1.kbuild-new-0123456789"):
        shutil.copytree(made, tmp_path / name)
    assert [each.problems for each in check_folder(tmp_path)] == [(), ()]


@pytest.mark.parametrize("kind", ["absent", "file", "empty"])
def test_what_is_no_release_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "file":
        path.touch()
    elif kind == "empty":
        path.mkdir()
    with pytest.raises(NotARelease):
        check_folder(path)


def test_a_commit_that_an_archive_claims_is_not_passed_off_as_verified(tmp_path: Path) -> None:
    folder = make_release(tmp_path / "work", tmp_path / "v1.20.2", tree_changes=ARCHIVE)
    assert found(folder) == []
    path = folder / "provenance.json"
    document = json.loads(path.read_text())
    [source] = [
        each
        for each in document["predicate"]["buildDefinition"]["resolvedDependencies"]
        if each["name"] == "source"
    ]
    source["digest"]["gitCommit"] = source["annotations"].pop("claimedCommit")
    path.write_text(json.dumps(document))
    forge(folder)
    problems = check_release(folder).problems
    assert any("claimedCommit" in problem.what for problem in problems)


def without_run(folder: Path) -> Path:
    """Make a release one whose binary for arm64 could not be run."""
    path = folder / "proof.json"
    proof = json.loads(path.read_text())
    [arm] = [each for each in proof["binaries"] if each["arch"] == "arm64"]
    arm |= {"ran": None, "version": {}, "certificates": []}
    path.write_text(json.dumps(proof))
    forge(folder)
    return folder


def test_lifetimes_that_were_not_proven_meet_no_demand(tmp_path: Path) -> None:
    folder = without_run(make_release(tmp_path / "work", tmp_path / "v1.20.2"))
    checked = check_release(folder)
    assert checked.problems == ()
    assert checked.proven == {"amd64": 2, "arm64": 0}
    for demand in (Demands(ca_years=100), Demands(leaf_years=10)):
        [problem] = check_release(folder, demand).problems
        assert "arm64 was not run" in problem.what


@pytest.mark.slow
@pytest.mark.parametrize("ran", ["x", "", True, 5])
def test_a_proof_that_ran_in_no_way_that_kbuild_knows_is_found(tmp_path: Path, ran: object) -> None:
    folder = make_release(tmp_path / "work", tmp_path / "v1.20.2")
    path = folder / "proof.json"
    proof = json.loads(path.read_text())
    proof["binaries"][0]["ran"] = ran
    path.write_text(json.dumps(proof))
    forge(folder)
    assert any("unknown way to run" in problem.what for problem in check_release(folder).problems)
