"""What is read below paths, and what is told of the rest: nothing ends in a traceback."""

import base64
import os
import resource
import shutil
import socket
import threading
import time
import warnings
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kbuild.certs.api import take_inventory
from kbuild.certs.model import Inventory
from kbuild.x509.api import quiet
from tests.support.authority import (
    CLIENT,
    NOW,
    Issued,
    control_plane,
    issue,
    kubeconfig,
    write_kubeconfig,
)
from tests.support.mutations import damaged
from tests.support.recorder import Recorder
from tests.unit.certs.conftest import Read

CA = issue("ca", ca=True)
LEAF = issue("x", CA)
PEMS = LEAF.pem + CA.pem
PKCS7 = {
    encoding: pkcs7.serialize_certificates([LEAF.certificate, CA.certificate], encoding)
    for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
}
BEGIN = b"-----BEGIN CERTIFICATE-----\n"


def kinds(inventory: Inventory) -> list[str]:
    return [found.kind for found in inventory.findings]


def places(inventory: Inventory) -> set[str]:
    return {certificate.place for certificate in inventory.certificates}


@pytest.mark.parametrize(
    "content",
    [
        PEMS,
        b"words before\n" + PEMS.replace(b"\n", b"\r\n") + b"words after",
        *PKCS7.values(),
        PKCS7[serialization.Encoding.PEM].replace(b" PKCS7-", b" CMS-"),
    ],
    ids=["pem", "pem with CRLF and text", "pkcs7 pem", "pkcs7 der", "cms"],
)
def test_several_certificates_in_one_file(content: bytes, tmp_path: Path, read: Read) -> None:
    (tmp_path / "any.name").write_bytes(content)
    inventory = read(tmp_path)
    assert places(inventory) == {"", "certificate 2"}
    assert {c.fingerprint for c in inventory.certificates} == {
        one.certificate.fingerprint(one.certificate.signature_hash_algorithm).hex()  # type: ignore[arg-type]
        for one in (CA, LEAF)
    }
    assert "unreadable" not in kinds(inventory)


def test_der(tmp_path: Path, read: Read) -> None:
    (tmp_path / "x.crt").write_bytes(LEAF.der)
    (tmp_path / "x.key").write_bytes(
        LEAF.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    [certificate] = read(tmp_path).certificates
    assert certificate.private_key is not None
    assert certificate.private_key.fits is True


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "not-a-certificate"),
        (b"words", "not-a-certificate"),
        (b"\x30\x82\x01\x00" + b"x" * 300, "not-a-certificate"),
        (LEAF.der[:200], "not-a-certificate"),
        (LEAF.pem[:200], "unreadable"),
        (BEGIN * 3, "unreadable"),
        (BEGIN + b"AAAA\n-----END CERTIFICATE-----\n", "unreadable"),
        (b"\0" * (2 << 20), "too-large"),
    ],
    ids=["empty", "words", "no der", "cut der", "cut pem", "begins", "no base64", "large"],
)
def test_what_should_be_a_certificate_and_is_not(
    content: bytes, kind: str, tmp_path: Path, read: Read
) -> None:
    (tmp_path / "bad.crt").write_bytes(content)
    LEAF.write(tmp_path / "good.crt")
    for path in (tmp_path, tmp_path / "bad.crt"):
        inventory = read(path)
        assert kind in kinds(inventory)
        assert {f.path for f in inventory.findings if f.kind == kind} == {f"{tmp_path}/bad.crt"}
    assert len(read(tmp_path).certificates) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"-----BEGIN CERTIFICATE-----", b"-----BEGIN CERTIFICATE----"),
        (b"-----BEGIN CERTIFICATE-----", b"----BEGIN CERTIFICATE-----"),
        (b"-----BEGIN CERTIFICATE-----", b"-----BEGIN  CERTIFICATE-----"),
        (b"-----BEGIN CERTIFICATE-----", b"-----BEGIN CERTIFICATE -----"),
        (b"-----BEGIN CERTIFICATE-----", b"-----Begin certificate-----"),
        (b"-----BEGIN CERTIFICATE-----\n", b""),
        (b"CERTIFICATE-----", b"certificate-----"),
    ],
    ids=["end", "start", "spaces", "space", "small", "absent", "both small"],
)
def test_a_damaged_first_line_is_never_silent(
    old: bytes, new: bytes, tmp_path: Path, read: Read
) -> None:
    damage = LEAF.pem.replace(old, new)
    for name in ("x.crt", "any.name"):
        for content in (damage, damage + CA.pem, CA.pem + damage):
            (tmp_path / name).write_bytes(content)
            told = {f.kind for f in read(tmp_path).findings}
            assert told & {"unreadable", "not-a-certificate"}, content
        (tmp_path / name).unlink()


