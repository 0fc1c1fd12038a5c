"""``kbuild pki`` with keys of CAs on a real token: SoftHSM, with pkcs11-tool of OpenSC."""

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.e2e.command import KBUILD

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN, SO_PIN = "kb-1234", "so-5678"
Done = subprocess.CompletedProcess[str]
TOML = """\
output = "."
key = "ecdsa-p256"
leaf-years = 50
[nodes.n1]
addresses = ["192.0.2.11"]
roles = ["control-plane", "etcd"]
[certificates.ca]
key-uri = "pkcs11:token=kb;object=ca?module-path={module}&pin-source=file:{pin}"
[certificates.etcd-ca]
key-uri = "pkcs11:token=kb;object=etcd?module-path={module}&pin-source=file:{pin}"
[certificates.front-proxy-ca]
key-uri = "pkcs11:token=kb;id=%03?module-path={module}&pin-source=file:{pin}"
"""
KEYS = {"ca": ("rsa:3072", "01"), "etcd": ("EC:secp384r1", "02"), "front": ("EC:secp521r1", "03")}
LEAVES = {
    "ca": ("kubernetes", "kube-proxy", "kubelet-n1", "admin"),
    "etcd-ca": ("etcd", "flanneld", "apiserver-etcd-client"),
    "front-proxy-ca": ("front-proxy-client",),
}


