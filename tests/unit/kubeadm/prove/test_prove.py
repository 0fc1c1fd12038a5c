"""The proof as the other stages call it, with a kubeadm in Python in place of the sandboxed one."""

import os
import struct
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from kbuild.base.errors import SandboxUnavailable
from kbuild.base.files import sha256
from kbuild.base.sandbox import Files, pack_files
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import CASES, Binary, Lifetimes, Proof, StoredDefaults
from kbuild.kubeadm.prove.binary import demand_run, prove_binary, prove_file, read_version
from kbuild.kubeadm.prove.errors import (
    CannotRun,
    KubeadmFailed,
    OverrideNotVisible,
    WrongBinary,
    WrongLifetime,
    WrongVersion,
)
from tests.support.fake_engine import Answer, fake_engine
from tests.support.fake_kubeadm import FakeKubeadm
from tests.support.recorder import Recorder
from tests.support.releases import LIFETIMES, make_binaries

FIELDS = {
    "major": "1",
    "minor": "20",
    "gitVersion": "v1.20.2",
    "gitCommit": "f" * 40,
    "gitTreeState": "dirty",
    "buildDate": "2026-01-02T12:00:00Z",
    "goVersion": "go1.15.15",
    "compiler": "gc",
    "platform": "linux/amd64",
}


@pytest.fixture
def kubeadm(monkeypatch: pytest.MonkeyPatch) -> FakeKubeadm:
    """Give the kubeadm that runs in place of any binary for amd64; no other one can run."""
    made = FakeKubeadm(LIFETIMES.ca, LIFETIMES.leaf)
    made.fields = dict(FIELDS)
    monkeypatch.setattr("kbuild.base.sandbox.is_available", lambda: True)
    monkeypatch.setattr(
        "kbuild.kubeadm.prove.binary.sandbox_runner",
        lambda _, arch, __: made if arch == "amd64" else None,
    )
    return made


@pytest.fixture
def binaries(tmp_path: Path) -> dict[str, Binary]:
    return {binary.arch: binary for binary in make_binaries(tmp_path)}


@pytest.mark.slow
@pytest.mark.usefixtures("kubeadm")
def test_a_binary_of_ours_is_proven_in_both_cases(
    binaries: dict[str, Binary], workspace: Workspace
) -> None:
    recorder, binary = Recorder(), binaries["amd64"]
    proof = prove_binary(binary, workspace, recorder).proof
    assert (proof.sha256, proof.ran, proof.version) == (sha256(binary.path), "native", FIELDS)
    assert {each.case for each in proof.certificates} == {"fresh-ca", "old-ca"}
    assert proof.stored_defaults is None
    assert {each.years for each in proof.certificates if each.kind == "ca"} == {100}
    assert {each.years for each in proof.certificates if each.kind != "ca"} == {10}
    assert recorder.said == [
        f"amd64: {len(proof.certificates)} certificates issued and renewed, each date right"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("does", ["override", "keep"])
@pytest.mark.parametrize("wanted", ["override", "keep", None])
def test_what_a_kubeadm_does_with_stored_defaults_is_seen_and_may_be_demanded(
    does: StoredDefaults,
    wanted: StoredDefaults | None,
    kubeadm: FakeKubeadm,
    binaries: dict[str, Binary],
    workspace: Workspace,
) -> None:
    kubeadm.fields["gitVersion"] = "v1.33.3"
    kubeadm.kept = {"ca", "leaf"} if does == "keep" else set()
    words = (binaries["amd64"].path, None, LIFETIMES, wanted, workspace, Recorder())
    if wanted not in (None, does):
        with pytest.raises(WrongLifetime, match="stored-defaults"):
            prove_file(*words)
        return
    proof = prove_file(*words)
    assert proof.stored_defaults == does
    assert {each.case for each in proof.certificates} == {*CASES}


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["v1.20.2", "v1.33.3"])
@pytest.mark.parametrize("wanted", ["override", "keep", None])
def test_with_stocks_own_lifetimes_nobody_can_tell_an_override(
    tag: str,
    wanted: StoredDefaults | None,
    kubeadm: FakeKubeadm,
    binaries: dict[str, Binary],
    workspace: Workspace,
) -> None:
    stock = Lifetimes(ca_years=10, leaf_years=1)
    kubeadm.ca, kubeadm.leaf = stock.ca, stock.leaf
    kubeadm.fields["gitVersion"] = tag
    words = (binaries["amd64"].path, None, stock, wanted, workspace, Recorder())
    if wanted == "override" and tag == "v1.33.3":
        with pytest.raises(OverrideNotVisible, match="are stock's own"):
            prove_file(*words)
        return
    assert prove_file(*words).stored_defaults == ("keep" if tag == "v1.33.3" else None)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["override", "keep", None])
