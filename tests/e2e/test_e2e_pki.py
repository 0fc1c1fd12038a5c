"""``kbuild pki`` beside Debian's cfssl, with openssl and with a real etcd."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from tests.e2e.command import KBUILD

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NAMES = [{"C": "CN", "ST": "BeiJing", "L": "BeiJing", "O": "k8s", "OU": "System"}]
SIGNING = ["signing", "key encipherment"]
CONFIG = {
    "signing": {
        "default": {"expiry": "43800h"},
        "profiles": {
            "server": {"expiry": "43800h", "usages": [*SIGNING, "server auth", "client auth"]},
            "client": {"expiry": "8760h", "usages": [*SIGNING, "client auth"]},
            "urls": {
                "expiry": "1h30m",
                "backdate": "1h",
                "usages": [*SIGNING, "code signing", "ipsec user", "s/mime"],
                "ocsp_url": "http://ocsp.example.org",
                "crl_url": "http://crl.example.org/ca.crl",
                "issuer_urls": ["http://ca.example.org/ca.crt"],
                "ocsp_no_check": True,
            },
            "intermediate": {
                "expiry": "8760h",
                "usages": ["cert sign", "crl sign"],
                "ca_constraint": {"is_ca": True, "max_path_len": 0, "max_path_len_zero": True},
            },
        },
    }
}
RSA, ECDSA = {"algo": "rsa", "size": 2048}, {"algo": "ecdsa", "size": 384}
REQUESTS: dict[str, dict[str, Any]] = {
    "ca": {
        "CN": "kubernetes",
        "hosts": ["192.0.2.8", "no.example"],  # cfssl keeps the address only
        "key": {"algo": "rsa", "size": 3072},
        "names": NAMES,
        "ca": {"expiry": "87600h", "pathlen": 1},
    },
    "server": {
        "CN": "etcd",
        "hosts": ["127.0.0.1", "::1", "localhost", "*.example.org", "a@example.org", "192.0.2.1"],
        "key": RSA,
        "names": NAMES,
    },
    "client": {"CN": "flanneld & Söhne", "hosts": [], "key": ECDSA},
    # Two values of one field are one part of the name.
    "urls": {"CN": "u", "names": [{"O": "b"}, {"O": "a"}], "hosts": ["u"], "key": RSA},
    "intermediate": {"CN": "Second CA", "hosts": ["192.0.2.9", "no.example"], "key": RSA},
}
PROFILES = {name: name for name in REQUESTS if name != "ca"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give two directories with the same requests: issued by kbuild, and by cfssl."""
    ours, theirs = tmp_path_factory.mktemp("kbuild"), tmp_path_factory.mktemp("cfssl")
    for folder in (ours, theirs):
        write_requests(folder)
    kbuild("pki", "issue", "--dir", ours)
    cfssl(theirs, "ca", "-initca")
    signing = ("-ca", "ca.pem", "-ca-key", "ca-key.pem", "-config", "ca-config.json")
    for name, profile in PROFILES.items():
        cfssl(theirs, name, *signing, "-profile", profile)
    return ours, theirs


def write_requests(folder: Path) -> None:
    (folder / "ca-config.json").write_text(json.dumps(CONFIG))
    for name, request in REQUESTS.items():
        (folder / f"{name}-csr.json").write_text(json.dumps(request))


def cfssl(folder: Path, name: str, *words: str) -> None:
    made = subprocess.run(
        ("cfssl", "gencert", *words, f"{name}-csr.json"),
        cwd=folder,
        check=True,
        capture_output=True,
    )
    subprocess.run(("cfssljson", "-bare", name), cwd=folder, check=True, input=made.stdout)


