"""Whatever is in a file that kbuild reads, it ends with an error of its own, and soon.

FUZZ=100 runs a hundred times as many examples, and others each time.
"""

import base64
import contextlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import kbuild
from kbuild.base.errors import KbuildError
from kbuild.cli.app import app
from kbuild.kubeadm.model import Lifetimes, SourceTree
from kbuild.kubeadm.patching.fitting import fitting_series
from kbuild.kubeadm.patching.goconst import GoSourceError
from kbuild.kubeadm.patching.gosource import added_duration, const_value
from kbuild.kubeadm.patching.series import read_index
from kbuild.kubeadm.prove.gobinary import read_build_info, read_functions, read_sections
from kbuild.kubeadm.prove.issued import UnreadableCertificate, read_certificates
from kbuild.kubeadm.prove.stock import differing_functions
from kbuild.kubeadm.toolchain.pin import CROSS, DEPENDENCIES, GO_VERSION, read_pin
from kbuild.release.keys import private_key
from kbuild.release.sbom import sbom_text
from kbuild.release.signing import sign_keyless, sign_with_key
from kbuild.settings import Settings, names, read_settings
from tests.support.eras import CERT, CONSTANTS, PKI_HELPERS, make_tree
from tests.support.failures import kind_of
from tests.support.fake_kubeadm import certificate
from tests.support.goelf import write_go_elf
from tests.support.mutations import VALUES, damaged, restructured
from tests.support.releases import (
    documents,
    forge,
    forge_sums,
    make_binaries,
    make_release,
)
from tests.support.sigstore_instance import IDENTITY, ISSUER, running_sigstore

pytestmark = pytest.mark.slow
FUZZ = int(os.environ.get("FUZZ", "1"))
MOST_SECONDS = 10
YEAR = timedelta(days=365)
DOCUMENTS = ["provenance.json", "build.json", "proof.json", "kubeadm-amd64.spdx.json"]
REFUSED = {"bad-provenance", "address-not-allowed", "not-kubernetes"} | {
    *("bad-setting", "bad-version", "unsupported-version", "leaf-outlives-ca"),
}
BUNDLES = ("SHA256SUMS.sigstore.json", "provenance.sigstore.json")
DIGEST = "sha256:" + "1" * 64
WHO = ("--identity", IDENTITY, "--issuer", ISSUER, "--trust-config")
SETTINGS = (
    b'# mine\nversion = ["v1.20.2", "1.21"]\nca-years = 100\nleaf-years = 10\narch = "amd64"\n'
    b'build-date = 2026-01-02T12:00:00Z\ncache-dir = "~/cache"\nsource = "https://example.org/k.git"\n'
    b'go-version = "1.21.0"\njson = true\nlock = """lock"""\n'
)


