"""New keys of CAs, encrypted with the password in CFSSL_CA_PK_PASSWORD."""

import os
import subprocess
from pathlib import Path

import pytest

from kbuild.base.errors import KbuildError
from kbuild.pki.api import Renewal, carry_out, decide, extension, plan_of
from kbuild.pki.issuing import PASSWORD
from kbuild.x509.api import BadPrivateKey, KeyKind, key_pem, load_key, new_key, public_der
from tests.support.command import run_here
from tests.unit.pki.conftest import NOW, Quiet, Recipe, facts, issue, snapshot

SECRET = "correct horse ünd battery"
TOML = """\
output = "."
encrypt-ca-keys = true
key = "{key}"
components = ["etcd", "service-account"]
[nodes.n1]
addresses = ["192.0.2.1"]
roles = ["etcd"]
"""
AUTHORITIES = ("ca", "etcd-ca", "front-proxy-ca")


@pytest.fixture(params=["ecdsa-p256", "ed25519", pytest.param("rsa-2048", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "pki.toml").write_text(TOML.format(key=request.param))
    return tmp_path


def test_only_keys_of_cas_are_encrypted_and_openssl_reads_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, SECRET)
    issue(folder)
    for path in folder.glob("*-key.pem"):
        name = path.name.removesuffix("-key.pem")
        is_encrypted = path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
        assert is_encrypted == (name in AUTHORITIES), name
        assert path.stat().st_mode & 0o777 == 0o600
    key = (folder / "ca-key.pem").read_bytes()
    assert public_der(load_key(key, lambda: SECRET)) == facts(folder / "ca.pem").public_key
    done = subprocess.run(
        ("openssl", "pkey", "-in", folder / "ca-key.pem", "-passin", f"env:{PASSWORD}", "-noout"),
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    # What they sign later is signed with the same password, and all is as planned.
    assert issue(folder) == {}
    (folder / "etcd.pem").unlink()
    assert issue(folder) == {"etcd": "missing"}


def test_without_the_right_password_nothing_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    before = snapshot(folder)
    done = run_here("pki", "issue", "--dir", folder, "-q")
    assert (done.returncode, "error[no-key-password]" in done.stderr) == (2, True)
    assert "ca, etcd-ca, front-proxy-ca" in done.stderr
    assert snapshot(folder) == before
    monkeypatch.setenv(PASSWORD, SECRET)
    issue(folder)
    (folder / "etcd.pem").unlink()
    before = snapshot(folder)
    for password, reason in (("wrong", "password is wrong"), ("", "there is no password")):
        monkeypatch.setenv(PASSWORD, password)
        with pytest.raises(KbuildError, match=reason) as caught:
            issue(folder)
        assert caught.value.kind == "wrong-key-password"
        assert "right password into the environment variable" in caught.value.hint
        assert snapshot(folder) == before


def test_the_option_does_it_for_the_files_of_cfssl_and_no_password_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, SECRET)
    recipe = Recipe(tmp_path)
    done = run_here("pki", "issue", "--dir", recipe.folder, "--encrypt-ca-keys", "--verbose")
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert not [path for path, content in snapshot(tmp_path).items() if SECRET.encode() in content]
    assert b"ENCRYPTED" in (tmp_path / "ca-key.pem").read_bytes()
    assert b"ENCRYPTED" not in (tmp_path / "server-key.pem").read_bytes()
    with pytest.raises(BadPrivateKey, match="password is wrong"):
        load_key((tmp_path / "ca-key.pem").read_bytes(), lambda: "wrong")


def test_a_rotation_encrypts_the_key_of_the_new_ca(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(tmp_path)
    common = ("--dir", recipe.folder, "--cap", "-q")
    assert run_here("pki", "issue", *common).returncode == 0
    begin = ("pki", "rotate-ca", "--step", "begin", "--encrypt-ca-keys", *common)
    assert "error[no-key-password]" in run_here(*begin).stderr
    monkeypatch.setenv(PASSWORD, SECRET)
    assert run_here(*begin).returncode == 0
    assert b"ENCRYPTED" in (tmp_path / "ca-new-key.pem").read_bytes()
    assert b"ENCRYPTED" not in (tmp_path / "ca-key.pem").read_bytes()
    for step in ("leaves", "end"):
        assert run_here("pki", "rotate-ca", "--step", step, *common).returncode == 0
    assert b"ENCRYPTED" in (tmp_path / "ca-key.pem").read_bytes()
    # So is the one after it, without the option.
    assert run_here("pki", "rotate-ca", "--step", "begin", *common).returncode == 0
    assert b"ENCRYPTED" in (tmp_path / "ca-new-key.pem").read_bytes()


def test_a_key_that_is_not_encrypted_is_told(tmp_path: Path) -> None:
    text = TOML.format(key="ecdsa-p256")
    (tmp_path / "pki.toml").write_text(text.replace("encrypt-ca-keys = true\n", ""))
    issue(tmp_path)
    (tmp_path / "pki.toml").write_text(text)
    reasons = {each.spec.name: each.reasons for each in decide(plan_of(tmp_path), NOW)}
    assert "its key is not encrypted" in reasons["ca"][0]
    assert reasons["etcd"] == ()


def test_who_wants_to_encrypt_keys_that_are_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, SECRET)
    text = TOML.format(key="ecdsa-p256")
    (tmp_path / "pki.toml").write_text(text.replace("encrypt-ca-keys = true\n", ""))
    issue(tmp_path)
    done = run_here("pki", "issue", "--encrypt-ca-keys", "--dir", tmp_path, "-q")
    assert "ca: its key is not encrypted; `openssl pkcs8 -topk8` does that\n" in done.stdout
    assert "not encrypted" not in run_here("pki", "issue", "--dir", tmp_path, "-q").stdout


def test_the_encrypted_key_of_another_ca_signs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, SECRET)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        (folder / "pki.toml").write_text(TOML.format(key="ecdsa-p256"))
        issue(folder)
    (folders[0] / "etcd-ca-key.pem").write_bytes((folders[1] / "etcd-ca-key.pem").read_bytes())
    before = snapshot(folders[0])
    plan = plan_of(folders[0])
    for decisions in (
        extension(plan, ["etcd-ca"]),
        decide(plan, NOW, Renewal(names=["etcd"])),
    ):
        with pytest.raises(KbuildError) as caught:
            carry_out(plan, decisions, NOW, Quiet())
        assert caught.value.kind == "key-of-another"
    assert snapshot(folders[0]) == before


@pytest.mark.parametrize("password", ["x" * 1024, "\udcff"])
def test_a_password_that_the_library_does_not_take_is_told(
    tmp_path: Path, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pki.toml").write_text(TOML.format(key="ecdsa-p256"))
    monkeypatch.setattr("os.environ", {**os.environ, PASSWORD: password})
    with pytest.raises(KbuildError) as caught:
        issue(tmp_path)
    assert caught.value.kind == "wrong-key-password"
    load_key(encrypted_key(), lambda: SECRET)
    with pytest.raises(BadPrivateKey, match="wrong"):
        load_key(encrypted_key(), lambda: password)


def encrypted_key() -> bytes:
    return key_pem(new_key(KeyKind(algorithm="ecdsa", size=256)), SECRET, pkcs8=True)
