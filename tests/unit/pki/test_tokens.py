"""Keys of CAs on tokens. tests/e2e has the same with a real one."""

import copy
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pkcs11
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st
from pkcs11 import Mechanism, TokenFlag

from kbuild.pki.errors import (
    BadPinFile,
    KeyNotCertain,
    KeyNotOnToken,
    MechanismMissing,
    ModuleNotLoaded,
    ModuleNotNamed,
    NoPin,
    PinLocked,
    Pkcs11ExtraMissing,
    PublicKeyNotFound,
    TokenFailed,
    TokenKeyDiffers,
    TokenKeyNotUsable,
    TokenNotCertain,
    TokenNotThere,
    TokenRemoved,
    WrongPin,
)
from kbuild.pki.key_uris import key_uri
from kbuild.pki.tokens import Tokens
from kbuild.x509.api import KeyKind, der_of, new_key, public_der
from kbuild.x509.foreign import Foreign, ecdsa_der, foreign_key
from tests.support.command import Done, run_here
from tests.support.fake_token import MODULE, PIN, FakeToken, insert
from tests.unit.pki.conftest import Recipe, facts, snapshot

URI = "pkcs11:token=kb;object=ca"
RSA, P256 = KeyKind(algorithm="rsa", size=2048), KeyKind(algorithm="ecdsa", size=256)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> FakeToken:
    made = FakeToken()
    insert(monkeypatch, made)
    monkeypatch.setenv("PKCS11_PIN", PIN)
    return made


def opened(uri: str = URI, **more: Any) -> Any:
    return Tokens(Path(MODULE), **more).key(key_uri(uri, "the test"))


@given(st.integers(1, 2**521 - 1), st.integers(1, 2**521 - 1), st.integers(66, 80))
def test_r_and_s_become_der(r: int, s: int, size: int) -> None:
    raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert decode_dss_signature(ecdsa_der(raw)) == (r, s)


@pytest.mark.parametrize("raw", [b"", b"abc"])
def test_what_is_not_r_and_s_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="is not r and s"):
        ecdsa_der(raw)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        *(KeyKind(algorithm="rsa", size=size) for size in (2048, 3072, 4096)),
        *(KeyKind(algorithm="ecdsa", size=size) for size in (256, 384, 521)),
    ],
    ids=str,
)
def test_the_library_signs_with_a_key_on_a_token(token: FakeToken, kind: KeyKind) -> None:
    """With each hash that kbuild uses; the request verifies itself."""
    own = new_key(kind)
    token.hold("ca", own)
    key = opened()
    assert public_der(key) == public_der(own)
    name = x509.Name([])
    from kbuild.x509.private import hash_for

    request = x509.CertificateSigningRequestBuilder(name).sign(key, hash_for(key))
    assert request.is_signature_valid
    assert token.tries == [PIN]
    for refused in (
        key.private_numbers,
        lambda: key.private_bytes(None, None, None),
        lambda: key.decrypt(b"", None) if kind.algorithm == "rsa" else key.exchange(None, None),
    ):
        with pytest.raises(TypeError, match="kept elsewhere"):
            refused()
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key


def test_rsa_with_another_padding_is_refused() -> None:
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    foreign = Foreign(public=own.public_key(), sign=bytes, wrong=RuntimeError())
    key = foreign_key(foreign)
    assert isinstance(key, rsa.RSAPrivateKey)
    with pytest.raises(TypeError, match="only signs"):
        key.sign(b"a", padding.PSS(padding.MGF1(SHA256()), 32), SHA256())


@pytest.mark.parametrize("kind", [RSA, P256], ids=str)
def test_a_wrong_signature_of_a_token_is_not_used(
    token: FakeToken, recipe: Recipe, kind: KeyKind
) -> None:
    token.hold("ca", new_key(kind))
    token.lies = True
    before = snapshot(recipe.folder)
    done = kbuild(recipe, "issue")
    assert "error[token-failed]" in done.stderr
    assert "its signature does not fit its public key" in done.stderr
    assert snapshot(recipe.folder) == before


def kbuild(recipe: Recipe, *words: object, uri: str = URI) -> Done:
    more = ("--pkcs11-module", MODULE, "--ca-key", f"ca={uri}")
    given = ("--profile", "server=server", "--profile", "client=client")
    return run_here("pki", *words, "--dir", recipe.folder, *more, *given)


