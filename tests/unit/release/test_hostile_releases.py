"""Releases that lie, and what `kbuild check`, `sign` and `export` must say of them.

All through the command line, as a user meets it.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.command import Done, clean_environment, run_here
from tests.support.failures import outcome
from tests.support.opened import when_opened
from tests.support.releases import forge, forge_sums, make_release

pytestmark = pytest.mark.slow

BROKEN = (90, "release-broken")
UNMET = (90, "requirements-not-met")
KBUILD = Path(sys.executable).with_name("kbuild")
AMD64 = "kubeadm-linux-amd64"
WHO = ("--identity", "somebody@example.invalid", "--issuer", "https://example.invalid")
EXPORT = ("export", "cloud-init", "--base-url", "https://example.invalid")
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u202e\u2066\r"

kbuild = run_here


def limited(*words: object) -> Done:
    """Run a command in a process that gets 1.5 GB of memory."""
    return subprocess.run(
        ["bash", "-c", 'ulimit -v 1500000; exec "$@"', "-", KBUILD, *map(str, words)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def rename_version(folder: Path) -> None:
    """Make a release one of v1.20.3, which agrees with itself."""
    for path in folder.glob("*.json"):
        path.write_text(
            path.read_text().replace("v1.20.2", "v1.20.3").replace("v0.20.2", "v0.20.3")
        )
    forge(folder)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a private key; its public key is beside it as public.pem."""
    folder = tmp_path_factory.mktemp("key")
    made = ec.generate_private_key(ec.SECP256R1())
    encoding, nothing = serialization.Encoding.PEM, serialization.NoEncryption()
    path = folder / "key.pem"
    path.write_bytes(made.private_bytes(encoding, serialization.PrivateFormat.PKCS8, nothing))
    public = made.public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "public.pem").write_bytes(public.public_bytes(encoding, spki))
    return path


@pytest.fixture(scope="module")
def public(key: Path) -> Path:
    return key.with_name("public.pem")


