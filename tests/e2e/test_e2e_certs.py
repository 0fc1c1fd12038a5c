"""The inventory of a real PKI of kubeadm v1.20.2, compared with kubeadm and with openssl."""

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml

from kbuild.base.sandbox import Files
from kbuild.base.workspace import open_workspace
from kbuild.kubeadm.prove.runner import SandboxRunner
from tests.e2e.command import KBUILD, Kbuild
from tests.e2e.released import ARCHIVE_LOCAL, Releases
from tests.support.failures import kind_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CONFIG = "kubeadm.yaml"
CONFIGURATION = b"""\
apiVersion: kubeadm.k8s.io/v1beta2
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 192.0.2.1}
nodeRegistration: {name: n1}
---
apiVersion: kubeadm.k8s.io/v1beta2
kind: ClusterConfiguration
kubernetesVersion: v1.20.2
"""
# admin.conf   Nov 02, 2126 14:11 UTC   99y             no
ROW = re.compile(r"^(\S+) +(\w{3} \d{2}, \d{4} \d{2}:\d{2}) UTC", re.MULTILINE)
OPENSSL = ("openssl", "x509", "-noout", "-nameopt", "RFC2253")
ASKED = ("-subject", "-issuer", "-serial", "-startdate", "-enddate", "-fingerprint", "-sha256")


@pytest.fixture(scope="module")
def etc(
    releases: Releases, warm_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """Give an /etc/kubernetes of the real kubeadm, and what its check-expiration says of it."""
    with open_workspace(warm_cache) as workspace:
        runner = SandboxRunner(releases[ARCHIVE_LOCAL].binary, workspace.work, qemu=None)
        config = f"--config=/etc/kubernetes/{CONFIG}"
        files: Files = {CONFIG: CONFIGURATION}
        _, files = runner.run(("init", "phase", "certs", "all", config), files)
        _, files = runner.run(("init", "phase", "kubeconfig", "all", config), files)
        said, _ = runner.run(("certs", "check-expiration", config), files)
    folder = tmp_path_factory.mktemp("etc") / "kubernetes"
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o644 if name.endswith((".crt", ".pub", ".yaml")) else 0o600)
    return folder, said


@pytest.fixture(scope="module")
def listed(etc: tuple[Path, str]) -> Any:
    done = subprocess.run(
        (KBUILD, "certs", etc[0], "--json"),
        check=True,
        capture_output=True,
    )
    return json.loads(done.stdout)


def in_files(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield every certificate that is there, with its path and place, read without kbuild."""
    for file in sorted(folder.rglob("*.crt")):
        yield str(file), "", file.read_bytes()
    for file in sorted(folder.glob("*.conf")):
        document = yaml.safe_load(file.read_text())
        for kind, entry, field in (
            ("users", "user", "client-certificate-data"),
            ("clusters", "cluster", "certificate-authority-data"),
        ):
            for one in document[kind]:
                place = f"{kind}[{one['name']}].{field}"
                yield str(file), place, base64.b64decode(one[entry][field])


def openssl(pem: bytes, *asked: str) -> str:
    done = subprocess.run((*OPENSSL, *asked), input=pem, check=True, capture_output=True)
    return done.stdout.decode()


def as_kbuild(name: str) -> str:
    """Return a name of openssl, which writes all groups of an IPv6 address, as kbuild has it."""
    kind, _, value = name.partition(":")
    return f"IP:{ip_address(value)}" if kind == "IP Address" else name


def moment(text: str) -> str:
    """Return a date of openssl as RFC 3339."""
    date = datetime.strptime(text, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    return date.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_every_certificate_is_listed_and_no_other(etc: tuple[Path, str], listed: Any) -> None:
    found = [(c["path"], c["place"]) for c in listed["certificates"]]
    assert len(found) == len(set(found)) == 18
    assert set(found) == {(path, place) for path, place, _ in in_files(etc[0])}


def test_each_is_what_openssl_says(etc: tuple[Path, str], listed: Any) -> None:
    by_place = {(c["path"], c["place"]): c for c in listed["certificates"]}
    for path, place, pem in in_files(etc[0]):
        mine = by_place[path, place]
        said = dict(line.split("=", 1) for line in openssl(pem, *ASKED).splitlines())
        assert mine["subject"] == said["subject"]
        assert mine["issuer"] == said["issuer"]
        assert mine["serial"] == said["serial"]
        assert mine["not_before"] == moment(said["notBefore"])
        assert mine["not_after"] == moment(said["notAfter"])
        assert mine["fingerprint"] == said["sha256 Fingerprint"].replace(":", "").lower()
        text = openssl(pem, "-text")
        assert ("CA:TRUE" in text) is mine["is_ca"]
        assert f"Public-Key: ({mine['key'].removeprefix('RSA ')} bit)" in text
        assert ("TLS Web Server Authentication" in text) is ("server auth" in mine["usages"])
        assert ("TLS Web Client Authentication" in text) is ("client auth" in mine["usages"])
        names = re.search(r"Subject Alternative Name: \n +(.*)", text)
        said_names = names[1].split(", ") if names else []
        assert mine["names"] == [as_kbuild(name) for name in said_names]


def test_each_date_is_that_of_check_expiration(etc: tuple[Path, str], listed: Any) -> None:
    folder, said = etc
    rows = dict(ROW.findall(said))
    assert len(rows) == 13, said  # without kubelet.conf, which kubeadm does not renew
    mine = {}
    for one in listed["certificates"]:
        path = Path(one["path"])
        parts = path.relative_to(folder).with_suffix("").parts
        name = path.name if path.suffix == ".conf" else "-".join(parts[1:])
        if not one["place"].startswith("clusters["):
            date = datetime.fromisoformat(one["not_after"])
            mine[name] = f"{date:%b %d, %Y %H:%M}"
    assert mine.pop("kubelet.conf")
    assert mine == rows


def test_all_verify_and_nothing_is_wrong(listed: Any) -> None:
    assert listed["findings"] == []
    assert {c["chain"] for c in listed["certificates"]} == {"verified", "self-signed"}
    assert all(c["private_key"]["fits"] for c in listed["certificates"])
    roles = {Path(c["path"]).name: c["role"] for c in listed["certificates"] if not c["place"]}
    assert roles["apiserver.crt"] == "API server, server"
    assert roles["front-proxy-ca.crt"] == "front proxy CA"


def test_a_deadline_beyond_a_hundred_years_fails(etc: tuple[Path, str], kbuild: Kbuild) -> None:
    assert kbuild("certs", etc[0], "--fail-before", "90d").code == 0
    done = kbuild("certs", etc[0], "--fail-before", "40000d", "--json")
    assert (done.code, kind_of(done.stderr)) == (100, "certificates-expire")
    assert len(json.loads(done.stdout)["certificates"]) == 18