def test_a_ca_is_made_and_signs_and_no_key_of_it_is_in_a_file(
    token: FakeToken, recipe: Recipe
) -> None:
    own = new_key(RSA)
    token.hold("ca", own)
    done = kbuild(recipe, "issue")
    assert done.returncode == 0, done.stderr
    assert token.tries == [PIN]
    assert token.closed == 1
    assert not list(recipe.folder.rglob("ca-key.pem"))
    assert facts(recipe.folder / "ca.pem").public_key == der_of(own.public_key())
    for name in ("server", "client"):
        words = ("verify", "-x509_strict", "-CAfile", "ca.pem", f"{name}.pem")
        subprocess.run(("openssl", *words), cwd=recipe.folder, check=True, capture_output=True)
    assert PIN not in done.stdout + done.stderr
    for path in recipe.folder.rglob("*.json"):
        assert PIN not in path.read_text()
    # Nothing is to be signed, so the token is not touched.
    assert kbuild(recipe, "issue").returncode == 0
    assert kbuild(recipe, "plan").returncode == 0
    assert token.tries == [PIN]


def test_renew_and_extend_ca_keep_the_key_on_the_token(token: FakeToken, recipe: Recipe) -> None:
    token.hold("ca", new_key(P256))
    kbuild(recipe, "issue")
    old = facts(recipe.folder / "ca.pem")
    recipe.change("ca", ca={"expiry": "438000h"})
    assert kbuild(recipe, "renew", "server").returncode == 0
    assert kbuild(recipe, "extend-ca").returncode == 0
    new = facts(recipe.folder / "ca.pem")
    assert (new.public_key, new.subject) == (old.public_key, old.subject)
    assert new.not_after > old.not_after
    assert not list(recipe.folder.rglob("ca-key.pem"))


def test_a_ca_is_replaced_by_one_with_another_key_on_the_token(
    token: FakeToken, recipe: Recipe
) -> None:
    first, second = new_key(P256), new_key(P256)
    token.hold("ca", first)
    token.hold("ca-2", second, b"\2")
    kbuild(recipe, "issue")
    done = kbuild(recipe, "rotate-ca", "--step", "begin")
    assert "kbuild makes no keys there" in done.stderr
    done = kbuild(recipe, "rotate-ca", "--step", "begin", "--new-ca-key", f"ca={URI}")
    assert "the new CA needs another one" in done.stderr
    other = "pkcs11:token=kb;object=ca-2"
    done = kbuild(recipe, "rotate-ca", "--step", "begin", "--new-ca-key", f"cb={other}")
    assert "no certificate 'cb' is planned" in done.stderr
    kbuild(recipe, "rotate-ca", "--step", "begin", "--new-ca-key", f"ca={other}")
    assert signer(recipe) == public_der(first)
    done = kbuild(recipe, "rotate-ca", "--step", "leaves", "--new-ca-key", f"ca={other}")
    assert "--new-ca-key cannot be '…': the step is leaves" in done.stderr
    # Between the steps the CA of the step signs, whatever the plan names.
    for step, key in (("leaves", second), ("back", first), ("leaves", second)):
        done = kbuild(recipe, "rotate-ca", "--step", step)
        assert done.returncode == 0, done.stderr
        assert signer(recipe) == public_der(key)
        assert kbuild(recipe, "renew", "server").returncode == 0
    done = kbuild(recipe, "rotate-ca", "--step", "end")
    assert "From now on the plan must name the key of the new CA" in done.stdout
    assert f"or --ca-key 'ca={other}'." in done.stdout  # a shell would end the command at ;
    assert f"The key of the old CA is still on its token, {URI}." in done.stdout
    assert "generations" not in done.stdout
    assert "error[token-key-differs]" in kbuild(recipe, "renew").stderr
    assert kbuild(recipe, "renew", uri=other).returncode == 0
    assert not list(recipe.folder.rglob("*-key.pem.*")) + list(recipe.folder.glob("ca-*key.pem"))