def examples(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=count * FUZZ,
        derandomize=FUZZ == 1,
        database=None,
        report_multiple_bugs=FUZZ == 1,
        phases=[Phase.generate, *([Phase.shrink] if FUZZ == 1 else [])],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def _warnings_as_for_users() -> Iterator[None]:
    """Leave warnings what they are: pytest makes them errors, and Python does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def soon() -> Iterator[None]:
    began = time.process_time()  # a command that waits for ever is ended by pytest-timeout
    yield
    assert time.process_time() - began < MOST_SECONDS


def ends_well(*words: object) -> str:
    """Run a command, which must end with an error of its own or none; return the kind of that."""
    with soon():
        done = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(done.exception, SystemExit | None), done.output
    kind = kind_of(done.stderr)
    assert kind != "internal-error", done.output
    assert (done.exit_code == 0) == (kind == ""), done.output
    return kind


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def key(home: Path) -> Path:
    made = ec.derive_private_key(1, ec.SECP256R1())
    path = home / "key.pem"
    path.write_bytes(pem(made, serialization.NoEncryption()))
    (home / "public.pem").write_bytes(
        made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return path


def pem(key: ec.EllipticCurvePrivateKey, how: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


@pytest.fixture(scope="module")
def signed(home: Path, key: Path) -> Path:
    folder = make_release(home / "work", home / "signed/v1.20.2")
    sign_with_key(folder, documents(folder), key)
    return folder


@pytest.fixture(scope="module")
def keyless(home: Path, signed: Path) -> Iterator[Path]:
    """Return a release that is signed keyless; the trust for it is ``trust.json`` at home."""
    folder = shutil.copytree(signed, home / "keyless/v1.20.2")
    with running_sigstore() as instance, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GITHUB_ACTIONS", "true")
        patch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "a token")
        patch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{instance.address}/oidc?x=y")
        (home / "trust.json").write_text(json.dumps(instance.trust_config()))
        sign_keyless(folder, documents(folder), home / "trust.json", force=True)
        yield folder


@examples(40)
@given(content=damaged(SETTINGS))
def test_settings(content: bytes, home: Path) -> None:
    file = home / "kbuild.toml"
    file.write_bytes(content)
    ends_well("pins", "list", "--config", file)
    with contextlib.suppress(KbuildError):
        read_settings(Settings, {}, {}, file).requests({})


@examples(40)
@given(
    entries=st.dictionaries(
        st.sampled_from(names()),
        st.sampled_from(
            [
                *(value for value in VALUES if not value.startswith(("{", "null"))),
                *("0x" + "f" * 5000, "1979-05-27", "07:32:00", "0001-01-01T00:00:00+23:59", "nan"),
                *("9999-12-31T23:59:59-23:59", "{a = 1}", "'~'", "'~nosuchuser/x'", '"\\u0000"'),
            ]
        ),
        min_size=1,
        max_size=3,
    )
)
def test_settings_of_any_type(entries: dict[str, str], home: Path) -> None:
    file = home / "kbuild.toml"
    file.write_text("".join(f"{name} = {value}\n" for name, value in entries.items()))
    ends_well("pins", "list", "--config", file)
    with contextlib.suppress(KbuildError):
        read_settings(Settings, {}, {}, file).requests({})


@examples(40)
@given(content=damaged(f"# pins\ngolang\t1.21.6\t{DIGEST}\nx/golang\t1.20.0\t{DIGEST}\n".encode()))
def test_lock_file(content: bytes, home: Path) -> None:
    file = home / "lock"
    file.write_bytes(content)
    assert ends_well("pins", "list", "--lock", file) in ("", "bad-pins-file")


def copy_without(release: Path, folder: Path, *names: str) -> Path:
    """Copy a release to a folder, in place of what is there, but for some files."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(release, folder)
    for name in names:
        (folder / name).unlink()
    return folder


@examples(60)
@given(data=st.data())
def test_provenance(data: st.DataObject, home: Path, signed: Path) -> None:
    text = (signed / "provenance.json").read_bytes()
    file = home / "provenance.json"
    file.write_bytes(data.draw(st.one_of(damaged(text), restructured(text))))
    words = ("--source", home / "absent", "--builder", "local", "--cache-dir", home / "cache")
    assert ends_well("rebuild", file, *words) in REFUSED


@examples(60)
@given(data=st.data())
def test_files_of_a_release(data: st.DataObject, home: Path, signed: Path) -> None:
    folder = copy_without(signed, home / "damaged/v1.20.2", *BUNDLES, "cosign.pub")
    name = data.draw(st.sampled_from(sorted(path.name for path in folder.iterdir())))
    content = (folder / name).read_bytes()
    ways = [damaged(content)]
    if name.endswith(".json"):
        ways += [restructured(content)] * 3
    (folder / name).write_bytes(data.draw(st.one_of(ways)))
    if data.draw(st.booleans()) and not name.endswith((".sha256", "SUMS")):
        forge_sums(folder) if name == "provenance.json" else forge(folder)
    assert ends_well("check", folder) in ("", "release-broken")
    assert ends_well("export", "sealos", folder, "--base-url", "https://example.org") in (
        "",
        "release-broken",
    )


@examples(40)
@given(data=st.data())
def test_what_a_release_says_in_json(data: st.DataObject, home: Path, signed: Path) -> None:
    folder = copy_without(signed, home / "restructured/v1.20.2", *BUNDLES, "cosign.pub")
    name = data.draw(st.sampled_from(DOCUMENTS))
    (folder / name).write_bytes(data.draw(restructured((folder / name).read_bytes())))
    forge_sums(folder) if name == "provenance.json" else forge(folder)
    assert ends_well("check", folder) in ("", "release-broken")


@examples(40)
@given(data=st.data())
def test_bundles_and_keys_of_a_release(data: st.DataObject, home: Path, signed: Path) -> None:
    folder = copy_without(signed, home / "bundles/v1.20.2")
    name = data.draw(st.sampled_from([*BUNDLES, "cosign.pub"]))
    text = (folder / name).read_bytes()
    ways = [damaged(text)] if name == "cosign.pub" else [damaged(text), restructured(text)]
    (folder / name).write_bytes(data.draw(st.one_of(ways)))
    for last in ((), ("--key", home / "public.pem")):
        assert ends_well("check", folder, *last) in ("", "release-broken")


@examples(25)
@given(data=st.data())
def test_keyless_bundles_and_trust(data: st.DataObject, home: Path, keyless: Path) -> None:
    folder = home / "keyless-damaged/v1.20.2"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(keyless, folder)
    trust = home / "damaged-trust.json"
    shutil.copyfile(home / "trust.json", trust)
    path = data.draw(st.sampled_from([*(folder / name for name in BUNDLES), trust]))
    text = path.read_bytes()
    path.write_bytes(data.draw(st.one_of(restructured(text), damaged(text))))
    assert ends_well("check", folder, *WHO, trust) in ("", "release-broken", "keyless-failed")


@pytest.fixture(scope="module")
def keys() -> dict[str, bytes]:
    key = ec.derive_private_key(2, ec.SECP256R1())
    plain = pem(key, serialization.NoEncryption())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    encrypted = pem(key, serialization.BestAvailableEncryption(b"x"))
    return {"plain": plain, "encrypted": encrypted, "public": public}


def cosign_key(document: bytes) -> bytes:
    label = b"ENCRYPTED SIGSTORE PRIVATE KEY"
    body = base64.encodebytes(document)
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label, body, label)


