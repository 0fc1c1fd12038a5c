"""Keyless signing, through sigstore's own client, with an instance of its services on loopback."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sigstore.models import ClientTrustConfig

from kbuild.base import network
from kbuild.release.check import check_release
from kbuild.release.demands import Demands
from kbuild.release.errors import AlreadySigned, KeylessFailed
from kbuild.release.signing import sign_keyless, sign_with_key
from kbuild.release.writer import list_files
from tests.support.hostile_servers import drip, hostile_server
from tests.support.releases import documents, make_release
from tests.support.sigstore_instance import IDENTITY, ISSUER, Instance, running_sigstore

SUMS, PROVENANCE = "SHA256SUMS.sigstore.json", "provenance.sigstore.json"


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with running_sigstore() as found:
        yield found


@pytest.fixture(scope="module")
def trust(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trust") / "trust.json"
    path.write_text(json.dumps(instance.trust_config()))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_release(tmp_path / "work", tmp_path / "v1.20.2")


@pytest.fixture
def ci_job(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "a token")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{instance.address}/oidc?x=y")


def found(folder: Path, trust: Path, identity: str = IDENTITY, issuer: str = ISSUER) -> list[str]:
    checked = check_release(folder, Demands(identity=identity, issuer=issuer, trust_config=trust))
    return [f"{problem.kind} {problem.file}" for problem in checked.problems]


@pytest.mark.usefixtures("ci_job")
def test_a_job_signs_with_its_identity_and_that_is_checked(
    folder: Path, trust: Path, instance: Instance
) -> None:
    before = instance.entries
    sign_keyless(folder, documents(folder), trust)
    assert instance.entries == before + 2
    checked = check_release(folder, Demands(identity=IDENTITY, issuer=ISSUER, trust_config=trust))
    assert checked.problems == ()
    assert checked.signer is not None
    assert (checked.signer.kind, checked.signer.trusted) == ("keyless", True)
    assert IDENTITY in checked.signer.name
    assert {SUMS, PROVENANCE} < {*list_files(folder)}


@pytest.mark.usefixtures("ci_job")
def test_it_is_another_identity_or_issuer_or_nobody_named(folder: Path, trust: Path) -> None:
    sign_keyless(folder, documents(folder), trust)
    wrong = [f"different {SUMS}", f"different {PROVENANCE}"]
    assert found(folder, trust, identity="https://github.com/another") == wrong
    assert found(folder, trust, issuer="https://accounts.example.invalid") == wrong
    assert [f"{p.kind} {p.file}" for p in check_release(folder).problems] == [f"different {SUMS}"]


@pytest.mark.usefixtures("ci_job")
def test_another_instance_does_not_vouch_for_it(folder: Path, trust: Path, tmp_path: Path) -> None:
    sign_keyless(folder, documents(folder), trust)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(Instance().trust_config()))
    assert found(folder, other) == [f"different {SUMS}", f"different {PROVENANCE}"]


@pytest.mark.slow
@pytest.mark.usefixtures("ci_job")
def test_what_is_changed_after_signing_is_found(folder: Path, trust: Path, tmp_path: Path) -> None:
    other = make_release(tmp_path / "work2", tmp_path / "other", tree_state="clean")
    sign_keyless(other, documents(other), trust)
    sign_keyless(folder, documents(folder), trust)
    for name in (SUMS, PROVENANCE):
        kept = (folder / name).read_bytes()
        shutil.copyfile(other / name, folder / name)
        assert found(folder, trust) == [f"different {name}"]
        (folder / name).write_bytes(kept.replace(b"A", b"B", 1))
        assert found(folder, trust) == [f"different {name}"]
        (folder / name).write_bytes(kept)
    assert found(folder, trust) == []
    (folder / "SHA256SUMS").unlink()
    assert "missing SHA256SUMS" in found(folder, trust)


@pytest.mark.usefixtures("ci_job")
def test_what_was_signed_with_a_key_is_signed_keyless_now(
    folder: Path, trust: Path, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    sign_with_key(folder, documents(folder), tmp_path / "key")
    with pytest.raises(AlreadySigned):
        sign_keyless(folder, documents(folder), trust)
    sign_keyless(folder, documents(folder), trust, force=True)
    assert found(folder, trust) == []


def test_without_a_job_nothing_is_signed(
    folder: Path, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)
    before = list_files(folder)
    with pytest.raises(KeylessFailed):
        sign_keyless(folder, documents(folder), trust)
    assert list_files(folder) == before


@pytest.mark.usefixtures("ci_job")
def test_services_that_fail_leave_nothing(
    folder: Path, trust: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list_files(folder)
    monkeypatch.setattr(instance, "ct_key", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(KeylessFailed):
        sign_keyless(folder, documents(folder), trust)
    assert list_files(folder) == before


@pytest.mark.slow
@pytest.mark.usefixtures("ci_job")
@pytest.mark.parametrize("content", [None, "", "{}", "[1]"])
def test_a_trust_config_that_is_none_is_told(
    folder: Path, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "trust.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(KeylessFailed):
        sign_keyless(folder, documents(folder), path)


@pytest.mark.timeout(30)
def test_a_service_that_drips_is_left(
    folder: Path, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "stall_timeout", 0.5)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "a token")
    before = {*list_files(folder)}
    with hostile_server(drip(b" ", at_once=b"HTTP/1.1 200 OK\r\n\r\n")) as server:
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{server.address}/oidc?x=y")
        with pytest.raises(KeylessFailed, match=r"no answer in 2 s \(--stall-timeout\)"):
            sign_keyless(folder, documents(folder), trust)
    assert {*list_files(folder)} == before


@pytest.mark.usefixtures("ci_job")
@pytest.mark.timeout(30)
def test_a_source_of_trust_that_does_not_answer_is_left(
    folder: Path, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_keyless(folder, documents(folder), trust)
    monkeypatch.setattr(network, "stall_timeout", 0.5)
    monkeypatch.setattr(ClientTrustConfig, "from_json", lambda _: time.sleep(20))
    with pytest.raises(KeylessFailed, match="no answer in 0"):
        found(folder, trust)
