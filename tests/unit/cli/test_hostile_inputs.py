"""What is no document at all where a file is asked for, and documents that have broken kbuild."""

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kbuild.base import sandbox
from kbuild.kubeadm.toolchain.images import Pin
from tests.support.command import run_here
from tests.support.failures import kind_of, outcome
from tests.support.goelf import write_go_elf
from tests.support.releases import forge, forge_sums, make_release
from tests.support.repositories import git, make_repository

pytestmark = pytest.mark.slow

KBUILD = Path(sys.executable).with_name("kbuild")
YEARS = ("--ca-years", "100", "--leaf-years", "10")
BUILD = ("kubeadm", *YEARS, "--version", "v1.20.2", "--builder", "local", "--dry-run")
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
UTF8 = {"LC_ALL": "C.UTF-8"}
WHO = ("--identity", "somebody@example.invalid", "--issuer", "https://example.invalid")


def kbuild(*words: object) -> tuple[int, str]:
    """Run a command here; return its exit code and what it said on standard error."""
    done = run_here(*words)
    return done.returncode, done.stderr


def process(*words: object, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("KBUILD_", "XDG_", "LC_"))}
    return subprocess.run(
        [KBUILD, *map(str, words)],
        env={**clean, **environment},
        capture_output=True,
        check=False,
        timeout=100,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def made(home: Path) -> Path:
    return make_release(home / "work", home / "v1.20.2")


@pytest.fixture
def release(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "dist/v1.20.2")


@pytest.fixture(scope="module")
def repository(home: Path) -> Path:
    make_repository(home / "kubernetes", ("v1.20.2",))
    return home / "kubernetes"


@pytest.fixture(scope="module")
def key(home: Path) -> Path:
    path = home / "key.pem"
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


# --- no regular file --------------------------------------------------------------------------


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)
    path.chmod(0o755)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "it is not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
    "folder": (Path.mkdir, "it is a directory"),
    "socket": (_socket, "No such device or address"),
    "10 GB": (_sparse, "it is larger than"),
    "loop": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
}
READERS = {
    "config": (2, "bad-settings-file"),
    "lock": (30, "bad-pins-file"),
    "private key": (90, "bad-key"),
    "public key": (90, "bad-key"),
    "provenance": (90, "bad-provenance"),
    "binary": (70, "wrong-binary"),
    "trust": (90, "keyless-failed"),
}