def test_two_cas_never_have_one_key(token: FakeToken, tmp_path: Path) -> None:
    """Neither by one URI in two ways of writing, nor by two URIs for one key."""
    toml = "cas = 3\nkey = 'ecdsa-p256'\nleaf-years = 5\n[nodes.n1]\naddresses = ['192.0.2.1']\n"
    (tmp_path / "pki.toml").write_text(f"{toml}roles = ['control-plane', 'etcd']\n")
    token.hold("ca", new_key(P256))
    token.hold("ca-2", new_key(P256), b"\2")
    given = ("--dir", tmp_path, "--pkcs11-module", MODULE)
    ca = ("--ca-key", f"ca={URI}")
    done = run_here("pki", "issue", *given, *ca, "--ca-key", "etcd-ca=pkcs11:object=%63a;token=kb")
    assert "error[bad-key-uri]" in done.stderr
    assert "it names the key of ca, and each CA needs" in done.stderr
    assert run_here("pki", "issue", *given, *ca).returncode == 0
    before = snapshot(tmp_path)
    begin = ("pki", "rotate-ca", "--step", "begin", *given, *ca)
    second = "pkcs11:token=kb;object=ca-2"
    for keys, said in (
        (("etcd-ca=pkcs11:token=kb;id=%01",), "which is that of the CA ca\n"),
        ((f"ca={second}", f"etcd-ca={second}"), "which is that of the CA ca\n"),
    ):
        names = [each.partition("=")[0] for each in keys]
        more = [word for each in keys for word in ("--new-ca-key", each)]
        done = run_here(*begin, *names, *more)
        assert "error[rotation-refused]" in done.stderr
        assert said in done.stderr
    assert snapshot(tmp_path) == before


def test_a_rotation_does_not_need_the_old_key(token: FakeToken, recipe: Recipe) -> None:
    token.hold("ca", new_key(P256))
    token.hold("ca-2", new_key(P256), b"\2")
    kbuild(recipe, "issue")
    token.objects = [each for each in token.objects if each.label != "ca"]
    assert "error[key-not-on-token]" in kbuild(recipe, "renew").stderr
    other = "pkcs11:token=kb;object=ca-2"
    for step in ("begin", "leaves", "end"):
        more = ("--new-ca-key", f"ca={other}") if step == "begin" else ()
        done = kbuild(recipe, "rotate-ca", "--step", step, *more)
        assert done.returncode == 0, done.stderr
    assert kbuild(recipe, "renew", uri=other).returncode == 0


def signer(recipe: Recipe) -> bytes:
    """Return the public key of the CA that signs, which is the first in its file."""
    return facts(recipe.folder / "ca.pem").public_key


def test_a_ca_with_its_key_in_a_file_is_replaced_by_one_on_a_token(
    token: FakeToken, recipe: Recipe
) -> None:
    given = ("--dir", recipe.folder, "--pkcs11-module", MODULE)
    assert run_here("pki", "issue", *given).returncode == 0
    token.hold("ca", new_key(P256))
    key = recipe.folder / "ca-key.pem"
    content = key.read_bytes()
    for step, there in (("begin", True), ("leaves", False), ("back", True), ("leaves", False)):
        more = ("--new-ca-key", f"ca={URI}") if step == "begin" else ()
        done = run_here("pki", "rotate-ca", "--step", step, *given, *more)
        assert done.returncode == 0, done.stderr
        assert key.exists() == there
        if step == "leaves":  # nothing of the old key is lost, and it cannot sign for Kubernetes
            assert key.with_name("ca-old-key.pem").read_bytes() == content
            assert "Remove --cluster-signing-cert-file, --cluster-signing-key-file" in done.stdout
            assert "Let every kubelet get a new one" not in done.stdout
            assert "ca-signing.pem" not in done.stdout.partition("Distribute these")[2]
            shown = run_here("pki", "rotate-ca", *given).stdout
            assert "Remove --cluster-signing-cert-file" in shown
        else:
            assert "the controller manager cannot sign certificates of kubelets" in done.stdout
    done = run_here("pki", "rotate-ca", "--step", "end", *given)
    assert "The key of the old CA is still in" in done.stdout
    assert not list(recipe.folder.glob("ca*key.pem"))
    assert kbuild(recipe, "renew").returncode == 0


