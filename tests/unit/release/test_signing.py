import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from nacl.secret import SecretBox
from sigstore_models.bundle.v1 import Bundle

from kbuild.release.check import check_release
from kbuild.release.demands import Demands
from kbuild.release.errors import AlreadySigned, BadKey, KeylessFailed
from kbuild.release.signing import sign_keyless, sign_with_key
from kbuild.release.writer import list_files
from tests.support.releases import documents, make_release

SUMS, PROVENANCE = "SHA256SUMS.sigstore.json", "provenance.sigstore.json"
PASSWORD = b"a password"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    return make_release(folder / "work", folder / "v1.20.2")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "v1.20.2")


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def write_key(path: Path, key: ec.EllipticCurvePrivateKey, password: bytes = b"") -> Path:
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return path


def write_public(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    path.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return path


def write_cosign_key(path: Path, key: ec.EllipticCurvePrivateKey, label: str) -> Path:
    """Write a key as `cosign generate-key-pair` does."""
    der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    salt, nonce = bytes(32), bytes(24)
    secret = hashlib.scrypt(PASSWORD, salt=salt, n=2**15, r=8, p=1, maxmem=2**26, dklen=32)
    document = {
        "kdf": {
            "name": "scrypt",
            "params": {"N": 2**15, "r": 8, "p": 1},
            "salt": base64.b64encode(salt).decode(),
        },
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(nonce).decode()},
        "ciphertext": base64.b64encode(SecretBox(secret).encrypt(der, nonce).ciphertext).decode(),
    }
    body = base64.encodebytes(json.dumps(document).encode()).decode()
    path.write_text(f"-----BEGIN {label}-----\n{body}-----END {label}-----\n")
    return path


def found(folder: Path, public: Path | None = None) -> list[str]:
    return [f"{p.kind} {p.file}" for p in check_release(folder, Demands(key=public)).problems]