COSIGN = {
    "kdf": {"name": "scrypt", "params": {"N": 2**15, "r": 8, "p": 1}, "salt": "AAAA"},
    "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(bytes(24)).decode()},
    "ciphertext": base64.b64encode(bytes(200)).decode(),
}


@examples(60)
@given(data=st.data())
def test_keys(data: st.DataObject, home: Path, keys: dict[str, bytes], signed: Path) -> None:
    kind = data.draw(st.sampled_from([*keys, "der", "cosign"]))
    if kind == "cosign":
        text = json.dumps(COSIGN).encode()
        content = cosign_key(data.draw(st.one_of(restructured(text), damaged(text))))
    elif kind == "der":
        lines = keys["encrypted"].splitlines()
        body = base64.encodebytes(data.draw(damaged(base64.b64decode(b"".join(lines[1:-1])))))
        content = b"\n".join([lines[0], body, lines[-1]])
    else:
        content = data.draw(damaged(keys[kind]))
    file = home / "damaged-key"
    file.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, soon(), contextlib.suppress(KbuildError):
        patch.setenv("COSIGN_PASSWORD", "x")
        private_key(file)
    assert ends_well("check", signed, "--key", file) in ("", "release-broken", "bad-key")


@examples(120)
@given(data=st.data())
def test_binaries(data: st.DataObject, home: Path) -> None:
    form = data.draw(st.sampled_from(["1.2", "1.16", "1.18", "1.20", "1.26"]))
    binary = write_go_elf(home / "kubeadm", pclntab=form)
    content = data.draw(damaged(binary.read_bytes()))
    if data.draw(st.booleans()):  # the first 64 bytes are the header, where most is decided
        header = data.draw(damaged(content[:64]))
        content = header[:64].ljust(64, b"\0") + content[64:]
    for read in (read_build_info, read_functions, read_sections):
        with soon(), contextlib.suppress(KbuildError):
            read(content)
    whole = home / "kubeadm-whole"
    shutil.copyfile(binary, whole)
    binary.write_bytes(content)
    with soon(), contextlib.suppress(KbuildError):
        differing_functions(whole, binary, "amd64")
    words = ("verify", binary, "--ca-years", "1")  # with nothing missing, it would run
    assert ends_well(*words) in ("missing-setting", "wrong-binary")