def test_check_compares_without_a_pin_and_says_if_it_cannot(
    token: FakeToken, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    token.hold("ca", new_key(P256))
    kbuild(recipe, "issue")
    monkeypatch.delenv("PKCS11_PIN")
    done = kbuild(recipe, "check")
    assert done.returncode == 0, done.stderr
    assert "ca: its key is on a token, and fits the certificate." in done.stdout
    (recipe.folder / "ca-key.pem").write_text("a copy that somebody forgot")
    assert "ca-key.pem is there too" in kbuild(recipe, "plan").stdout
    (recipe.folder / "ca-key.pem").unlink()
    insert(monkeypatch)
    done = kbuild(recipe, "check")
    assert done.returncode == 0, done.stderr
    assert "was not compared: no token is that of" in done.stdout
    other = FakeToken()
    other.hold("ca", new_key(P256))
    insert(monkeypatch, other)
    done = kbuild(recipe, "check")
    assert done.returncode == 100
    assert "error[token-key-differs]" in done.stderr
    assert token.tries == [PIN]
    assert other.tries == []


def test_import_writes_the_uri_into_pki_toml(token: FakeToken, tmp_path: Path) -> None:
    text = '[nodes.n1]\naddresses = ["192.0.2.1"]\nroles = ["control-plane", "etcd"]\n'
    text += f"[certificates.ca]\nkey-uri = {URI!r}\n"
    (tmp_path / "pki.toml").write_text(f'key = "ecdsa-p256"\ncas = 1\n{text}')
    token.hold("ca", new_key(P256))
    given = ("--dir", tmp_path, "--pkcs11-module", MODULE)
    assert run_here("pki", "issue", *given).returncode == 0
    (tmp_path / "pki.toml").unlink()
    done = run_here("pki", "import", "--dir", tmp_path, "--ca-key", f"cb={URI}")
    assert "error[unknown-certificate]" in done.stderr
    assert run_here("pki", "import", "--dir", tmp_path, "--ca-key", f"ca={URI}").returncode == 0
    assert f'key-uri = "{URI}"' in (tmp_path / "pki.toml").read_text()
    assert run_here("pki", "renew", "etcd", *given).returncode == 0


def test_import_of_the_files_of_cfssl_says_that_they_name_no_token(
    token: FakeToken, recipe: Recipe
) -> None:
    token.hold("ca", new_key(P256))
    kbuild(recipe, "issue")
    for path in recipe.folder.glob("*.json"):
        path.unlink()
    done = run_here("pki", "import", "--dir", recipe.folder, "--ca-key", f"ca={URI}")
    assert "give --ca-key for ca to each command" in done.stdout
    assert "ca-key.pem is not there" not in done.stdout


def test_a_leaf_cannot_stay_on_a_token(tmp_path: Path) -> None:
    (tmp_path / "pki.toml").write_text(f"[certificates.admin]\nkey-uri = {URI!r}\n")
    done = run_here("pki", "plan", "--dir", tmp_path)
    assert "certificates.admin.key-uri is for CAs" in done.stderr


def test_the_controller_manager_gets_no_flags_for_signing(token: FakeToken, tmp_path: Path) -> None:
    text = 'output = "."\n[nodes.n1]\naddresses = ["192.0.2.1"]\nroles = ["control-plane"]\n'
    (tmp_path / "pki.toml").write_text(f"{text}[certificates.ca]\nkey-uri = {URI!r}\n")
    given = ("--version", "v1.20.2", "--dir", tmp_path, "--output", tmp_path / "out")
    done = run_here("pki", "components", *given)
    assert done.returncode == 0, done.stderr
    assert "the key of ca is on a token" in done.stdout
    assert token.tries == []


def test_a_token_that_goes_away_in_the_middle_changes_nothing(
    token: FakeToken, recipe: Recipe
) -> None:
    token.hold("ca", new_key(P256))
    before = snapshot(recipe.folder)
    token.fails, token.fails_after = pkcs11.DeviceRemoved(), 2
    done = kbuild(recipe, "issue")
    assert "error[token-removed]" in done.stderr
    assert token.signatures == 3
    assert snapshot(recipe.folder) == before
    token.fails = None
    assert kbuild(recipe, "issue").returncode == 0


@pytest.mark.parametrize(
    ("fails", "kind", "text"),
    [
        (pkcs11.MechanismInvalid(), MechanismMissing, "does not offer"),
        (pkcs11.UserNotLoggedIn(), TokenFailed, "UserNotLoggedIn"),
        (pkcs11.GeneralError("a word"), TokenFailed, "GeneralError (a word)"),
        (pkcs11.TokenNotPresent(), TokenRemoved, "went away"),
    ],
)
def test_what_a_token_answers_is_told(
    token: FakeToken, fails: Exception, kind: type[Exception], text: str
) -> None:
    token.hold("ca", new_key(P256))
    token.fails = fails
    key = opened()
    with pytest.raises(kind, match=text.replace("(", r"\(").replace(")", r"\)")):
        key.sign(b"a", ec.ECDSA(SHA256()))


def test_a_wrong_pin_is_tried_once(token: FakeToken, monkeypatch: pytest.MonkeyPatch) -> None:
    token.hold("ca", new_key(P256))
    monkeypatch.setenv("PKCS11_PIN", "9999")
    with pytest.raises(WrongPin, match="refuses the PIN from the variable PKCS11_PIN") as caught:
        opened()
    assert token.tries == ["9999"]
    assert "the token locks itself" in caught.value.hint
    assert "9999" not in caught.value.happened + caught.value.hint


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        (TokenFlag.USER_PIN_LOCKED, "is locked"),
        (TokenFlag.USER_PIN_FINAL_TRY, "has one try left"),
    ],
)
def test_the_last_try_of_a_pin_is_left_to_the_user(
    token: FakeToken, flag: TokenFlag, text: str
) -> None:
    token.hold("ca", new_key(P256))
    token.flags |= flag
    with pytest.raises(PinLocked, match=text):
        opened()
    assert token.tries == []