def test_a_signed_release_is_whole_and_signed_by_its_key(
    folder: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    signer = sign_with_key(folder, documents(folder), write_key(tmp_path / "key", key))
    public = write_public(tmp_path / "public", key)
    checked = check_release(folder, Demands(key=public))
    assert checked.problems == ()
    assert checked.signer == signer
    unnamed = check_release(folder).signer
    assert unnamed is not None
    assert not unnamed.trusted
    assert {SUMS, PROVENANCE, "cosign.pub"} < {*list_files(folder)}
    assert not any(name.startswith(".") for name in list_files(folder))


def test_openssl_verifies_the_signatures(
    folder: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    sign_with_key(folder, documents(folder), write_key(tmp_path / "key", key))
    sums, statement = (json.loads((folder / name).read_text()) for name in (SUMS, PROVENANCE))
    envelope = statement["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    assert payload == (folder / "provenance.json").read_bytes()
    kind = envelope["payloadType"]
    pae = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    signed = [
        ((folder / "SHA256SUMS").read_bytes(), sums["messageSignature"]["signature"]),
        (pae, envelope["signatures"][0]["sig"]),
    ]
    for message, signature in signed:
        (tmp_path / "message").write_bytes(message)
        (tmp_path / "signature").write_bytes(base64.b64decode(signature))
        verify = ("openssl", "dgst", "-sha256", "-verify", folder / "cosign.pub")
        subprocess.run(
            [*verify, "-signature", tmp_path / "signature", tmp_path / "message"],
            check=True,
            capture_output=True,
        )


@pytest.mark.parametrize("name", [SUMS, PROVENANCE])
def test_the_bundles_are_what_sigstore_reads(
    folder: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey, name: str
) -> None:
    sign_with_key(folder, documents(folder), write_key(tmp_path / "key", key))
    bundle = Bundle.from_json((folder / name).read_bytes())
    assert bundle.media_type == "application/vnd.dev.sigstore.bundle.v0.3+json"
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert bundle.verification_material.public_key is not None
    hint = bundle.verification_material.public_key.hint
    assert hint == base64.b64encode(hashlib.sha256(public).digest()).decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    "label", ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"]
)
def test_cosigns_own_key_signs(
    folder: Path,
    tmp_path: Path,
    key: ec.EllipticCurvePrivateKey,
    label: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_cosign_key(tmp_path / "cosign.key", key, label)
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD.decode())
    sign_with_key(folder, documents(folder), path)
    assert found(folder, write_public(tmp_path / "public", key)) == []
    monkeypatch.setenv("COSIGN_PASSWORD", "another")
    with pytest.raises(BadKey, match="its password is not the one"):
        sign_with_key(folder, documents(folder), path)
    monkeypatch.delenv("COSIGN_PASSWORD")
    with pytest.raises(BadKey, match="it is encrypted, and COSIGN_PASSWORD is not set"):
        sign_with_key(folder, documents(folder), path)


def test_a_pem_with_a_password_signs(
    folder: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_key(tmp_path / "key", key, PASSWORD)
    with pytest.raises(BadKey):
        sign_with_key(folder, documents(folder), path)
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD.decode())
    sign_with_key(folder, documents(folder), path)
    assert found(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["absent", "folder", "text", "public", "RSA", "P-384", "cosign"])
def test_a_key_that_cannot_sign_is_refused_and_nothing_is_left(
    kind: str, folder: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    path = tmp_path / "key"
    match kind:
        case "folder":
            path.mkdir()
        case "text":
            path.write_text("no key")
        case "public":
            write_public(path, key)
        case "RSA":
            made = rsa.generate_private_key(65537, 2048)
            write_key(path, made)  # type: ignore[arg-type]
        case "P-384":
            write_key(path, ec.generate_private_key(ec.SECP384R1()))
        case "cosign":
            label = "ENCRYPTED SIGSTORE PRIVATE KEY"
            path.write_text(f"-----BEGIN {label}-----\nbm90aGluZw==\n-----END {label}-----\n")
        case _:
            assert kind == "absent"
    before = list_files(folder)
    with pytest.raises(BadKey):
        sign_with_key(folder, documents(folder), path)
    assert list_files(folder) == before


def test_another_signers_signature_is_replaced_by_force_only(
    folder: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    sign_with_key(folder, documents(folder), write_key(tmp_path / "key", key))
    before = {name: (folder / name).read_bytes() for name in list_files(folder)}
    with pytest.raises(AlreadySigned, match="not of this key"):
        sign_with_key(folder, documents(folder), write_key(tmp_path / "other", other))
    assert {name: (folder / name).read_bytes() for name in list_files(folder)} == before
    sign_with_key(folder, documents(folder), tmp_path / "key")  # one's own again
    sign_with_key(folder, documents(folder), tmp_path / "other", force=True)
    assert found(folder, write_public(tmp_path / "public", other)) == []
    assert found(folder, write_public(tmp_path / "public", key)) == [
        "different cosign.pub",
        f"different {SUMS}",
        f"different {PROVENANCE}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [SUMS, PROVENANCE, "cosign.pub"])
def test_a_signature_that_is_missing_cut_or_flipped_is_named(
    folder: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey, name: str
) -> None:
    sign_with_key(folder, documents(folder), write_key(tmp_path / "key", key))
    content = (folder / name).read_bytes()
    cut, other = content[: len(content) // 2], content.replace(b"A", b"B", 1)
    for changed in (None, b"", cut, other, content.replace(b" ", b"  ", 1), content + b"\n"):
        if changed is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(changed)
        assert [text for text in found(folder) if text.endswith(name)], (changed, found(folder))


def test_a_release_that_should_be_signed_and_is_not_is_found(
    folder: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    public = write_public(tmp_path / "public", key)
    assert found(folder, public) == [f"missing {SUMS}", f"missing {PROVENANCE}"]


def test_a_signature_of_another_release_is_found(
    folder: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    other = make_release(tmp_path / "work", tmp_path / "other", tree_state="clean")
    sign_with_key(other, documents(other), write_key(tmp_path / "key", key))
    for name in (SUMS, PROVENANCE, "cosign.pub"):
        shutil.copyfile(other / name, folder / name)
    public = write_public(tmp_path / "public", key)
    assert found(folder, public) == [f"different {SUMS}", f"different {PROVENANCE}"]


def test_a_key_is_not_an_identity(
    folder: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    sign_with_key(folder, documents(folder), write_key(tmp_path / "key", key))
    checked = check_release(
        folder,
        Demands(identity="somebody@example.invalid", issuer="https://example.invalid"),
    )
    assert checked.signer is None
    assert {problem.file for problem in checked.problems} == {SUMS, PROVENANCE}


def test_a_public_key_that_is_none_is_refused(
    folder: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    path = write_key(tmp_path / "key", key)
    sign_with_key(folder, documents(folder), path)
    with pytest.raises(BadKey):
        check_release(folder, Demands(key=path))
    with pytest.raises(BadKey):
        check_release(folder, Demands(key=tmp_path / "absent"))


def test_without_an_identity_there_is_no_keyless_signature(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("id.detect_gcp", lambda *_: None, raising=False)
    before = list_files(folder)
    with pytest.raises(KeylessFailed):
        sign_keyless(folder, documents(folder), None)
    assert list_files(folder) == before