def test_blocks_of_other_kinds_are_passed_over(tmp_path: Path, read: Read) -> None:
    for label in (b"CERTIFICATE REQUEST", b"PUBLIC KEY", b"X509 CRL", b"DH PARAMETERS"):
        content = LEAF.pem.replace(b"CERTIFICATE", label)
        (tmp_path / f"{label.decode()}.pem").write_bytes(content)
    (tmp_path / "x.sh").write_text("# BEGIN of the certificate\necho begin certificate\n")
    assert read(tmp_path).findings == ()


def test_one_broken_block_does_not_hide_the_others(tmp_path: Path, read: Read) -> None:
    (tmp_path / "x.pem").write_bytes(BEGIN + b"AAAA\n-----END CERTIFICATE-----\n" + PEMS + BEGIN)
    inventory = read(tmp_path)
    assert len(inventory.certificates) == 2
    assert kinds(inventory).count("unreadable") == 2


def test_other_files_are_passed_over_unless_they_are_named(tmp_path: Path, read: Read) -> None:
    other = tmp_path / "kube-apiserver.yaml"
    other.write_text("kind: Pod\n")
    (tmp_path / "empty").touch()
    assert read(tmp_path).findings == ()
    assert kinds(read(other)) == ["not-a-certificate"]


def test_a_path_that_is_not_there(tmp_path: Path, read: Read) -> None:
    LEAF.write(tmp_path / "x.crt")
    inventory = read(tmp_path / "absent.crt", tmp_path)
    assert kinds(inventory)[0] == "unreadable"
    assert inventory.findings[0].reason == "No such file or directory"
    assert len(inventory.certificates) == 1


@pytest.mark.timeout(20)
def test_no_fifo_socket_or_device_is_opened(tmp_path: Path, read: Read) -> None:
    os.mkfifo(tmp_path / "fifo.crt")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.crt"))
    (tmp_path / "zero.crt").symlink_to("/dev/zero")
    LEAF.write(tmp_path / "x.crt")
    assert len(read(tmp_path).certificates) == 1
    for name in ("fifo.crt", "socket.crt", "zero.crt"):
        [found] = read(tmp_path / name).findings
        assert found.reason == "it is not a regular file"
    listening.close()