@pytest.fixture(scope="module")
def made(key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a release, the same one signed, and another version of it."""
    folder = tmp_path_factory.mktemp("made")
    make_release(folder / "work", folder / "plain/v1.20.2")
    rename_version(shutil.copytree(folder / "plain/v1.20.2", folder / "other/v1.20.2"))
    shutil.copytree(folder / "plain", folder / "signed")
    assert kbuild("sign", folder / "signed", "--key", key).returncode == 0
    return folder


@pytest.fixture
def plain(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "plain/v1.20.2", tmp_path / "dist/v1.20.2")


@pytest.fixture
def signed(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "signed/v1.20.2", tmp_path / "dist/v1.20.2")


# --- what is checked is what was read ---------------------------------------------------------


@pytest.mark.parametrize("words", [("check",), ("check", "--key"), ("sign", "--key"), EXPORT])
def test_no_file_of_a_release_is_opened_twice(
    words: tuple[str, ...], signed: Path, key: Path, public: Path
) -> None:
    names = {path.name for path in signed.iterdir()}
    last = {"check": [public], "sign": [key]}[words[0]] if words[-1] == "--key" else []
    opened: Counter[str] = Counter()
    with when_opened(lambda name: opened.update({name})):
        done = kbuild(*words, *last, signed)
    assert done.returncode == 0, done.stderr
    assert opened["SHA256SUMS"] == 1
    assert [name for name in names if opened[name] > 1] == []


@pytest.mark.parametrize(
    "moment", ["SHA256SUMS.sigstore.json", "SHA512SUMS", AMD64, "provenance.sigstore.json"]
)
def test_a_release_that_is_swapped_during_the_check_fails(
    moment: str, made: Path, signed: Path, public: Path
) -> None:
    for path in (made / "other/v1.20.2").iterdir():
        shutil.copyfile(path, signed / path.name)
    assert outcome(kbuild("check", signed, "--key", public)) == BROKEN
    swapped: list[str] = []

    def swap(name: str) -> None:
        if name == moment and not swapped:
            swapped.append(name)
            for path in (made / "signed/v1.20.2").iterdir():
                new = shutil.copyfile(path, signed.parent / "new")
                new.replace(signed / path.name)

    with when_opened(swap):
        done = kbuild("check", signed, "--key", public)
    assert outcome(done) == BROKEN, done.stdout + done.stderr
    assert kbuild("check", signed, "--key", public).returncode == 0  # the swap took place


def test_sign_signs_the_bytes_that_it_checked(made: Path, plain: Path, key: Path) -> None:
    checked = (plain / "SHA256SUMS").read_bytes()

    def swap(name: str) -> None:
        if name == "key.pem":
            shutil.copyfile(made / "other/v1.20.2/SHA256SUMS", plain / "SHA256SUMS")

    with when_opened(swap):
        done = kbuild("sign", plain, "--key", key)
    assert done.returncode == 0, done.stderr
    assert (plain / "SHA256SUMS").read_bytes() != checked
    bundle = json.loads((plain / "SHA256SUMS.sigstore.json").read_text())
    told = bundle["messageSignature"]["messageDigest"]["digest"]
    assert base64.b64decode(told) == hashlib.sha256(checked).digest()


def test_sign_does_not_skip_the_check_for_an_odd_file_in_a_signatures_place(
    plain: Path, key: Path
) -> None:
    (plain / AMD64).write_bytes(b"evil")
    (plain / "cosign.pub").symlink_to("/etc/passwd")
    done = kbuild("sign", plain, "--key", key)
    assert outcome(done) == BROKEN, done.stdout
    assert not (plain / "SHA256SUMS.sigstore.json").exists()


# --- demands ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [WHO, ("--key",)])
def test_an_unsigned_release_does_not_meet_the_demand_for_a_signer(
    words: tuple[str, ...], plain: Path, public: Path
) -> None:
    last = [public] if words == ("--key",) else []
    done = kbuild("check", plain, *words, *last)
    assert outcome(done) == BROKEN, done.stdout
    assert "missing: SHA256SUMS.sigstore.json" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        WHO[:2],
        WHO[2:],
        ("--key", "PUBLIC", *WHO[2:]),
        ("--key", "PUBLIC", *WHO),
        ("--identity", "", "--issuer", ""),
        ("--trust-config", "PUBLIC"),
    ],
)
def test_half_a_demand_for_a_signer_is_a_usage_error(
    words: tuple[str, ...], signed: Path, public: Path
) -> None:
    done = kbuild("check", signed, *(public if word == "PUBLIC" else word for word in words))
    assert outcome(done) == (2, "bad-setting"), done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--version", "v1.31.2"),
        ("--version", "v1.20.20"),
        ("--arch", "s390x"),
        ("--arch", "amd64,arm"),
        ("--ca-years", "10"),
        ("--leaf-years", "100"),
    ],
)
def test_a_signed_release_of_something_else_does_not_meet_a_demand(
    words: tuple[str, str], signed: Path, public: Path
) -> None:
    done = kbuild("check", signed, "--key", public, *words)
    assert outcome(done) == UNMET, done.stdout + done.stderr
    assert "is intact, but does not meet 1 requirement\n" in done.stderr
    assert "trust" not in done.stderr
    assert "different: provenance.json: its" in done.stderr


def test_a_damaged_release_is_not_called_intact_whatever_is_required(signed: Path) -> None:
    (signed / "kubeadm-linux-amd64").write_bytes(b"other")
    done = kbuild("check", signed, "--ca-years", "10")
    assert outcome(done) == BROKEN, done.stdout + done.stderr
    assert "its CA lifetime is 100, you require 10" in done.stderr


def test_every_release_of_a_folder_must_meet_the_demands(plain: Path) -> None:
    words = ("--version", "1.20.2", "--arch", "arm64", "--ca-years", "100", "--leaf-years", "10")
    assert kbuild("check", plain.parent, *words).returncode == 0
    rename_version(shutil.copytree(plain, plain.with_name("v1.20.3")))
    assert kbuild("check", plain.parent).returncode == 0
    done = kbuild("check", plain.parent, *words)
    assert outcome(done) == UNMET, done.stdout
    assert "its version is v1.20.3, you require v1.20.2" in done.stderr


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("--version", "1.20"), "bad-setting"),
        (("--version", "x"), "bad-version"),
        (("--arch", "vax"), "bad-setting"),
        (("--ca-years", "0"), "bad-setting"),
    ],
)
def test_a_demand_that_nothing_can_meet_is_a_usage_error(
    words: tuple[str, str], kind: str, plain: Path
) -> None:
    assert outcome(kbuild("check", plain, *words)) == (2, kind)


def test_settings_for_building_are_no_demands(plain: Path) -> None:
    done = kbuild("check", plain, KBUILD_VERSION="v1.31.2", KBUILD_CA_YEARS="5", KBUILD_ARCH="arm")
    assert done.returncode == 0, done.stderr


def test_check_states_what_it_checked(signed: Path, public: Path) -> None:
    text = kbuild("check", signed, "--key", public).stdout
    for part in ("v1.20.2", "amd64, arm64", "CA 100 years", "others 10 years", "by sha256:"):
        assert part in text
    document = json.loads(kbuild("check", signed, "--key", public, "--json").stdout)
    assert document["version"] == "v1.20.2"
    assert document["arches"] == ["amd64", "arm64"]
    assert document["lifetimes"] == {"ca_years": 100, "leaf_years": 10}
    assert document["signer"]["trusted"] is True


# --- folders of releases ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["evil release", "file", "empty folder", "link", "pipe"])
def test_what_belongs_to_no_release_is_an_error(kind: str, plain: Path) -> None:
    stray = plain.with_name("v1.31.2")
    match kind:
        case "evil release":
            shutil.copytree(plain, stray)
            (stray / AMD64).write_bytes(b"evil")
            (stray / "SHA256SUMS").unlink()
            (stray / "provenance.json").unlink()
        case "file":
            stray.touch()
        case "empty folder":
            stray.mkdir()
        case "link":
            stray.symlink_to(plain)
        case _:
            os.mkfifo(stray)
    for words in (("check",), EXPORT):
        done = kbuild(*words, plain.parent)
        assert outcome(done) == BROKEN, done.stdout
        assert "extra: v1.31.2: " in done.stderr


# --- limits -----------------------------------------------------------------------------------


def _replace_build_info(path: Path, content: bytes, **changes: int) -> None:
    """Change the section header of .go.buildinfo, the fourth one; the content goes to the end."""
    binary = bytearray(path.read_bytes())
    (table,) = struct.unpack_from("<Q", binary, 40)
    at = table + 4 * 64
    fields = dict(
        zip(
            ("name", "type", "flags", "address", "offset", "size"),
            struct.unpack_from("<2I4Q", binary, at),
            strict=True,
        )
    )
    fields |= {"offset": len(binary), "size": len(content)} | changes
    struct.pack_into("<2I4Q", binary, at, *fields.values())
    path.write_bytes(bytes(binary) + content)


def _compressed(size: int) -> bytes:
    packer = zlib.compressobj(1)
    block = bytes(2**24)
    packed = b"".join(packer.compress(block) for _ in range(size // len(block)))
    return struct.pack("<2I2Q", 1, 0, size, 1) + packed + packer.flush()


BOMBS: dict[str, Callable[[Path], None]] = {
    "compressed": lambda path: _replace_build_info(path, _compressed(2**31), flags=0x802),
    "zeros": lambda path: _replace_build_info(path, b"", type=8, size=2**40),
    "beyond the end": lambda path: _replace_build_info(path, b"", size=2**40),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_binary_decides_no_size(bomb: str, plain: Path) -> None:
    BOMBS[bomb](plain / AMD64)
    assert (plain / AMD64).stat().st_size < 16 * 2**20
    forge(plain)
    done = limited("check", plain)
    assert outcome(done) == BROKEN, done.stderr
    assert f"different: {AMD64}" in done.stderr


@pytest.mark.parametrize("name", ["provenance.json", "build.json", "proof.json"])
@pytest.mark.parametrize("kind", ["a key twice", "deep", "large"])
def test_a_document_that_no_release_has_is_named(kind: str, name: str, plain: Path) -> None:
    path = plain / name
    extra = {
        "a key twice": '"x": 1, "x": 2',
        "deep": '"x": ' + "[" * 40 + "]" * 40,
        "large": '"x": "' + "x" * 5 * 2**20 + '"',
    }[kind]
    path.write_text(path.read_text().replace("{", "{" + extra + ",", 1))
    forge_sums(plain) if name == "provenance.json" else forge(plain)
    done = kbuild("check", plain)
    assert outcome(done) == BROKEN, done.stdout
    assert f"different: {name}: " in done.stderr


def test_more_files_than_any_release_has_are_not_read(plain: Path) -> None:
    for number in range(600):
        (plain / f"more-{number}").touch()
    done = kbuild("check", plain)
    assert outcome(done) == BROKEN
    assert "more than 500 entries" in done.stderr


def test_links_to_one_file_count_as_many(plain: Path) -> None:
    for number in range(600):
        folder = plain / f"more-{number // 100}"
        folder.mkdir(exist_ok=True)
        (folder / str(number)).hardlink_to(plain / "build.json")
    done = kbuild("check", plain)
    assert outcome(done) == BROKEN
    assert "more than 500 entries" in done.stderr


def test_a_release_among_too_many_entries_is_not_good(plain: Path) -> None:
    for number in range(10_000):
        os.link(plain / "build.json", plain.parent / f"v0.0.{number}")
    done = kbuild("check", plain.parent)
    # The release itself may be among those that were not read; then there is none.
    assert outcome(done) == (90, "not-a-release") or "not all were read" in done.stderr


def test_a_binary_of_any_size_is_not_read(plain: Path) -> None:
    with (plain / AMD64).open("r+b") as file:
        file.truncate(2**33)
    done = limited("check", plain)
    assert outcome(done) == BROKEN, done.stderr
    assert f"different: {AMD64}: it is larger than" in done.stderr


def test_a_release_does_not_flood_the_terminal(plain: Path) -> None:
    lines = "".join(f"{'0' * 64}  {'x' * 5000}{number:04}\n" for number in range(600))
    (plain / "SHA256SUMS").write_text(lines)
    lines = "".join(f"{'0' * 64}  {number:06}\n" for number in range(20_000))
    (plain / "SHA512SUMS").write_text(lines)
    done = kbuild("check", plain)
    assert outcome(done) == BROKEN
    assert len(done.stderr) < 2**20
    assert re.search(r"and \d+ more$", done.stderr, re.MULTILINE)


# --- modes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("build.json", 0o664),
        ("build.json", 0o646),
        (".", 0o775),
        (".", 0o1777),
        (AMD64, 0o4755),
        (AMD64, 0o2755),
        (AMD64, 0o1755),
    ],
)
def test_a_mode_that_lets_others_in_is_named(name: str, mode: int, plain: Path) -> None:
    (plain / name).chmod(mode)
    done = kbuild("check", plain)
    assert outcome(done) == BROKEN, done.stdout
    assert f"unsafe: {name}: its mode is {mode:04o}" in done.stderr


def test_the_mode_of_the_folder_of_releases_counts_too(plain: Path) -> None:
    plain.parent.chmod(0o777)
    done = kbuild("check", plain.parent)
    assert outcome(done) == BROKEN, done.stdout
    assert "unsafe: .: its mode is 0777" in done.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_named(plain: Path) -> None:
    os.chown(plain / AMD64, 12345, 12345)
    done = kbuild("check", plain)
    assert outcome(done) == BROKEN, done.stdout
    assert f"unsafe: {AMD64}: its owner is the user 12345" in done.stderr


def test_a_release_made_with_a_lax_umask_is_the_owners_own(made: Path, tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        folder = make_release(made / "work", tmp_path / "lax", layout="tree")
    finally:
        os.umask(before)
    assert kbuild("check", folder).returncode == 0


# --- a key vouches for nothing that it came with ----------------------------------------------


@pytest.mark.parametrize("way", ["plain", "link", "folder link", "hard link", "folder of releases"])
def test_a_key_in_the_folder_under_test_is_refused(way: str, signed: Path, tmp_path: Path) -> None:
    key, folder = signed / "cosign.pub", signed
    match way:
        case "link":
            key = tmp_path / "link"
            key.symlink_to(signed / "cosign.pub")
        case "folder link":
            (tmp_path / "link").symlink_to(signed)
            key = tmp_path / "link/cosign.pub"
        case "hard link":
            key = tmp_path / "hard"
            key.hardlink_to(signed / "cosign.pub")
        case "folder of releases":
            folder = signed.parent
        case _:
            assert way == "plain"
    done = kbuild("check", folder, "--key", key)
    assert outcome(done) == (90, "bad-key"), done.stdout
    assert "in the directory that it should vouch for" in done.stderr


def test_a_key_beside_a_release_makes_nobody_its_signer(signed: Path) -> None:
    done = kbuild("check", signed)
    assert done.returncode == 0, done.stderr
    assert "which proves nothing" in done.stdout
    assert "signed by" not in done.stdout + done.stderr
    assert json.loads(kbuild("check", signed, "--json").stdout)["signer"]["trusted"] is False


# --- control characters -----------------------------------------------------------------------


def _harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def test_names_of_files_reach_no_terminal_as_control_characters(plain: Path) -> None:
    (plain / f"{ESCAPES}\nextra: fine").touch()
    (plain / os.fsdecode(b"\xff\xfe")).touch()
    done = kbuild("check", plain)
    assert outcome(done) == BROKEN
    assert _harmless(done.stdout + done.stderr), done.stderr
    assert r"\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u202e\u2066\r\nextra: fine" in done.stderr
    document = kbuild("check", plain, "--json")
    error = json.loads(document.stdout)["error"]
    assert (error["exit_code"], error["kind"]) == BROKEN
    assert _harmless(document.stdout + document.stderr)


@pytest.mark.parametrize("name", ["build.json", "proof.json"])
def test_values_of_documents_reach_no_terminal_as_control_characters(
    name: str, plain: Path
) -> None:
    path = plain / name
    escaped = json.dumps(ESCAPES)[1:-1]
    path.write_text(path.read_text().replace("v1.20.2", escaped))
    forge(plain)
    done = kbuild("check", plain)
    assert outcome(done) == BROKEN, done.stdout
    assert _harmless(done.stdout + done.stderr), done.stderr
    assert "\\u202e" in done.stderr


def test_the_name_of_a_folder_reaches_no_terminal_as_control_characters(plain: Path) -> None:
    folder = plain.rename(plain.with_name(f"x{ESCAPES}"))
    done = kbuild("check", folder)
    assert done.returncode == 0, done.stderr
    assert _harmless(done.stdout + done.stderr)


def test_names_on_the_command_line_reach_no_terminal_as_control_characters(plain: Path) -> None:
    done = kbuild("check", plain, f"{ESCAPES}x")
    assert done.returncode == 2
    assert r"\x1b[2J" in done.stderr
    assert _harmless(done.stderr)