@pytest.fixture(scope="module")
def ca() -> bytes:
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    return certificate("pki/ca.crt", noon, noon + YEAR, ca=True)


@examples(100)
@given(data=st.data())
def test_certificates_of_a_proof(data: st.DataObject, ca: bytes) -> None:
    content = ca
    der = base64.b64decode(b"".join(content.splitlines()[1:-1]))
    label = b"-----%s CERTIFICATE-----\n"
    changed = base64.encodebytes(data.draw(damaged(der)))
    content = data.draw(
        st.one_of(st.just(label % b"BEGIN" + changed + label % b"END"), damaged(content))
    )
    conf = b"users: [{user: {client-certificate-data: %s}}]" % base64.b64encode(content)
    for files in (
        {"pki/ca.crt": content},
        {"admin.conf": conf},
        {"admin.conf": data.draw(damaged(conf))},
    ):
        with soon(), contextlib.suppress(UnreadableCertificate):
            read_certificates(files)


@examples(30)
@given(data=st.data())
def test_patches(data: st.DataObject, home: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=home))  # a new one: the index of a folder is read once
    shutil.copytree(Path(kbuild.__file__).parents[1] / "patches", folder, dirs_exist_ok=True)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    with soon(), contextlib.suppress(KbuildError):
        for series in read_index(folder).series:
            series.hunks(Lifetimes(ca_years=2, leaf_years=1), "override")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def tree(home: Path) -> SourceTree:
    make_tree(home / "tree", "v1.20.2")
    return SourceTree(path=home / "tree", tag="v1.20.2", commit="0" * 40, origin="a test")


@examples(100)
@given(data=st.data())
def test_go_pins_of_a_tree(data: st.DataObject, tree: SourceTree) -> None:
    texts = {
        GO_VERSION: b"1.21.6\n",
        CROSS: b"v1.21.0-go1.16.9-buster.0\n",
        DEPENDENCIES: (tree.path / DEPENDENCIES).read_bytes()
        + b'- name: "golang: upstream version"\n  version: 1.21.6\n',
    }
    file = data.draw(st.sampled_from(sorted(texts)))
    path = tree.path / file
    before = path.read_bytes() if path.exists() else None
    try:
        path.write_bytes(data.draw(damaged(texts[file])))
        with soon(), contextlib.suppress(KbuildError):
            read_pin(tree)
    finally:
        path.unlink() if before is None else path.write_bytes(before)


@examples(60)
@given(data=st.data())
def test_go_sources(data: st.DataObject, tree: SourceTree) -> None:
    path = tree.path / data.draw(st.sampled_from([CERT, CONSTANTS, PKI_HELPERS]))
    before = path.read_bytes()
    content = data.draw(damaged(before))
    text = content.decode(errors="replace")
    with soon(), contextlib.suppress(GoSourceError):
        const_value(text, "CertificateValidity")
    with soon(), contextlib.suppress(GoSourceError):
        added_duration(text, "NewSelfSignedCACert", "NotAfter")
    try:
        path.write_bytes(content)
        with soon(), contextlib.suppress(KbuildError):
            fitting_series(tree, Lifetimes(ca_years=2, leaf_years=1), "override")
    finally:
        path.write_bytes(before)


@examples(15)
@given(data=st.data())
def test_vendored_modules_of_a_tree(data: st.DataObject, home: Path) -> None:
    folder = home / "vendored"
    texts = {
        "vendor/modules.txt": b"# github.com/spf13/cobra v1.1.1\n## explicit\n"
        b"github.com/spf13/cobra\n# gopkg.in/yaml.v2 => x.org/yaml v2.0.0\ngopkg.in/yaml.v2\n",
        "Godeps/Godeps.json": b'{"Deps": [{"ImportPath": "gopkg.in/yaml.v2", "Rev": "abc"}]}',
    }
    name = data.draw(st.sampled_from(sorted(texts)))
    for each, text in texts.items():
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        (folder / each).write_bytes(data.draw(damaged(text)) if each == name else text)
    binary = make_binaries(folder, modules="")[0]
    with soon(), contextlib.suppress(KbuildError):
        sbom_text(binary)