def test_an_earlier_wrong_pin_is_told(token: FakeToken) -> None:
    token.hold("ca", new_key(P256))
    token.flags |= TokenFlag.USER_PIN_COUNT_LOW
    told: list[str] = []
    opened(warn=told.append)
    assert told == ["the token kb was given a wrong PIN; some more lock it"]


def test_a_pin_comes_from_its_file_the_variable_the_token_or_a_person(
    token: FakeToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token.hold("ca", new_key(P256))
    file = tmp_path / "pin"
    file.write_text(f"{PIN}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PKCS11_PIN", "not this one")
    opened(f"{URI}?pin-source=file:{file}")
    monkeypatch.delenv("PKCS11_PIN")
    asked: list[str] = []

    def ask(what: str) -> str:
        asked.append(what)
        return PIN

    opened(ask=ask)
    assert asked == ["PIN of the token kb"]
    with pytest.raises(NoPin, match="nobody entered it"):
        opened()
    token.flags |= TokenFlag.PROTECTED_AUTHENTICATION_PATH
    opened()
    assert token.tries == [PIN, PIN, pkcs11.PROTECTED_AUTH]
    token.flags = TokenFlag.TOKEN_INITIALIZED  # it wants no PIN
    with pytest.raises(KeyNotOnToken):  # and shows no private key without one
        opened()


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"1234", 0o644, "everybody may read it"),
        (b"", 0o600, "it is not one line"),
        (b"1234\n5678\n", 0o600, "it is not one line"),
        (b"\xff", 0o600, "it is not UTF-8"),
        (None, 0, "No such file"),
    ],
)
def test_a_file_with_a_pin_that_cannot_be_used_is_told(
    token: FakeToken, tmp_path: Path, content: bytes | None, mode: int, reason: str
) -> None:
    token.hold("ca", new_key(P256))
    file = tmp_path / "pin"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    with pytest.raises(BadPinFile, match=reason):
        opened(f"{URI}?pin-source={file}")
    assert token.tries == []


def test_a_key_that_wants_the_pin_each_time_gets_it(token: FakeToken) -> None:
    token.hold("ca", new_key(P256), always=True)
    opened().sign(b"a", ec.ECDSA(SHA256()))
    assert token.pins == [PIN]