def test_links_in_circles_and_to_the_same_file(tmp_path: Path, read: Read) -> None:
    LEAF.write(tmp_path / "real/x.crt")
    (tmp_path / "real/up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "real")
    (tmp_path / "real/y.crt").hardlink_to(tmp_path / "real/x.crt")
    (tmp_path / "a.crt").symlink_to("b.crt")
    (tmp_path / "b.crt").symlink_to("a.crt")
    inventory = read(tmp_path, tmp_path / "real", tmp_path / "again")
    [certificate] = inventory.certificates
    assert certificate.path == str(tmp_path / "real/x.crt")
    assert {f.path for f in inventory.findings if f.kind == "unreadable"} == {
        str(tmp_path / name) for name in ("a.crt", "b.crt")
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_this_user_may_not_read(tmp_path: Path, read: Read) -> None:
    LEAF.write(tmp_path / "x.crt")
    for name in ("x.key", "closed"):
        (tmp_path / name).mkdir() if name == "closed" else None
        (tmp_path / name).chmod(0)
    inventory = read(tmp_path)
    assert {"unreadable", "key-unreadable"} <= set(kinds(inventory))
    assert inventory.certificates[0].private_key is not None
    assert inventory.certificates[0].private_key.fits is None
    (tmp_path / "closed").chmod(0o700)


def test_a_directory_that_cannot_be_listed(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    LEAF.write(tmp_path / "x.crt")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refused(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    inventory = read(tmp_path)
    assert [f.path for f in inventory.findings if f.kind == "unreadable"] == [
        str(tmp_path / "closed")
    ]
    assert len(inventory.certificates) == 1


def test_memory_does_not_grow_with_the_size_of_files(tmp_path: Path, read: Read) -> None:
    LEAF.write(tmp_path / "x.crt")
    read(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("big.crt", "big.log"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 30)
    inventory = read(tmp_path, tmp_path / "big.log")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB
    assert kinds(inventory).count("too-large") == 2
    assert len(inventory.certificates) == 1


@pytest.mark.parametrize(
    "text",
    [
        "users: 1\nclusters: [1, {}]\ncurrent-context: x\n",
        "current-context: x\nusers: [{name: x, user: {client-certificate-data: '%'}}]\n",
        "current-context: x\nusers: [{name: x, user: {client-certificate-data: QUFBQQ==}}]\n",
        "current-context: [",
        "current-context: x\n" + "[" * 5000,
        "current-context: &a [*a]\n",
        "current-context: x\nusers: [{name: x, user: {client-certificate: /dev/zero}}]\n",
        'current-context: x\nusers: [{name: x, user: {client-certificate: "a\\0b"}}]\n',
        "current-context: x\n" + "#" * (300 << 10),
    ],
    ids=[
        *("types", "no base64", "no pem", "cut", "depth", "aliases", "device", "nul", "large"),
    ],
)
def test_kubeconfigs_that_are_broken(text: str, tmp_path: Path, read: Read) -> None:
    (tmp_path / "admin.conf").write_text(text)
    LEAF.write(tmp_path / "x.crt")
    inventory = read(tmp_path)
    assert len(inventory.certificates) == 1
    told = {f.kind for f in inventory.findings if f.path.endswith("admin.conf")}
    assert told <= {"unreadable", "not-a-certificate", "kubeconfig-file-missing"}
    assert told or text.startswith("users: 1")


FILES = {
    "x.crt": PEMS,
    "x.key": LEAF.key_pem,
    "y.der": LEAF.der,
    "z.p7b": PKCS7[serialization.Encoding.DER],
    "admin.conf": kubeconfig("x", issue("x", CA, usages=(CLIENT,)), CA),
}


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_whatever_a_file_holds_the_rest_is_read(
    data: st.DataObject, name: str, tmp_path: Path
) -> None:
    content = data.draw(damaged(FILES[name]))
    CA.write(tmp_path / "good.crt")
    (tmp_path / name).write_bytes(content)
    inventory = take_inventory((tmp_path, tmp_path / name), NOW, Recorder())
    assert str(tmp_path / "good.crt") in {c.path for c in inventory.certificates}
    (tmp_path / name).unlink()


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(end=st.integers(0, len(PEMS)), name=st.sampled_from(sorted(FILES)))
def test_truncated_anywhere_it_is_told_or_read(end: int, name: str, tmp_path: Path) -> None:
    content = FILES[name][:end]
    (tmp_path / name).write_bytes(content)
    inventory = take_inventory((tmp_path / name,), NOW, Recorder())
    assert inventory.certificates or inventory.findings
    (tmp_path / name).unlink()


@pytest.mark.slow
def test_ten_thousand_certificates_are_all_there(tmp_path: Path, read: Read) -> None:
    control_plane(tmp_path / "kubernetes")
    leaves = [issue(f"n{number}", CA) for number in range(20)]
    for number in range(10_000):
        folder = tmp_path / f"{number // 500}"
        folder.mkdir(exist_ok=True)
        leaf: Issued = leaves[number % 20]
        (folder / f"{number}.crt").write_bytes(leaf.pem)
        (folder / f"{number}.key").write_bytes(leaf.key_pem)
    (tmp_path / "ca.crt").write_bytes(CA.pem)
    inventory = read(tmp_path)
    assert len(inventory.certificates) == 10_010
    assert {c.chain for c in inventory.certificates} == {"verified", "self-signed"}
    shutil.rmtree(tmp_path)


USER = kubeconfig("x", issue("x", CA, usages=(CLIENT,)), CA)


@pytest.mark.parametrize(
    "content",
    [
        b"# -----BEGIN by a tool\n" + USER,
        b"# " + BEGIN + USER,
        b"kind: Pod\n---\n" + USER + b"---\n{}\n",
        USER.replace(b"kind: Config\n", b""),
    ],
    ids=["comment", "certificate in a comment", "documents", "no kind"],
)
def test_unusual_kubeconfigs(content: bytes, tmp_path: Path, read: Read) -> None:
    (tmp_path / "x").write_bytes(content)
    assert {place.partition("[")[0] for place in places(read(tmp_path))} == {"users", "clusters"}


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/sh\nctx=$(kubectl config current-context)\n\tfoo: bar: baz\n",
        "<p>certificate-authority</p>\n<pre>kubectl config current-context</pre>\n",
        "kind: A\n---\nkind: ConfigMap\ndata: {x: 'certificate-authority: /a'}\n",
    ],
    ids=["script", "page", "manifest"],
)
def test_text_about_kubeconfigs_is_passed_over(text: str, tmp_path: Path, read: Read) -> None:
    (tmp_path / "x").write_text(text)
    assert read(tmp_path).findings == ()
    assert kinds(read(tmp_path / "x")) == ["unreadable"]


def test_a_damaged_kubeconfig_with_any_name_is_reported(tmp_path: Path, read: Read) -> None:
    (tmp_path / "x").write_bytes(USER + b"  ]")
    assert kinds(read(tmp_path)) == ["unreadable"]


def test_a_kubeconfig_that_refers_to_a_directory(tmp_path: Path, read: Read) -> None:
    LEAF.write(tmp_path / "other/x.crt")
    config = tmp_path / "config"
    config.write_text("users: [{name: x, user: {client-certificate: other}}]\n")
    inventory = read(config)
    assert inventory.certificates == ()
    assert "kubeconfig-file-missing" in kinds(inventory)


@pytest.mark.parametrize("text", ["? a\n" * 60_000, "a: [" + "[]," * 70_000 + "]"])
def test_a_kubeconfig_with_too_many_tokens(text: str, tmp_path: Path, read: Read) -> None:
    (tmp_path / "admin.conf").write_text(f"users: []\ncurrent-context: x\n{text}\n")
    [found] = read(tmp_path).findings
    assert found.kind == "unreadable"
    assert "YAML tokens" in found.reason


@pytest.mark.timeout(3)
@pytest.mark.parametrize("number", ["1" + ":1" * 100_000, "9" * 200_000])
def test_a_number_that_takes_long_to_parse(number: str, tmp_path: Path, read: Read) -> None:
    content = USER + b"a: " + number.encode()
    write_kubeconfig(tmp_path / "admin.conf", content)
    assert len(read(tmp_path).certificates) == 2


def test_any_key_of_a_file_may_fit(tmp_path: Path, read: Read) -> None:
    (tmp_path / "x.pem").write_bytes(CA.key_pem + LEAF.key_pem + LEAF.pem)
    (tmp_path / "x.pem").chmod(0o600)
    assert "key-mismatch" not in kinds(read(tmp_path))
    (tmp_path / "x.pem").write_bytes(CA.key_pem + CA.key_pem + LEAF.pem)
    assert "key-mismatch" in kinds(read(tmp_path))


def test_a_users_name_does_not_hide_a_key_that_does_not_fit(tmp_path: Path, read: Read) -> None:
    content = kubeconfig("x certificate 2", LEAF, CA).replace(
        base64.b64encode(LEAF.key_pem), base64.b64encode(CA.key_pem)
    )
    write_kubeconfig(tmp_path / "config", content)
    assert "key-mismatch" in kinds(read(tmp_path))


def test_threads_that_read_at_once_are_all_silent() -> None:
    # The filters belong to the process: the first to end must not wake the others.
    has_begun = threading.Event()
    warned: list[str] = []

    def read() -> None:
        with quiet():
            has_begun.set()
            time.sleep(0.1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: warned.append(str(message))
        other = threading.Thread(target=read)
        other.start()
        has_begun.wait()
        with quiet():
            other.join()
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert warned == []