def kbuild(*words: object) -> Any:
    done = subprocess.run(
        (KBUILD, *map(str, words), "--json"), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def read(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())


@pytest.mark.parametrize("name", REQUESTS)
def test_a_certificate_says_what_that_of_cfssl_says(both: tuple[Path, Path], name: str) -> None:
    """All but the serial number, the key and its identifiers is the same, in the same bytes."""
    mine, other = (read(folder, name) for folder in both)
    assert mine.version == other.version
    # Bytes: Go compares issuers so, and a name in another encoding is another one for it.
    assert mine.subject.public_bytes() == other.subject.public_bytes()
    assert mine.issuer.public_bytes() == other.issuer.public_bytes()
    assert mine.signature_algorithm_oid == other.signature_algorithm_oid
    assert mine.public_key().key_size == other.public_key().key_size  # type: ignore[union-attr]
    lifetimes = {each.not_valid_after_utc - each.not_valid_before_utc for each in (mine, other)}
    assert len(lifetimes) == 1
    # The clock is rounded to minutes, and one of them may have passed between the two.
    assert abs((mine.not_valid_before_utc - other.not_valid_before_utc).total_seconds()) <= 60
    assert extensions(mine) == extensions(other)
    assert [each.oid for each in mine.extensions] == [each.oid for each in other.extensions]
    assert mine.serial_number != other.serial_number
    assert 64 < mine.serial_number.bit_length() <= 159


def extensions(certificate: x509.Certificate) -> dict[str, tuple[bool, bytes]]:
    """Return the extensions as bytes, without those that follow from the key."""
    of_key = (ExtensionOID.SUBJECT_KEY_IDENTIFIER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
    return {
        each.oid.dotted_string: (each.critical, each.value.public_bytes())
        for each in certificate.extensions
        if each.oid not in of_key
    }


@pytest.mark.parametrize("name", REQUESTS)
def test_the_identifiers_are_those_of_the_keys(both: tuple[Path, Path], name: str) -> None:
    mine, ca = read(both[0], name), read(both[0], "ca")
    expected = x509.SubjectKeyIdentifier.from_public_key(mine.public_key())
    assert mine.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value == expected
    if name == "ca":
        return  # neither of the two gives an issuer to what is signed by itself
    by = x509.SubjectKeyIdentifier.from_public_key(ca.public_key()).digest
    found = mine.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert found.key_identifier == by


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_and_a_key_have_the_format_of_cfssl(both: tuple[Path, Path], name: str) -> None:
    mine, other = (x509.load_pem_x509_csr((folder / f"{name}.csr").read_bytes()) for folder in both)
    assert mine.subject.public_bytes() == other.subject.public_bytes()
    assert [(e.oid, e.value.public_bytes()) for e in mine.extensions] == [
        (e.oid, e.value.public_bytes()) for e in other.extensions
    ]
    first_lines = {(folder / f"{name}-key.pem").read_text().splitlines()[0] for folder in both}
    assert len(first_lines) == 1


def test_the_modes_are_those_that_keys_need(both: tuple[Path, Path]) -> None:
    for file in both[0].glob("*.pem"):
        mode = 0o600 if file.name.endswith("-key.pem") else 0o644
        assert file.stat().st_mode & 0o777 == mode, file


def test_openssl_verifies_every_chain_of_kbuild_and_of_a_ca_of_cfssl(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    for name in PROFILES:
        openssl("verify", "-x509_strict", "-CAfile", both[0] / "ca.pem", both[0] / f"{name}.pem")
    shutil.copytree(both[1], tmp_path, dirs_exist_ok=True)
    (tmp_path / "server.pem").unlink()
    done = kbuild("pki", "issue", "--dir", tmp_path)
    # All else that cfssl has issued is as planned.
    assert [each["name"] for each in done["written"]] == ["server"]
    openssl("verify", "-x509_strict", "-CAfile", both[1] / "ca.pem", tmp_path / "server.pem")


def test_old_and_new_certificates_verify_with_an_extended_ca(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(both[1], tmp_path, dirs_exist_ok=True)
    request = {**REQUESTS["ca"], "ca": {"expiry": "438000h"}}
    (tmp_path / "ca-csr.json").write_text(json.dumps(request))
    kbuild("pki", "extend-ca", "--dir", tmp_path)
    assert read(tmp_path, "ca").subject.public_bytes() == read(both[1], "ca").subject.public_bytes()
    kbuild("pki", "renew", "server", "--new-keys", "--dir", tmp_path)
    for ca in (tmp_path / "ca.pem", both[1] / "ca.pem"):
        for leaf in (tmp_path / "server.pem", both[1] / "server.pem"):
            openssl("verify", "-x509_strict", "-CAfile", ca, leaf)


def test_leaves_verify_with_the_cas_of_the_step_before_and_after(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    """A CA and leaves of cfssl are replaced by those of kbuild."""
    pki = shutil.copytree(both[1], tmp_path / "pki")
    stages = [both[1]]
    for step in ("begin", "leaves", "end"):
        kbuild("pki", "rotate-ca", "--step", step, "--cap", "--dir", pki)
        stages.append(Path(shutil.copytree(pki, tmp_path / step)))
    for number, stage in enumerate(stages):
        for other in stages[max(number - 1, 0) : number + 2]:
            leaves = [other / f"{name}.pem" for name in ("server", "client", "intermediate")]
            openssl("verify", "-x509_strict", "-CAfile", stage / "ca.pem", *leaves)
    first, last = stages[0], stages[-1]
    for ca, leaf in ((first, last), (last, first)):
        words = ("openssl", "verify", "-CAfile", ca / "ca.pem", leaf / "server.pem")
        assert subprocess.run(words, check=False, capture_output=True).returncode != 0


def test_what_cfssl_has_issued_is_imported_and_renewed_with_the_same_names(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(both[1], tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*.json"):
        path.unlink()
    assert set(kbuild("pki", "import", "--dir", tmp_path)["kept"]) == set(REQUESTS)
    planned = kbuild("pki", "plan", "--dir", tmp_path)
    assert {each["state"] for each in planned["certificates"]} == {"kept"}
    kbuild("pki", "renew", "--dir", tmp_path, "--new-keys")
    for name in ("server", "client", "urls"):
        mine, other = read(tmp_path, name), read(both[1], name)
        assert mine.serial_number != other.serial_number
        assert mine.subject.public_bytes() == other.subject.public_bytes()
        assert extensions(mine) == extensions(other)
        openssl("verify", "-x509_strict", "-CAfile", both[1] / "ca.pem", tmp_path / f"{name}.pem")


def openssl(*words: object) -> None:
    done = subprocess.run(
        ("openssl", *map(str, words)), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- etcd -----------------------------------------------------------------------------------------


PKI_TOML = """\
output = "."
ca-years = 20
leaf-years = 10
key = "{key}"
components = ["etcd", "apiserver", "flannel"]
[nodes.n1]
addresses = ["127.0.0.1"]
roles = ["control-plane", "etcd"]
"""
QUICKLY = "--command-timeout=2s"  # the client asks again and again until then
Ask = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=["ecdsa-p256", "ed25519"])
def etcd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Ask]]:
    """Give the files of an etcd that demands certificates of clients and peers, and its client."""
    folder = tmp_path / "pki"
    folder.mkdir()
    (folder / "pki.toml").write_text(PKI_TOML.format(key=request.param))
    kbuild("pki", "issue", "--dir", folder)
    client, peer = free_port(), free_port()
    with subprocess.Popen(
        etcd_command(folder, tmp_path / "data", client, peer),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"ETCD_UNSUPPORTED_ARCH": "arm64", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    ) as process:
        try:
            yield folder, lambda *words: etcdctl(client, *words)
        finally:
            process.kill()


def free_port() -> int:
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def etcd_command(
    pki: Path, data: Path, client: int, peer: int, name: str = "n1", cluster: str = ""
) -> list[str]:
    own = [f"--{x}cert-file={pki}/etcd.pem" for x in ("", "peer-")]
    own += [f"--{x}key-file={pki}/etcd-key.pem" for x in ("", "peer-")]
    own += [f"--{x}trusted-ca-file={pki}/etcd-ca.pem" for x in ("", "peer-")]
    peers = f"https://127.0.0.1:{peer}"
    return [
        *("etcd", f"--name={name}", f"--data-dir={data}", *own),
        *("--client-cert-auth", "--peer-client-cert-auth"),
        *(f"--listen-client-urls=https://127.0.0.1:{client}",),
        *(f"--advertise-client-urls=https://127.0.0.1:{client}",),
        *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
        f"--initial-cluster={cluster or f'n1={peers}'}",
    ]


def etcdctl(port: int, ca: Path, certificate: Path, *words: str) -> Any:
    key = certificate.with_name(f"{certificate.stem}-key.pem")
    own = (f"--cacert={ca}", f"--cert={certificate}", f"--key={key}")
    limits = ("--dial-timeout=2s", "--command-timeout=5s")
    endpoint = f"--endpoints=https://127.0.0.1:{port}"
    return subprocess.run(
        ("etcdctl", endpoint, *own, *limits, *words),
        check=False,
        capture_output=True,
        text=True,
        env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
    )


def test_etcd_takes_the_issued_clients_and_refuses_those_of_another_ca(
    etcd: tuple[Path, Ask], tmp_path: Path
) -> None:
    pki, ask = etcd
    ca = pki / "etcd-ca.pem"
    until = time.monotonic() + 60
    while ask(ca, pki / "etcd-client.pem", "endpoint", "health").returncode:
        assert time.monotonic() < until, "etcd does not answer"
        time.sleep(0.2)
    for name in ("etcd-client", "apiserver-etcd-client", "flanneld", "etcd"):
        done = ask(ca, pki / f"{name}.pem", "put", name, "x")
        assert (done.returncode, done.stdout) == (0, "OK\n"), done.stderr
    # A client of the cluster's CA, and one of a CA with the same name and another key.
    assert ask(ca, pki / "apiserver-kubelet-client.pem", "get", "x", QUICKLY).returncode != 0
    (tmp_path / "pki.toml").write_text((pki / "pki.toml").read_text().replace('"."', '"other"'))
    kbuild("pki", "issue", "--dir", tmp_path)
    other = tmp_path / "other"
    assert ask(ca, other / "etcd-client.pem", "get", "x", QUICKLY).returncode != 0
    assert ask(other / "etcd-ca.pem", pki / "etcd-client.pem", "get", "x", QUICKLY).returncode != 0
    # Renewal with new keys while it runs: etcd reads its files at each connection.
    kbuild("pki", "renew", "--new-keys", "--dir", pki)
    assert ask(ca, pki / "etcd-client.pem", "get", "flanneld").stdout == "flanneld\nx\n"


def test_a_hundred_kubelets_are_issued_in_one_run(tmp_path: Path) -> None:
    table = '[nodes.n{0}]\naddresses = ["10.0.{1}.{2}"]\n'
    nodes = "".join(table.format(n, n // 256, n % 256) for n in range(100))
    start = 'key = "ecdsa-p256"\ncomponents = ["kubelet"]\n'
    (tmp_path / "pki.toml").write_text(start + nodes)
    assert len(kbuild("pki", "issue", "--dir", tmp_path)["written"]) == 103
    leaves = sorted((tmp_path / "pki").glob("kubelet-n*[0-9].pem"))
    assert len(leaves) == 100
    openssl("verify", "-CAfile", tmp_path / "pki/ca.pem", *leaves)


# --- a CA that is replaced while etcd runs --------------------------------------------------------


class Members:
    """Three members of an etcd cluster, each with files of its own, as on three machines."""

    def __init__(self, folder: Path, pki: Path) -> None:
        self.folder, self.pki = folder, pki
        self.ports = [(free_port(), free_port()) for _ in range(3)]
        self.running: list[subprocess.Popen[bytes] | None] = [None] * 3

    @property
    def all(self) -> str:
        return ",".join(f"https://127.0.0.1:{client}" for client, _ in self.ports)

    def distribute(self, number: int) -> None:
        """Copy the files of the PKI to a member, and start it again."""
        self.stop(number)
        files = self.folder / f"m{number}"
        shutil.copytree(self.pki, files, dirs_exist_ok=True)
        peers = ",".join(f"m{n}=https://127.0.0.1:{peer}" for n, (_, peer) in enumerate(self.ports))
        data, ports = self.folder / f"data{number}", self.ports[number]
        self.running[number] = subprocess.Popen(
            (
                *etcd_command(files, data, *ports, f"m{number}", peers),
                *("--heartbeat-interval=50", "--election-timeout=500"),
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"ETCD_UNSUPPORTED_ARCH": "arm64", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    def stop(self, number: int) -> None:
        if (process := self.running[number]) is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.running[number] = None

    def wait(self, number: int) -> None:
        """Wait until a member answers, which it does only as a part of the cluster."""
        until = time.monotonic() + 60
        while self.get(number, self.pki).returncode:
            assert time.monotonic() < until, f"member {number} does not answer"
            time.sleep(0.1)

    def get(self, number: int, client: Path, *words: str) -> "subprocess.CompletedProcess[str]":
        done: subprocess.CompletedProcess[str] = etcdctl(
            self.ports[number][0],
            client / "etcd-ca.pem",
            client / "etcd-client.pem",
            *("get", "x", *words),
        )
        return done


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    folder = tmp_path / "pki"
    folder.mkdir()
    (folder / "pki.toml").write_text(PKI_TOML.format(key="ecdsa-p256"))
    kbuild("pki", "issue", "--dir", folder)
    made = Members(tmp_path, folder)
    try:
        for number in range(3):
            made.distribute(number)
        for number in range(3):
            made.wait(number)
        yield made
    finally:
        for number in range(3):
            made.stop(number)


class Asking(threading.Thread):
    """A client that asks the cluster all the time, with the files that are there."""

    def __init__(self, members: Members) -> None:
        super().__init__(daemon=True)
        self.members, self.stopped = members, threading.Event()
        self.answers, self.problems = 0, list[str]()

    def run(self) -> None:
        pki = self.members.pki
        own = (f"--cacert={pki}/etcd-ca.pem", f"--cert={pki}/etcd-client.pem")
        while not self.stopped.wait(0.1):
            done = subprocess.run(
                (
                    *("etcdctl", f"--endpoints={self.members.all}", *own),
                    *(f"--key={pki}/etcd-client-key.pem", "--command-timeout=20s", "get", "x"),
                ),
                check=False,
                capture_output=True,
                text=True,
                env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
            )
            self.answers += 1
            if (done.returncode, done.stdout) != (0, "x\n1\n"):
                self.problems.append(done.stdout + done.stderr)


def test_etcd_answers_while_its_ca_is_replaced(members: Members, tmp_path: Path) -> None:
    """Members are restarted one after the other, and clients have the files of either step."""
    pki, before = members.pki, [shutil.copytree(members.pki, tmp_path / "0")]
    ca, client = pki / "etcd-ca.pem", pki / "etcd-client.pem"
    assert etcdctl(members.ports[0][0], ca, client, "put", "x", "1").returncode == 0
    asking = Asking(members)
    asking.start()
    try:
        for step in ("begin", "leaves", "end"):
            kbuild("pki", "rotate-ca", "etcd-ca", "--step", step, "--dir", pki)
            for number in range(3):
                members.distribute(number)
                members.wait(number)
                # An old client with the new member, and a new one with a member that is still old.
                for each, files in ((number, before[-1]), ((number + 1) % 3, pki)):
                    done = members.get(each, files)
                    assert done.stdout == "x\n1\n", (step, number, each, files, done.stderr)
            before.append(shutil.copytree(pki, tmp_path / str(len(before))))
    finally:
        asking.stopped.set()
        asking.join()
    assert asking.problems == []
    assert asking.answers > 10
    first, trusting = before[0], tmp_path / "trusting"
    shutil.copytree(first, trusting)
    shutil.copy(pki / "etcd-ca.pem", trusting)  # it trusts the members, but they do not trust it
    for number in range(3):
        for client_files in (first, trusting):
            assert members.get(number, client_files, QUICKLY).returncode != 0
