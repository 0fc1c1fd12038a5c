from datetime import timedelta

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.base.eras import era_of
from kbuild.kubeadm.model import Case, IssuedCertificate, Lifetimes
from kbuild.kubeadm.prove.errors import MissingCertificate, NotRenewed, WrongLifetime
from kbuild.kubeadm.prove.issued import UnreadableCertificate, read_certificates
from kbuild.kubeadm.prove.pki import CASES, eras, prove_pki
from tests.support.fake_kubeadm import DAY, FakeKubeadm

LIFETIMES = Lifetimes(ca_years=100, leaf_years=10)
VERSION = Version("1.20.2")


@pytest.fixture
def kubeadm() -> FakeKubeadm:
    return FakeKubeadm(LIFETIMES.ca, LIFETIMES.leaf)


def prove(kubeadm: FakeKubeadm, case: Case = "fresh-ca") -> tuple[IssuedCertificate, ...]:
    return prove_pki(case, kubeadm, VERSION, LIFETIMES)


def test_a_right_kubeadm_is_proven_with_every_certificate(kubeadm: FakeKubeadm) -> None:
    seen = prove(kubeadm)
    counts = {
        (moment, kind): sum(c.moment == moment and c.kind == kind for c in seen)
        for moment in ("issued", "renewed")
        for kind in ("ca", "leaf", "kubeconfig")
    }
    assert counts == {
        ("issued", "ca"): 3,
        ("issued", "leaf"): 7,
        ("issued", "kubeconfig"): 4,
        ("renewed", "ca"): 0,
        ("renewed", "leaf"): 7,
        ("renewed", "kubeconfig"): 3,
    }


def test_an_old_ca_is_given_and_not_counted(kubeadm: FakeKubeadm) -> None:
    seen = prove(kubeadm, "old-ca")
    assert {c.kind for c in seen} == {"leaf", "kubeconfig"}
    ca = read_certificates(kubeadm.files)["pki/etcd/ca.crt"]
    assert ca.kind == "ca"
    assert ca.subject == "CN=etcd-ca"
    [leaf] = [c for c in seen if c.path == "pki/apiserver.crt" and c.moment == "issued"]
    assert leaf.not_before - ca.not_before > 2 * 365 * DAY


@pytest.mark.parametrize("off", [DAY, -DAY, timedelta(minutes=-10), timedelta(minutes=10)])
@pytest.mark.parametrize(
    ("path", "moment"),
    [
        ("pki/ca.crt", "issued"),
        ("pki/front-proxy-ca.crt", "issued"),
        ("pki/etcd/peer.crt", "issued"),
        ("pki/etcd/peer.crt", "renewed"),
        ("admin.conf", "issued"),
        ("scheduler.conf", "renewed"),
    ],
)
def test_one_date_that_is_off_is_found(
    kubeadm: FakeKubeadm, path: str, moment: str, off: timedelta
) -> None:
    kubeadm.wrong[path, moment] = off
    with pytest.raises(WrongLifetime) as caught:
        prove(kubeadm)
    assert caught.value.happened.startswith(f"{path} (fresh-ca, {moment})")


def test_kubeadms_own_backdating_is_no_fault(kubeadm: FakeKubeadm) -> None:
    for path in ("pki/ca.crt", "pki/apiserver.crt", "admin.conf"):
        kubeadm.wrong[path, "issued"] = timedelta(minutes=-5)
    prove(kubeadm)


def test_a_leaf_counted_from_the_birth_of_its_ca_is_found_with_the_old_ca(
    kubeadm: FakeKubeadm,
) -> None:
    kubeadm.counts_from_ca_birth = True
    with pytest.raises(WrongLifetime, match="old-ca"):
        prove(kubeadm, "old-ca")


@pytest.mark.parametrize("path", ["pki/apiserver.crt", "kubelet.conf", "pki/etcd/ca.crt"])
def test_a_missing_certificate_is_found(kubeadm: FakeKubeadm, path: str) -> None:
    kubeadm.missing.add(path)
    with pytest.raises(MissingCertificate, match=path):
        prove(kubeadm)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no certificate",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"users: []",
        b"users: [{user: {client-certificate-data: 'AAAA'}}]",
        b"[" * 20_000,
        b"\0" * (1 << 20),
    ],
    ids=lambda content: repr(content[:30]),
)
@pytest.mark.parametrize("path", ["pki/apiserver.crt", "kubelet.conf"])
def test_a_file_that_holds_no_certificate_is_named(
    kubeadm: FakeKubeadm, path: str, content: bytes
) -> None:
    kubeadm.instead[path] = content
    with pytest.raises(MissingCertificate, match=path) as caught:
        prove(kubeadm)
    assert caught.value.details


@pytest.mark.parametrize("path", ["pki/apiserver.crt", "admin.conf"])
def test_what_was_not_renewed_is_found(kubeadm: FakeKubeadm, path: str) -> None:
    kubeadm.unrenewed.add(path)
    with pytest.raises(NotRenewed, match=path):
        prove(kubeadm)


@pytest.mark.parametrize(
    ("tag", "config", "renew"),
    [
        ("v1.13.0", "v1beta1", "alpha certs renew all"),
        ("v1.15.0-beta.1", "v1beta2", "alpha certs renew all"),
        ("v1.19.16", "v1beta2", "alpha certs renew all"),
        ("v1.20.0", "v1beta2", "certs renew all"),
        ("v1.22.0", "v1beta3", "certs renew all"),
        ("v1.31.0", "v1beta4", "certs renew all"),
        ("v1.99.0", "v1beta4", "certs renew all"),
    ],
)
def test_the_era_decides_how_kubeadm_is_driven(tag: str, config: str, renew: str) -> None:
    era = era_of(eras(), Version(tag))
    assert era.config == f"kubeadm.k8s.io/{config}"
    assert " ".join(era.renew) == renew


@pytest.mark.parametrize("minor", range(13, 40))
def test_every_minor_is_of_exactly_one_era(minor: int) -> None:
    from kbuild.kubeadm.prove.pki import eras

    version = Version(f"1.{minor}.0")
    assert sum(SpecifierSet(era.versions).contains(version) for era in eras()) == 1


def test_there_are_two_cases() -> None:
    assert CASES == ("fresh-ca", "old-ca")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", [b"[" * 60_000, b"{a: " * 15_000, b"- " * 30_000, b"? " * 30_000])
def test_a_kubeconfig_without_end_is_refused_soon(text: bytes) -> None:
    with pytest.raises(UnreadableCertificate, match="more than 16 levels"):
        read_certificates({"admin.conf": text})