def test_which_token_and_key_it_is_must_be_certain(
    token: FakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = new_key(P256)
    token.hold("ca", own)
    with pytest.raises(TokenNotThere, match="tokens that are there: kb"):
        opened("pkcs11:token=other")
    with pytest.raises(KeyNotOnToken):
        opened("pkcs11:object=other")
    token.hold("ca", new_key(RSA), b"\2")
    with pytest.raises(KeyNotCertain, match="2 private keys"):
        opened()
    assert public_der(opened(f"{URI};id=%01")) == public_der(own)
    second = FakeToken(serial=b"02")
    insert(monkeypatch, token, second)
    with pytest.raises(TokenNotCertain, match="01, 02"):
        opened()
    assert public_der(opened(f"{URI};serial=01;id=%01")) == public_der(own)
    parts = "manufacturer=fake;model=model%201;slot-id=1;slot-description=a%20slot"
    parts += ";slot-manufacturer=fake;library-manufacturer=fake;library-version=2.6"
    parts += ";library-description=fake%20module"
    assert public_der(opened(f"pkcs11:{parts};id=%01")) == public_der(own)


def test_a_public_key_that_a_token_does_not_show(token: FakeToken) -> None:
    own = new_key(RSA)
    token.hold("ca", own, shows=False)
    assert public_der(opened()) == public_der(own)  # the private one of RSA says it
    with pytest.raises(PublicKeyNotFound, match="0 public keys"):
        Tokens(Path(MODULE)).public_key(key_uri(URI, "the test"))
    token.hold("other", new_key(P256), b"\2", shows=False)
    with pytest.raises(PublicKeyNotFound):
        opened("pkcs11:object=other")


def test_keys_of_other_kinds_are_refused(token: FakeToken) -> None:
    token.hold("small", rsa.generate_private_key(public_exponent=65537, key_size=1024))
    with pytest.raises(TokenKeyNotUsable, match="1024 bits, and 2048 are the least"):
        opened("pkcs11:object=small")
    token.hold("koblitz", ec.generate_private_key(ec.SECP256K1()), b"\2")
    with pytest.raises(TokenKeyNotUsable, match="its curve is secp256k1"):
        opened("pkcs11:object=koblitz")


def test_a_token_without_the_mechanism_is_told(token: FakeToken) -> None:
    token.hold("ca", new_key(P256))
    token.mechanisms = {Mechanism.RSA_PKCS}
    with pytest.raises(MechanismMissing, match="does not offer CKM_ECDSA"):
        opened()


def test_a_module_must_be_named_and_loadable(token: FakeToken, tmp_path: Path) -> None:
    uri = key_uri(URI, "the test")
    with pytest.raises(ModuleNotNamed):
        Tokens().key(uri)
    with pytest.raises(ModuleNotLoaded, match=r"not loaded: /other\.so: cannot open$"):
        Tokens(Path("/other.so")).key(uri)
    own = tmp_path / "own.so"
    own.touch(mode=0o666)
    own.chmod(0o666)
    with pytest.raises(ModuleNotLoaded, match="it does not belong to root alone"):
        Tokens().key(key_uri(f"{URI}?module-path={own}", "the test"))
    assert token.tries == []


def test_a_module_that_a_uri_names_is_loaded_from_where_only_root_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through links too; what is loaded is the file that was looked at, by its real name."""
    modes = {"/": 0o755, "/tmp": 0o1777, "/lib": 0o755, "/mine": 0o755, "/group": 0o775}
    owners = {"/mine": 1000}
    real = {"/etc/a.so": "/lib/a.so", "/lib/b.so": "/tmp/b.so"}
    stat_of = Path.stat

    def stat(path: Path, **more: Any) -> Any:
        mode = modes.get(str(path)) or (0o644 if path.suffix == ".so" else None)
        if mode is None:
            return stat_of(path, **more)
        return SimpleNamespace(st_uid=owners.get(str(path), 0), st_mode=mode)

    loaded: list[str] = []

    def lib(path: str) -> None:
        loaded.append(path)
        raise pkcs11.PKCS11Error

    monkeypatch.setattr(os.path, "realpath", lambda path: real.get(str(path), str(path)))
    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(pkcs11, "lib", lib)
    for module, said in {
        "/tmp/a.so": "the directory /tmp does",
        "/lib/b.so": "the directory /tmp does",
        "/mine/a.so": "the directory /mine does",
        "/group/a.so": "the directory /group does",
    }.items():
        with pytest.raises(ModuleNotLoaded, match=said):
            Tokens().key(key_uri(f"{URI}?module-path={module}", "the test"))
    assert loaded == []
    with pytest.raises(ModuleNotLoaded, match="PKCS11Error"):
        Tokens().key(key_uri(f"{URI}?module-path=/etc/a.so", "the test"))
    assert loaded == ["/lib/a.so"]


def test_without_the_library_the_hint_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pkcs11", None)
    done = kbuild(recipe, "issue")
    assert "error[pkcs11-extra-missing]" in done.stderr
    assert "pip install '.[pkcs11]'" in done.stderr
    with pytest.raises(Pkcs11ExtraMissing):
        opened()


def test_the_key_must_fit_the_ca(token: FakeToken, recipe: Recipe) -> None:
    assert run_here("pki", "issue", "--dir", recipe.folder).returncode == 0
    token.hold("ca", new_key(P256))
    for words in (("renew",), ("extend-ca",)):
        before = snapshot(recipe.folder)
        done = kbuild(recipe, *words)
        assert f"error[{TokenKeyDiffers.kind}]" in done.stderr
        assert snapshot(recipe.folder) == before