def words_for(reader: str, file: Path, release: Path) -> tuple[object, ...]:
    match reader:
        case "config" | "lock":
            return ("pins", "list", f"--{reader}", file)
        case "private key":
            return ("sign", release, "--key", file)
        case "public key":
            return ("check", release, "--key", file)
        case "provenance":
            return ("rebuild", file, "--builder", "local", "--source", "/absent")
        case "binary":
            return ("verify", file, *YEARS)
        case _:
            bundle = '{"verificationMaterial": {"certificate": {}}}'
            for name in ("SHA256SUMS.sigstore.json", "provenance.sigstore.json"):
                (release / name).write_text(bundle)
            return ("check", release, *WHO, "--trust-config", file)


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("reader", READERS)
def test_only_a_regular_file_is_read(reader: str, kind: str, release: Path, tmp_path: Path) -> None:
    if (reader, kind) == ("provenance", "folder"):
        pytest.skip("a folder stands for the provenance.json in it")
    file, (make, reason) = tmp_path / "odd", NO_FILES[kind]
    make(file)
    words = words_for(reader, file, release)
    code, said = kbuild(*words, *(("--cache-dir", tmp_path) if reader == "binary" else ()))
    assert (code, kind_of(said)) == READERS[reader], said
    if (reader, kind) != ("binary", "10 GB"):
        assert reason in said
        assert str(file) in said


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_may_not_be_read_is_told(reader: str, release: Path, tmp_path: Path) -> None:
    file = tmp_path / "odd"
    file.write_text("x")
    file.chmod(0)
    words = [str(word) for word in words_for(reader, file, release)]
    command = [str(KBUILD), *words]
    if os.geteuid() == 0:  # who may read everything, unless the capabilities are gone
        gone = "-dac_override,-dac_read_search"
        command = ["setpriv", "--bounding-set", gone, "--inh-caps", gone, *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert outcome(done) == READERS[reader], done.stderr
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize("command", ["check", "sign", "export"])
@pytest.mark.parametrize("kind", [kind for kind in NO_FILES if kind != "folder"])
def test_what_is_no_folder_is_no_release(
    command: str, kind: str, key: Path, tmp_path: Path
) -> None:
    file = tmp_path / "odd"
    NO_FILES[kind][0](file)
    words: dict[str, tuple[object, ...]] = {
        "check": ("check", file),
        "sign": ("sign", file, "--key", key),
        "export": ("export", "sealos", file, "--base-url", "https://example.invalid"),
    }
    code, said = kbuild(*words[command])
    assert (code, kind_of(said)) == (90, "not-a-release"), said
    assert "is not a release" in said


@pytest.mark.parametrize("kind", ["file", "loop", "pipe"])
def test_a_lock_file_below_what_is_no_folder_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = Pin(repository="golang", go_version="1.21.6", digest=f"sha256:{'1' * 64}", origin="lock")
    monkeypatch.setattr("kbuild.kubeadm.toolchain.images.resolve", lambda *_: pin)
    (NO_FILES[kind][0] if kind in NO_FILES else Path.touch)(tmp_path / "odd")
    code, said = kbuild("pins", "update", "1.21.6", "--lock", tmp_path / "odd/lock")
    assert (code, kind_of(said)) == (80, "not-writable"), said
    assert str(tmp_path / "odd") in said


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("flag", ["--output", "--cache-dir"])
def test_what_is_no_folder_is_not_written_to(
    flag: str, kind: str, repository: Path, tmp_path: Path
) -> None:
    if kind == "folder":
        pytest.skip("that is what is asked for")
    file = tmp_path / "odd"
    NO_FILES[kind][0](file)
    words = (*BUILD, "--source", repository, "--cache-dir", tmp_path / "cache", flag, file)
    code, said = kbuild(*words)
    assert (code, kind_of(said)) == (80, "not-writable"), said
    assert str(file) in said


NO_PLACES = ("/proc/1/x/y", "/proc/self/x", "/sys/x", "/dev/full/x", "n" * 300)


@pytest.mark.parametrize("place", NO_PLACES, ids=lambda place: place[:12])
@pytest.mark.parametrize(
    "words",
    [
        ("config", *YEARS, "--version", "v1.20.2", "--output"),
        ("pki", "init", "--dir"),
        ("kubeadm", *YEARS, "--version", "v1.20.2", "--dry-run", "--output"),
        ("versions", "--cache-dir"),
        ("certs", "--ics"),
    ],
    ids=lambda words: words[0],
)
def test_where_nothing_can_be_made_is_told(
    words: tuple[str, ...], place: str, repository: Path, tmp_path: Path
) -> None:
    more = {
        "kubeadm": ("--source", repository, "--cache-dir", tmp_path / "cache"),
        "versions": ("--source", repository),
        "certs": (tmp_path,),
    }
    code, said = kbuild(*words, place, *more.get(words[0], ()))
    is_device_above_cache = words[0] == "versions" and place.startswith("/dev")
    kind = "unsafe-cache" if is_device_above_cache else "not-writable"
    assert (code, kind_of(said)) == (80, kind), said
    assert place.partition("/x")[0].replace("self", "") in said


# --- settings ---------------------------------------------------------------------------------

PATHS = ("go_root", "lock", "output", "cache_dir", "source", "verify_against")
FILE, VALUE = "bad-settings-file", "bad-setting"  # the kinds of two errors


@pytest.mark.parametrize("name", PATHS)
def test_the_home_of_nobody_is_no_path(name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    command = "rebuild" if name == "verify_against" else "kubeadm"
    words = ("x",) if command == "rebuild" else ()
    code, said = kbuild(command, *words, flag, "~nosuchuser/x")
    assert (code, kind_of(said)) == (2, "bad-setting"), said
    assert f"{name.replace('_', '-')} cannot be '~nosuchuser/x': there is no such user" in said


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("x = " + "[" * 5000, FILE, "it is nested too deep"),
        ("x = " + "{a=" * 4000, FILE, "it is nested too deep"),
        ("x" + ".x" * 100_000 + " = 1", FILE, "it is larger than"),
        ("ca-years = " + "9" * 5000, FILE, "it has a number with too many digits"),
        (
            "ca-years = 0x" + "f" * 5000,
            VALUE,
            "ca-years cannot be that: it must be a whole number",
        ),
        ("version = [[0x" + "f" * 5000 + "]]", VALUE, "version cannot be that"),
        ("json = 0x" + "f" * 5000, VALUE, "json cannot be that: it must be true or false"),
        ("ca-years = " + "9" * 4000, VALUE, "9…: it must be a whole number"),
        ("ca-years = nan", VALUE, "ca-years cannot be nan"),
        ("lock = 07:32:00", VALUE, "lock cannot be 07:32:00: it must be text"),
        ("build-date = 0001-01-01T23:00:00+23:59", VALUE, "it is out of range"),
        ("build-date = 0001-01-01T00:00:00Z", VALUE, "it is out of range"),
        ('lock = "a\\u0000b"', VALUE, r"lock cannot be 'a\x00b': it contains a NUL"),
        ('output = "a\\u0000b"', VALUE, "it contains a NUL"),
        ('source = "http://127.0.0.1:1/a\\u0000b"', VALUE, "it contains a NUL"),
        (
            'lock = "\\ud800"',
            FILE,
            "it is not TOML (Escaped character is not a Unicode scalar",
        ),
        ("lock = ", FILE, "it is not TOML (Invalid value (at end of document))"),
    ],
    ids=lambda value: str(value)[:36],
)
def test_settings_of_any_kind_are_an_error_of_their_own(
    text: str, kind: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "kbuild.toml"
    file.write_text(text)
    code, said = kbuild("pins", "list", "--config", file)
    assert (code, kind_of(said)) == (2, kind), said
    assert reason in said
    assert len(said) < 1000


def test_settings_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    file = tmp_path / "kbuild.toml"
    file.write_bytes('# für mich\ngolang-repository = "ü"\n'.encode())
    for locale in (ASCII, UTF8):
        assert process("pins", "list", "--config", file, **locale).returncode == 0
    file.write_bytes(b"# f\xfcr mich\n")
    code, said = kbuild("pins", "list", "--config", file)
    assert (code, kind_of(said)) == (2, "bad-settings-file")
    assert "cannot be read: it is not UTF-8 text" in said
    file.write_bytes('lock = "ü"\n'.encode())
    done = process("pins", "list", "--config", file, **ASCII)
    assert (done.returncode, kind_of(done.stderr.decode())) == (2, "bad-setting")
    assert b"the locale cannot encode it" in done.stderr


def test_a_current_folder_that_was_removed_is_told(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    archive = tmp_path / "kubernetes.tar.gz"
    git(repository, "archive", "--prefix=kubernetes/", "--output", str(archive), "v1.20.2")
    words = [str(word) for word in (KBUILD, *BUILD, "--source", archive)]
    words += ["--cache-dir", str(tmp_path / "cache")]
    command = ["sh", "-c", f'rmdir {folder}; exec "$@"', "-", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert outcome(done) == (80, "not-writable"), done.stderr
    assert "the current directory cannot be used: it was removed" in done.stderr


@pytest.mark.parametrize("epoch", ["-1", "-62135596800", "253402300800", "9" * 5000, "x"])
def test_an_epoch_that_no_build_has_is_refused(epoch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    code, said = kbuild(*BUILD, "--source", "/absent")
    assert (code, kind_of(said)) == (2, "bad-setting"), said
    assert "SOURCE_DATE_EPOCH cannot be" in said


@pytest.mark.parametrize(
    ("words", "kind", "missing"),
    [
        (("kubeadm",), "missing-setting", "missing: --version, --ca-years, --leaf-years\n"),
        (("kubeadm", "--ca-years", "1"), "missing-setting", "missing: --version, --leaf-years\n"),
        (("kubeadm", "--stock"), "missing-setting", "missing: --version\n"),
        (("verify", "BINARY", "--ca-years", "1"), "missing-setting", "missing: --leaf-years\n"),
        (("export",), "usage", "Missing: TOOL, DIR, --base-url\n"),
        (("export", "sealos"), "usage", "Missing: DIR, --base-url\n"),
        (("export", "sealos", "x"), "missing-setting", "missing: --base-url\n"),
    ],
)
def test_all_that_is_missing_is_told_at_once(
    words: tuple[str, ...], kind: str, missing: str, tmp_path: Path
) -> None:
    binary = write_go_elf(tmp_path / "kubeadm")
    code, said = kbuild(*(binary if word == "BINARY" else word for word in words))
    assert (code, kind_of(said)) == (2, kind)
    assert missing in said


@pytest.mark.skipif(not sandbox.is_available(), reason="this machine gives no sandbox")
@pytest.mark.parametrize(("arch", "runs"), [("amd64", True), ("arm64", False)])
def test_a_proof_that_is_required_and_impossible_is_told_before_the_source_is_read(
    arch: str, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "host_arch", lambda: "amd64")
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if "qemu" in name else which(name))
    words = (*BUILD, "--source", "/absent", "--arch", arch, "--require-proof")
    expected = (20, "not-kubernetes") if runs else (70, "cannot-run")
    code, said = kbuild(*words)
    assert (code, kind_of(said)) == expected
    assert runs or "install qemu-user-static" in said


# --- names in a locale that has not their characters -------------------------------------------


@pytest.mark.parametrize("locale", [ASCII, UTF8], ids=["ascii", "utf-8"])
@pytest.mark.parametrize("name", ["ü".encode(), b"x\xff"], ids=["u umlaut", "no utf-8"])
def test_an_output_of_any_name_is_planned(
    name: bytes, locale: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    output = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    words = (*BUILD, "--source", repository, "--cache-dir", tmp_path / "cache", "--output", output)
    done = process(*words, "--json", **locale)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert os.fsencode(document["output"]) == os.fsencode(output) or locale is ASCII
    assert process(*words, **locale).returncode == 0
    assert not output.exists()


@pytest.mark.parametrize("name", ["ü".encode(), b"x\xff"], ids=["u umlaut", "no utf-8"])
def test_a_release_of_any_name_is_checked_and_signed(
    name: bytes, made: Path, key: Path, tmp_path: Path
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    shutil.copytree(made, folder)
    for words in (("check", folder), ("sign", folder, "--key", key), ("check", folder)):
        assert process(*words, **ASCII).returncode == 0


def test_a_result_of_any_characters_is_printed(tmp_path: Path) -> None:
    folder = make_release(
        tmp_path / "work",
        tmp_path / "v1.20.2",
        tree_changes={"commit_proof": "compared", "sha256": "a" * 64},
        verify_against="https://example.invalid/ü.git",
    )
    done = process("check", folder, **ASCII)
    assert done.returncode == 0, done.stderr
    assert rb"example.invalid/\xfc.git" in done.stdout


def test_a_snippet_has_only_characters_that_every_locale_has(made: Path) -> None:
    code, said = kbuild("export", "sealos", made, "--base-url", "https://example.invalid/ü")
    assert (code, kind_of(said)) == (2, "bad-setting")
    assert "without special characters" in said


# --- keys -------------------------------------------------------------------------------------


def cosign_key(path: Path, **changes: object) -> Path:
    document = {
        "kdf": {"name": "scrypt", "params": {"N": 2**15, "r": 8, "p": 1}, "salt": "AAAA"},
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(bytes(24)).decode()},
        "ciphertext": base64.b64encode(bytes(200)).decode(),
    }
    text = json.dumps({**document, **changes})
    return cosign_file(path, text.encode())


def cosign_file(path: Path, text: bytes) -> Path:
    return pem_file(path, "ENCRYPTED SIGSTORE PRIVATE KEY", text)


def pem_file(path: Path, label: str, content: bytes) -> Path:
    body = base64.encodebytes(content).decode()
    path.write_text(f"-----BEGIN {label}-----\n{body}-----END {label}-----\n")
    return path


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "cost", [(2**24, 8, 1), (2**40, 8, 1), (2**15, 2**20, 1), (2**15, 8, 2**20), (2**15, 8.0, "1")]
)
def test_a_costly_cosign_key_is_refused(
    cost: tuple[object, object, object], made: Path, tmp_path: Path
) -> None:
    params = dict(zip("Nrp", cost, strict=True))
    file = cosign_key(tmp_path / "key", kdf={"name": "scrypt", "salt": "AAAA", "params": params})
    code, said = kbuild("sign", made, "--key", file)
    assert (code, kind_of(said)) == (90, "bad-key"), said
    assert "its scrypt parameters are none that cosign uses" in said


@pytest.mark.parametrize(
    "text",
    [
        *(b"[" * 3000, b'{"a":' * 1000, b"[]", b"1", b'{"kdf": []}', b"\xff", b"NaN"),
        b'{"kdf": {"name": "scrypt", "params": {"N": ' + b"9" * 5000 + b"}}}",
        (
            b'{"kdf": {"name": "scrypt", "params": [1], "salt": ""}, '
            b'"cipher": {"name": "nacl/secretbox"}}'
        ),
    ],
    ids=lambda text: text[:40].decode(errors="replace"),
)
def test_a_cosign_key_of_any_json_is_refused(text: bytes, made: Path, tmp_path: Path) -> None:
    code, said = kbuild("sign", made, "--key", cosign_file(tmp_path / "key", text))
    assert (code, kind_of(said)) == (90, "bad-key"), said
    assert "it is not a private key in PEM, or is damaged" in said


def test_an_encrypted_pem_without_end_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "x")
    content = b""
    for _ in range(1200):
        content = b"\x30\x82" + len(content).to_bytes(2, "big") + content
    body = base64.encodebytes(content).decode()
    label = "ENCRYPTED PRIVATE KEY"
    file = tmp_path / "key"
    file.write_text(f"-----BEGIN {label}-----\n{body}-----END {label}-----\n")
    code, said = kbuild("sign", made, "--key", file)
    assert (code, kind_of(said)) == (90, "bad-key")
    assert "it is nested too deep" in said


def test_one_way_of_signing_is_asked_for(made: Path, key: Path) -> None:
    for words in ((), ("--key", key, "--keyless")):
        code, said = kbuild("sign", made, *words)
        assert code == 2
        assert "give either --key FILE or --keyless" in said


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    assert len(content) < 128
    return bytes([tag, len(content)]) + content


def encrypted_pem(path: Path, kdf: str, *cost: int) -> Path:
    """Write an encrypted PKCS #8 key (RFC 8018, appendix A) whose password costs so much."""
    numbers = (der(2, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in cost)
    hashed = der(0x30, der(6, bytes.fromhex(kdf)), der(0x30, der(4, bytes(8)), *numbers))
    cipher = der(0x30, der(6, bytes.fromhex("60864801650304012a")), der(4, bytes(16)))
    pbes2 = der(6, bytes.fromhex("2a864886f70d01050d"))
    key = der(0x30, der(0x30, pbes2, der(0x30, hashed, cipher)), der(4, bytes(16)))
    return pem_file(path, "ENCRYPTED PRIVATE KEY", key)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("kdf", "cost", "reason"),
    [
        ("2a864886f70d01050c", (2**31 - 1,), "hashed more than 5000000 times"),
        ("2b06010401da47040b", (2**22, 8, 64), "hashed with scrypt"),
        ("2a864886f70d01050c", (2048,), "COSIGN_PASSWORD"),
    ],
)
def test_a_costly_password_of_a_pem_is_refused(
    kdf: str,
    cost: tuple[int, ...],
    reason: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = encrypted_pem(tmp_path / "key", kdf, *cost)
    code, said = kbuild("sign", made, "--key", file)
    assert (code, kind_of(said)) == (90, "bad-key")
    assert "it is encrypted, and COSIGN_PASSWORD is not set" in said
    monkeypatch.setenv("COSIGN_PASSWORD", "x")
    code, said = kbuild("sign", made, "--key", file)
    assert (code, kind_of(said)) == (90, "bad-key")
    assert reason in said


def test_a_private_key_is_no_demand(made: Path, key: Path) -> None:
    code, said = kbuild("check", made, "--key", key)
    assert (code, kind_of(said)) == (90, "bad-key")
    assert "it is a private key, not the public one" in said


# --- binaries ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("absent", "No such file or directory"),
        ("text", "it is not an ELF file, so not a program"),
        ("dynamic", "it is dynamically linked"),
        ("position-independent", "it is a position-independent executable"),
        ("big-endian", "its machine is EM_X86_64, big-endian"),
        ("object", "it is not an executable, its ELF type is ET_REL"),
        ("not executable", "it is not executable"),
    ],
)
def test_verify_tells_what_is_wrong_with_a_binary(kind: str, reason: str, tmp_path: Path) -> None:
    file = write_go_elf(tmp_path / "kubeadm")
    content = bytearray(file.read_bytes())
    match kind:
        case "text":
            content = bytearray(b"#!/bin/sh\n")
        case "dynamic":
            struct.pack_into("<I", content, 64, 3)  # PT_INTERP
        case "position-independent":
            struct.pack_into("<H", content, 16, 3)
        case "object":
            struct.pack_into("<H", content, 16, 1)
        case "big-endian":
            header = struct.unpack_from("<2HI3QI6H", content, 16)
            content[5] = 2
            struct.pack_into(
                ">2HI3QI6H", content, 16, *header[:4], 0, 0, 0, *header[7:9], 0, 0, 0, 0
            )
        case "not executable":
            file.chmod(0o644)
        case _:
            assert kind == "absent"
    file.unlink() if kind == "absent" else file.write_bytes(content)
    code, said = kbuild("verify", file, *YEARS)
    assert (code, kind_of(said)) == (70, "wrong-binary"), said
    assert f"kubeadm is not a static Linux kubeadm: {reason}" in said


# --- releases ---------------------------------------------------------------------------------


def change(path: Path, *names: str | int, to: object) -> None:
    document = json.loads(path.read_text())
    place = document
    for name in names[:-1]:
        place = place[name]
    place[names[-1]] = to
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("value", [0, None, "", {}])
def test_a_proof_that_did_not_run_has_a_list_of_certificates_too(
    value: object, release: Path
) -> None:
    change(release / "proof.json", "binaries", 0, "ran", to=None)
    change(release / "proof.json", "binaries", 0, "certificates", to=value)
    forge(release)
    code, said = kbuild("check", release)
    assert (code, kind_of(said)) == (90, "release-broken"), said
    assert "its certificates of kubeadm-linux-amd64 are not a list" in said


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("9" * 5000, "it has a number with too many digits"),
        ("NaN", "NaN is not JSON"),
        ("[" * 100_000, "it is nested deeper than 32 levels"),
        ('"\\ud800"', r"version cannot be '\ud800'"),
        ("", "it is not JSON (Expecting value"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_provenance_of_any_json_is_an_error_of_its_own(
    value: str, reason: str, release: Path
) -> None:
    path = release / "provenance.json"
    change(path, "predicate", "buildDefinition", "externalParameters", "version", to="@")
    path.write_text(path.read_text().replace('"@"', value))
    forge_sums(release)
    for command, kind in (("check", "release-broken"), ("rebuild", "bad-provenance")):
        code, said = kbuild(command, release if command == "check" else path)
        assert (code, kind_of(said)) == (90, kind), said
        assert reason in said


@pytest.mark.parametrize("name", ["version", "source"])
def test_a_provenance_does_not_flood_the_terminal(name: str, release: Path) -> None:
    path = release / "provenance.json"
    change(path, "predicate", "buildDefinition", "externalParameters", name, to="x" * 3_000_000)
    code, said = kbuild("rebuild", path, "--builder", "local")
    assert code == 90, said
    assert kind_of(said) in ("bad-provenance", "address-not-allowed")
    assert len(said) < 10_000


def test_what_a_provenance_lacks_is_named(release: Path) -> None:
    path = release / "provenance.json"
    for text, reason in (("{}", "it has no 'predicate'"), ("[]", "a value in it is not of")):
        path.write_text(text)
        code, said = kbuild("rebuild", path)
        assert (code, kind_of(said)) == (90, "bad-provenance")
        assert reason in said


def test_a_version_of_go_has_no_thousands_of_digits(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.write_text(f"golang\t1.{'9' * 5000}\tsha256:{'1' * 64}\n")
    code, said = kbuild("pins", "list", "--lock", file)
    assert (code, kind_of(said)) == (30, "bad-pins-file"), said
    assert "line 1 is not a pin" in said
    code, said = kbuild("pins", "list", f"1.{'9' * 5000}")
    assert (code, kind_of(said)) == (2, "bad-setting"), said


def test_a_settings_file_is_told_from_a_folder_that_is_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kbuild.toml").touch()
    Path("loop").symlink_to("loop")
    code, said = kbuild("rebuild", "loop/provenance.json")
    assert (code, kind_of(said)) == (90, "bad-provenance"), said


@pytest.mark.parametrize("kind", ["pipe", "deep", "digits", "latin-1"])
def test_what_lies_in_an_output_folder_is_no_release_of_ours(
    kind: str, release: Path, repository: Path, tmp_path: Path
) -> None:
    path = release / "build.json"
    path.unlink()
    texts = {"deep": b"[" * 100_000, "digits": b"9" * 5000, "latin-1": b"\xff"}
    os.mkfifo(path) if kind == "pipe" else path.write_bytes(texts[kind])
    words = (*BUILD, "--source", repository, "--cache-dir", tmp_path / "cache")
    code, said = kbuild(*words, "--output", release)
    assert (code, kind_of(said)) == (80, "output-exists"), said
    assert f"{release} already exists" in said


# --- full disks -------------------------------------------------------------------------------

FULL = """\
set -e
mkdir -p "$1"
mount -t tmpfs -o size=512k x "$1"
eval "$2"
# Nothing is left but the room that the inodes of a few empty files need.
dd if=/dev/zero of="$1/filler" bs=1k 2>/dev/null || true
before=$(find "$FOLDER" | sort)
code=0
shift 2
"$@" || code=$?
after=$(find "$FOLDER" | sort)
[ "$before" = "$after" ] || { echo "left: $before -> $after" >&2; exit 99; }
exit $code
"""


def on_a_full_disk(
    folder: Path, prepare: str, *command: object, clean: Path | None = None
) -> tuple[int, str]:
    """Run a command while the disk of a folder is full.

    It must leave nothing new in the folder ``clean``, which is the same one if none is given.
    """
    userns = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    probe = subprocess.run([*userns, "mount -t tmpfs x /mnt"], check=False, capture_output=True)
    if probe.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {probe.stderr.decode().strip()}")
    done = subprocess.run(
        [*userns, FULL, "-", folder, prepare, *map(str, command)],
        env={**os.environ, "FOLDER": str(clean or folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.returncode, done.stderr


def test_sign_names_the_full_disk_and_leaves_nothing(made: Path, key: Path, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    prepare = f"mkdir {folder}/v1; cp -r {made}/. {folder}/v1"
    code, said = on_a_full_disk(folder, prepare, KBUILD, "sign", folder / "v1", "--key", key)
    assert (code, kind_of(said)) == (80, "disk-full"), said
    assert f"no space is left on the disk that holds {folder}/v1" in said


PROGRAM = """
import sys, tempfile
from pathlib import Path
from kbuild.base.errors import DiskFull
from kbuild.kubeadm.toolchain.images import Pin, write_lock
from kbuild.base.disk import disk_errors
from kbuild.base.workspace import open_workspace
from tests.support.eras import make_tree
from tests.support.patching import patch
from tests.support.releases import make_release
full, other = map(Path, sys.argv[1:])
try:
    {body}
except DiskFull as error:
    sys.exit(str(error))
"""
BODIES = {
    "output": "with open_workspace(other / 'cache'): make_release(other / 'work', full / 'dist')",
    "cache": "with open_workspace(full / 'cache') as w: (w.work / 'file').write_bytes(bytes(9999))",
    "temporary": "make_tree(other, 'v1.20.2'); tempfile.tempdir = str(full)\n"
    "    with disk_errors(other): patch(other, 'v1.20.2')",
    "lock": "with disk_errors(other): write_lock(full / 'lock', [Pin(repository='x' * 9999,"
    " go_version='1.21.6', digest='sha256:1', origin='lock')])",
}


@pytest.mark.parametrize("kind", BODIES)
def test_the_full_disk_is_named_and_not_another_one(kind: str, tmp_path: Path) -> None:
    if kind in ("output", "cache") and os.geteuid() != 0:
        pytest.skip("in a user's namespace the owner of / is nobody, so no cache is safe there")
    folder, other = tmp_path / "full", tmp_path / "other"
    other.mkdir()
    program = PROGRAM.format(body=BODIES[kind])
    command = (sys.executable, "-c", program, folder, other)
    clean = other if kind == "cache" else folder  # a cache keeps its empty folders
    code, said = on_a_full_disk(folder, ":", *command, clean=clean)
    assert code == 1, said
    assert f"no space is left on the disk that holds {folder}" in said