def test_a_binary_of_ours_must_do_with_stored_defaults_what_its_tree_says(
    chosen: StoredDefaults | None,
    kubeadm: FakeKubeadm,
    binaries: dict[str, Binary],
    workspace: Workspace,
) -> None:
    binary = binaries["amd64"]
    tree = replace(
        binary.tree, stored_defaults=chosen, source=replace(binary.tree.source, tag="v1.33.3")
    )
    kubeadm.fields |= {"gitVersion": "v1.33.3", "minor": "33"}
    binary = replace(binary, tree=tree)
    if chosen == "keep":
        with pytest.raises(WrongLifetime, match="stored-defaults"):
            prove_binary(binary, workspace, Recorder())
        return
    proof = prove_binary(binary, workspace, Recorder()).proof
    assert proof.stored_defaults == chosen
    assert len({each.case for each in proof.certificates}) == (4 if chosen else 2)


@pytest.mark.parametrize("name", FIELDS)
def test_a_binary_that_says_another_thing_of_itself_is_refused(
    name: str, kubeadm: FakeKubeadm, binaries: dict[str, Binary], workspace: Workspace
) -> None:
    kubeadm.fields[name] = "another"
    with pytest.raises(WrongVersion, match=name):
        prove_binary(binaries["amd64"], workspace, Recorder())
    assert not any("init" in call for call in kubeadm.calls)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["issued", "renewed"])
def test_one_date_that_is_off_by_a_day_fails_the_proof(
    moment: str, kubeadm: FakeKubeadm, binaries: dict[str, Binary], workspace: Workspace
) -> None:
    kubeadm.wrong = {("pki/apiserver.crt", moment): timedelta(days=-1)}
    with pytest.raises(WrongLifetime):
        prove_binary(binaries["amd64"], workspace, Recorder())


@pytest.mark.usefixtures("kubeadm")
def test_a_binary_of_another_architecture_than_it_was_built_for_is_refused(
    binaries: dict[str, Binary], workspace: Workspace
) -> None:
    binary = replace(binaries["arm64"], path=binaries["amd64"].path)
    with pytest.raises(WrongBinary, match="it is for amd64, not arm64"):
        prove_binary(binary, workspace, Recorder())


@pytest.mark.usefixtures("kubeadm")
def test_a_foreign_binary_that_cannot_run_here_has_no_certificates(
    binaries: dict[str, Binary], workspace: Workspace
) -> None:
    recorder = Recorder()
    proof = prove_binary(binaries["arm64"], workspace, recorder).proof
    assert (proof.ran, proof.certificates) == (None, ())
    assert "no certificate was checked" in recorder.said[0]
    with pytest.raises(CannotRun, match="it is for arm64"):
        demand_run(proof)
    with pytest.raises(CannotRun):
        prove_file(binaries["arm64"].path, None, LIFETIMES, None, workspace.part("2"), recorder)