class Cluster:
    """A directory with a pki.toml, and a token with the keys of its CAs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pin = folder / "cluster", folder / "pin"
        (folder / "tokens").mkdir()
        self.folder.mkdir()
        self.configuration = folder / "softhsm2.conf"
        self.configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\n")
        self.pin.write_text(f"{PIN}\n")
        self.pin.chmod(0o600)
        self.toml = self.folder / "pki.toml"
        self.toml.write_text(TOML.format(module=MODULE, pin=self.pin))
        self.run("softhsm2-util", "--init-token", "--free", "--label", "kb", *self.pins())
        for label, (kind, number) in KEYS.items():
            self.make_key(label, kind, number)

    def pins(self) -> tuple[str, ...]:
        return ("--pin", PIN, "--so-pin", SO_PIN)

    def make_key(self, label: str, kind: str, number: str) -> None:
        named = ("--keypairgen", "--key-type", kind, "--label", label, "--id", number)
        self.tool("--login", "--pin", PIN, *named)

    def tool(self, *words: str) -> Done:
        return self.run("pkcs11-tool", "--module", MODULE, "--token-label", "kb", *words)

    def run(self, *words: str) -> Done:
        return subprocess.run(words, env=self.environment(), check=True, **captured())

    def environment(self, **more: str) -> dict[str, str]:
        given = {"SOFTHSM2_CONF": str(self.configuration), **more}
        return {**{k: v for k, v in os.environ.items() if k != "PKCS11_PIN"}, **given}

    def kbuild(self, *words: str, **environment: str) -> Done:
        return subprocess.run(
            self.command(*words), env=self.environment(**environment), check=False, **captured()
        )

    def command(self, *words: str) -> tuple[str, ...]:
        return (str(KBUILD), "pki", *words, "--dir", str(self.folder))

    def issue(self, *words: str) -> Any:
        done = self.kbuild(*(words or ("issue",)), "--json")
        assert done.returncode == 0, done.stderr
        assert PIN not in done.stdout + done.stderr
        return json.loads(done.stdout)

    def verify(self) -> None:
        """Let openssl verify each chain."""
        for ca, names in LEAVES.items():
            for name in names:
                words = ("verify", "-x509_strict", "-CAfile", f"{ca}.pem", f"{name}.pem")
                subprocess.run(("openssl", *words), cwd=self.folder, check=True, **captured())

    def read(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes())

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.folder.rglob("*.pem")}


def captured() -> dict[str, Any]:
    return {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    yield Cluster(tmp_path)
    for path in tmp_path.rglob("*"):  # no file has the PIN but the two that the test wrote
        if path.is_file() and path != tmp_path / "pin":
            assert PIN.encode() not in path.read_bytes(), path


def test_every_command_that_signs_uses_the_keys_on_the_token(cluster: Cluster) -> None:
    done = cluster.issue()
    assert {each["name"] for each in done["written"]} >= {"ca", "etcd-ca", "front-proxy-ca"}
    cluster.verify()
    assert not list(cluster.folder.glob("*ca-key.pem"))
    kinds = [type(cluster.read(ca).public_key()) for ca in LEAVES]
    assert issubclass(kinds[0], rsa.RSAPublicKey)
    assert all(issubclass(kind, ec.EllipticCurvePublicKey) for kind in kinds[1:])
    for ca in LEAVES:
        words = ("req", "-verify", "-noout", "-in", f"{ca}.csr")
        subprocess.run(("openssl", *words), cwd=cluster.folder, check=True, **captured())

    cluster.issue("renew", "--new-keys")
    cluster.issue("add-host", "n2", "192.0.2.12")
    cluster.verify()
    before = cluster.read("ca")
    cluster.toml.write_text(f"ca-years = 150\n{cluster.toml.read_text()}")
    cluster.issue("extend-ca")
    after = cluster.read("ca")
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert after.public_key() == before.public_key()
    cluster.verify()
    checked = cluster.issue("check")
    assert [(each["ca"], each["unknown"]) for each in checked["token_keys"]] == [
        (ca, "") for ca in LEAVES
    ]


def test_a_ca_is_replaced_by_one_with_another_key_on_the_token(cluster: Cluster) -> None:
    cluster.issue()
    old = cluster.read("ca")
    cluster.make_key("ca-2", "EC:prime256v1", "04")
    uri = f"pkcs11:token=kb;object=ca-2?module-path={MODULE}&pin-source={cluster.pin}"
    refused = cluster.kbuild("rotate-ca", "ca", "--step", "begin")
    assert "error[rotation-refused]" in refused.stderr
    cluster.issue("rotate-ca", "ca", "--step", "begin", "--new-ca-key", f"ca={uri}")
    for step in ("leaves", "back", "leaves", "end"):
        cluster.verify()
        cluster.issue("renew", "admin")  # with the key of the step
        cluster.issue("rotate-ca", "ca", "--step", step)
    cluster.verify()
    assert cluster.read("ca").public_key() != old.public_key()
    # The plan must name the new key now.
    assert "error[token-key-differs]" in cluster.kbuild("check").stderr
    assert "error[token-key-differs]" in cluster.kbuild("renew", "admin").stderr
    cluster.toml.write_text(cluster.toml.read_text().replace("object=ca?", "object=ca-2?"))
    cluster.issue("check")
    cluster.issue("renew", "admin")
    cluster.verify()


def test_what_is_wrong_with_a_token_is_told_and_changes_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.issue()
    before = cluster.files()

    def refused(kind: str, **environment: str) -> None:
        done = cluster.kbuild("renew", **environment)
        assert done.stderr.splitlines()[-2].startswith(f"error[{kind}]"), done.stderr
        assert "Traceback" not in done.stderr
        assert cluster.files() == before

    text = cluster.toml.read_text()
    for change, kind in (
        (("object=ca?", "object=other?"), "key-not-on-token"),
        (("object=ca?", "object=etcd?"), "bad-key-uri"),
        (("object=ca?", "id=%02?"), "token-key-differs"),
        (("token=kb;object=ca", "token=other;object=ca"), "token-not-there"),
        (("pkcs11:token=kb;object=ca?", "pkcs11:token=kb?"), "key-not-certain"),
        ((f"&pin-source=file:{cluster.pin}", ""), "no-pin"),
        ((str(cluster.pin), str(tmp_path / "none")), "bad-pin-file"),
        ((f"module-path={MODULE}&", "module-path=/usr/lib/none.so&"), "module-not-loaded"),
        ((f"module-path={MODULE}&", ""), "module-not-named"),
        (("token=kb;object=ca", "tokn=kb;object=ca"), "bad-key-uri"),
    ):
        cluster.toml.write_text(text.replace(*change))
        refused(kind)
    cluster.toml.write_text(text)
    empty = tmp_path / "empty.conf"
    (tmp_path / "no-tokens").mkdir()
    empty.write_text(f"directories.tokendir = {tmp_path / 'no-tokens'}\n")
    refused("token-not-there", SOFTHSM2_CONF=str(empty))
    cluster.issue("renew")


def test_a_wrong_pin_is_tried_once_a_run_and_an_earlier_one_is_told(cluster: Cluster) -> None:
    text = cluster.toml.read_text().replace(f"&pin-source=file:{cluster.pin}", "")
    cluster.toml.write_text(text)
    done = cluster.kbuild("issue", PKCS11_PIN="wrong-pin")
    assert done.returncode == 100
    assert "error[wrong-pin]" in done.stderr
    assert "wrong-pin" not in done.stderr.replace("error[wrong-pin]", "")
    done = cluster.kbuild("issue", PKCS11_PIN=PIN)
    assert done.returncode == 0, done.stderr
    assert "the token kb was given a wrong PIN" in done.stderr
    done = cluster.kbuild("renew", PKCS11_PIN=PIN)
    assert done.returncode == 0, done.stderr
    assert "wrong PIN" not in done.stderr
    cluster.verify()


def test_a_person_is_asked_for_the_pin_once_and_it_is_not_echoed(cluster: Cluster) -> None:
    text = cluster.toml.read_text().replace(f"&pin-source=file:{cluster.pin}", "")
    cluster.toml.write_text(text)
    pid, terminal = pty.fork()
    if not pid:
        os.execve(KBUILD, cluster.command("issue"), cluster.environment(TERM="dumb"))
    shown, answered = b"", False
    while part := _read(terminal):
        shown += part
        if not answered and b"PIN of the token kb" in shown:
            time.sleep(0.5)  # until the echo is off
            os.write(terminal, f"{PIN}\n".encode())
            answered = True
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    assert shown.count(b"PIN of the token kb") == 1
    assert PIN.encode() not in shown
    cluster.verify()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other end is closed
        return b""


def test_two_processes_use_one_token_at_once(cluster: Cluster, tmp_path: Path) -> None:
    """In two directories both succeed; in one, the second may find it busy."""
    cluster.issue()
    second = tmp_path / "second"
    second.mkdir()
    (second / "pki.toml").write_bytes(cluster.toml.read_bytes())
    for ca in LEAVES:
        (second / f"{ca}.pem").write_bytes((cluster.folder / f"{ca}.pem").read_bytes())
    running = [
        subprocess.Popen(words, env=cluster.environment(), stderr=subprocess.PIPE, text=True)
        for words in (
            cluster.command("renew", "--new-keys"),
            (*cluster.command("issue")[:-1], str(second)),
            cluster.command("renew"),
        )
    ]
    ends = [(each.communicate()[1], each.returncode) for each in running]
    assert ends[1][1] == 0, ends[1]
    same = [ends[0], ends[2]]
    assert any(code == 0 for _, code in same), same
    assert all(code == 0 or "error[pki-busy]" in text for text, code in same), same
    cluster.verify()
    cluster.folder = second
    cluster.verify()


@pytest.mark.parametrize("after", [0.4, 0.8, 1.2, 1.6])
def test_after_kill_9_the_next_run_goes_on(cluster: Cluster, after: float) -> None:
    cluster.issue()
    nodes = [f'[nodes.w{number}]\naddresses = ["192.0.2.{number + 100}"]\n' for number in range(60)]
    cluster.toml.write_text(cluster.toml.read_text() + "\n".join(nodes))
    killed = subprocess.Popen(
        cluster.command("renew", "--new-keys"), env=cluster.environment(), stderr=subprocess.PIPE
    )
    time.sleep(after)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    cluster.issue()
    cluster.verify()
    cluster.issue("check")
    assert not list(cluster.folder.glob(".kbuild-new-*"))