@pytest.mark.parametrize(
    ("version", "expected", "right"),
    [
        ("v1.20.2", None, True),
        ("v1.20.2", "v1.20.2", True),
        ("v1.20.2", "v1.20.3", False),
        ("v1.20.2-dirty", None, True),
        ("nonsense", None, False),
        ("v1." + "9" * 5000, None, False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_any_kubeadm_is_proven_by_what_it_says_and_issues(
    version: str,
    expected: str | None,
    right: bool,
    kubeadm: FakeKubeadm,
    binaries: dict[str, Binary],
    workspace: Workspace,
) -> None:
    kubeadm.fields["gitVersion"] = version
    words = (binaries["amd64"].path, expected, LIFETIMES, None, workspace, Recorder())
    if right:
        assert prove_file(*words).certificates
    else:
        with pytest.raises(WrongVersion, match="gitVersion"):
            prove_file(*words)


@pytest.mark.slow
def test_without_lifetimes_it_must_keep_to_those_that_it_issues_first(
    kubeadm: FakeKubeadm, binaries: dict[str, Binary], workspace: Workspace
) -> None:
    def prove(part: str) -> Proof:
        path, parts = binaries["amd64"].path, workspace.part(part)
        return prove_file(path, None, None, None, parts, Recorder())

    years = {(c.kind == "ca", c.years) for c in prove("right").certificates}
    assert years == {(True, LIFETIMES.ca_years), (False, LIFETIMES.leaf_years)}
    paths = ("pki/apiserver-etcd-client.crt", "pki/etcd/server.crt")
    kubeadm.wrong = {(path, "issued"): timedelta(days=-1) for path in paths}
    with pytest.raises(WrongLifetime) as caught:
        prove("wrong")
    told = (caught.value.happened, *caught.value.details.splitlines())
    assert [path for path in paths if any(line.startswith(path) for line in told)] == [*paths]


@pytest.mark.usefixtures("kubeadm")
def test_a_file_larger_than_any_kubeadm_is_not_copied(
    binaries: dict[str, Binary], workspace: Workspace
) -> None:
    path = binaries["amd64"].path
    os.truncate(path, 257 << 20)
    with pytest.raises(WrongBinary, match="larger than 256 MiB"):
        prove_file(path, None, LIFETIMES, None, workspace, Recorder())
    assert list(workspace.work.iterdir()) == []


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"clientVersion": 1}', "[" * 100_000])
def test_a_version_that_is_no_json_of_one_is_told(
    text: str,
    kubeadm: FakeKubeadm,
    binaries: dict[str, Binary],
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(_: tuple[str, ...], files: Files) -> tuple[str, Files]:
        return text, files

    monkeypatch.setattr(kubeadm, "run", run)
    with pytest.raises(KubeadmFailed):
        read_version(binaries["amd64"].path, workspace)


def test_without_a_sandbox_and_an_engine_nothing_is_run(
    binaries: dict[str, Binary], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.base.sandbox.why_unavailable", lambda: "bwrap failed")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(SandboxUnavailable, match=r"the proof: bwrap failed, and .*docker"):
        read_version(binaries["amd64"].path, workspace)


# --- in a container -----------------------------------------------------------------------------


def engine_that_prints(text: str, code: int, run_id: str) -> dict[str, list[Answer]]:
    about = {"Id": "proof", "Config": {"Tty": False}, "State": {}}
    frame = struct.pack(">BxxxL", 1, len(text)) + text.encode()
    return {
        "GET /containers/json": [(200, b"[]")],
        "GET /volumes": [(200, {"Volumes": []})],
        "GET /images/json": [(200, b"[]")],
        "POST /images/create": [(200, {"status": "sha256:1"})],
        f"DELETE /images/kbuild-proof:{run_id}": [(200, b"[]")],
        "POST /volumes/create": [(201, {"Name": "pki"})],
        "DELETE /volumes/pki": [(204, b"")],
        "POST /containers/create": [(201, {"Id": "proof"})],
        "GET /containers/proof/json": [(200, about)],
        "PUT /containers/proof/archive": [(200, {})],
        "POST /containers/proof/start": [(204, b"")],
        "GET /containers/proof/logs": [(200, frame)],
        "POST /containers/proof/wait": [(200, {"StatusCode": code})],
        "GET /containers/proof/archive": [(200, pack_files({}))],
        "DELETE /containers/proof": [(204, b"")],
    }


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 1])
def test_where_there_is_no_sandbox_it_runs_in_a_container_of_nothing_else(
    code: int,
    binaries: dict[str, Binary],
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kbuild.base.sandbox.is_available", lambda: False)
    text = '{"clientVersion": {"gitVersion": "v1.20.2"}}'
    with fake_engine(engine_that_prints(text, code, workspace.run_id)) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        if code == 0:
            found = read_version(binaries["amd64"].path, workspace)
            assert found == {"gitVersion": "v1.20.2"}
        else:
            with pytest.raises(KubeadmFailed):
                read_version(binaries["amd64"].path, workspace)
        assert binaries["amd64"].path.read_bytes() in engine.sent["POST /images/create"][0]
        [created] = engine.sent["POST /containers/create"]
        assert b'"NetworkMode": "none"' in created
        removed = {each for each in engine.asked if each.startswith("DELETE")}
        assert {each.split("/")[1] for each in removed} == {"images", "volumes", "containers"}
        assert read_version(binaries["arm64"].path, workspace) is None
