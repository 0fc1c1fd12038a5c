from datetime import timedelta

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.kubeadm.model import CASES, Case, IssuedCertificate, Lifetimes, StoredDefaults
from kbuild.kubeadm.prove.eras import eras
from kbuild.kubeadm.prove.errors import MissingCertificate, NotRenewed, WrongLifetime
from kbuild.kubeadm.prove.issued import UnreadableCertificate, read_certificates
from kbuild.kubeadm.prove.pki import cases, prove_pki, stored_defaults_of
from kbuild.kubernetes.configuration import configuration_of
from kbuild.kubernetes.renewal import renewal_of, renewals
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


@pytest.mark.slow
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
    assert caught.value.happened.startswith(f"{path} (fresh-ca, {moment}) expires at ")
    assert "+00:00" not in caught.value.happened


@pytest.mark.parametrize(("years", "lifetime"), [(1, "1 year"), (100, "100 years")])
def test_a_wrong_lifetime_is_told_in_plain_words(years: int, lifetime: str) -> None:
    times = {"actual": "2027-01-31T12:00:00+00:00", "expected": "2036-01-29T12:00:00+00:00"}
    error = WrongLifetime(path="pki/ca.crt", case="fresh-ca", moment="issued", years=years, **times)
    assert error.happened == (
        "pki/ca.crt (fresh-ca, issued) expires at 2027-01-31T12:00:00Z,"
        f" not at 2036-01-29T12:00:00Z after {lifetime}"
    )


def test_kubeadms_own_backdating_is_no_fault(kubeadm: FakeKubeadm) -> None:
    for path in ("pki/ca.crt", "pki/apiserver.crt", "admin.conf"):
        kubeadm.wrong[path, "issued"] = timedelta(minutes=-5)
    prove(kubeadm)


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert configuration_of(Version(tag)).kubeadm_api == f"kubeadm.k8s.io/{config}"
    assert " ".join(renewal_of(Version(tag)).renew) == renew


@pytest.mark.parametrize("minor", range(13, 40))
def test_every_minor_is_of_exactly_one_era(minor: int) -> None:
    version = Version(f"1.{minor}.0")
    assert sum(SpecifierSet(era.versions).contains(version) for era in eras()) == 1
    assert sum(era.versions.contains(version) for era in renewals()) == 1


@pytest.mark.parametrize("accepted", [(), ("keep",), ("override",), ("keep", "override")])
@pytest.mark.parametrize("tag", ["v1.20.2", "v1.30.14", "v1.31.0", "v1.99.0"])
def test_lifetimes_are_stored_from_1_31_on_unless_they_are_not_to_be(
    tag: str, accepted: tuple[StoredDefaults, ...]
) -> None:
    stored = accepted and Version(tag) >= Version("1.31")
    assert cases(Version(tag), accepted) == (CASES if stored else CASES[:2])


OVERRIDE: tuple[StoredDefaults, ...] = ("override",)
KEEP: tuple[StoredDefaults, ...] = ("keep",)
EITHER = KEEP + OVERRIDE


def prove_stored(
    kubeadm: FakeKubeadm,
    case: Case,
    accepted: tuple[StoredDefaults, ...],
    lifetimes: Lifetimes = LIFETIMES,
) -> tuple[IssuedCertificate, ...]:
    kubeadm.fields["gitVersion"] = "v1.33.3"
    return prove_pki(case, kubeadm, Version("1.33.3"), lifetimes, accepted)


def years_of(certificates: tuple[IssuedCertificate, ...]) -> set[tuple[str, int]]:
    return {("ca" if c.kind == "ca" else "leaf", c.years) for c in certificates}


@pytest.mark.parametrize("accepted", [OVERRIDE, KEEP, EITHER])
@pytest.mark.parametrize("kept", [set(), {"ca", "leaf"}, {"ca"}, {"leaf"}])
def test_stored_defaults_are_overridden_or_kept_but_both_alike(
    kubeadm: FakeKubeadm, kept: set[str], accepted: tuple[StoredDefaults, ...]
) -> None:
    kubeadm.kept = kept
    does: StoredDefaults | None = {0: "override", 2: "keep"}.get(len(kept))  # type: ignore[assignment]
    if does not in accepted:
        with pytest.raises(WrongLifetime, match="stored-defaults"):
            prove_stored(kubeadm, "stored-defaults", accepted)
        return
    seen = prove_stored(kubeadm, "stored-defaults", accepted)
    expected = {("ca", 100), ("leaf", 10)} if does == "override" else {("ca", 10), ("leaf", 1)}
    assert years_of(seen) == expected
    assert {c.moment for c in seen if c.path == "super-admin.conf"} == {"issued", "renewed"}
    assert stored_defaults_of(seen, LIFETIMES, accepted) == does


@pytest.mark.parametrize("accepted", [KEEP, EITHER])
def test_with_stocks_own_lifetimes_nothing_is_overridden(
    accepted: tuple[StoredDefaults, ...],
) -> None:
    stock = Lifetimes(ca_years=10, leaf_years=1)
    kubeadm = FakeKubeadm(stock.ca, stock.leaf)
    seen = prove_stored(kubeadm, "stored-defaults", accepted, stock)
    assert stored_defaults_of(seen, stock, accepted) == "keep"


@pytest.mark.parametrize("accepted", [OVERRIDE, KEEP, EITHER])
@pytest.mark.parametrize(
    ("ca", "leaf", "stored"),
    [(100, 10, (3, 2)), (10, 1, (3, 2)), (3, 2, (5, 4)), (3, 3, (4, 2)), (100, 2, (4, 3))],
)
def test_values_that_somebody_has_chosen_win(
    ca: int, leaf: int, stored: tuple[int, int], accepted: tuple[StoredDefaults, ...]
) -> None:
    lifetimes = Lifetimes(ca_years=ca, leaf_years=leaf)
    kubeadm = FakeKubeadm(lifetimes.ca, lifetimes.leaf)
    seen = prove_stored(kubeadm, "stored-values", accepted, lifetimes)
    assert years_of(seen) == {("ca", stored[0]), ("leaf", stored[1])}
    assert stored_defaults_of(seen, lifetimes, accepted) is None
    kubeadm.deaf = True
    with pytest.raises(WrongLifetime, match="stored-values"):
        prove_stored(kubeadm, "stored-values", accepted, lifetimes)


@pytest.mark.parametrize("case", ["stored-defaults", "stored-values"])
@pytest.mark.parametrize("moment", ["issued", "renewed"])
def test_one_date_that_is_off_is_found_where_lifetimes_are_stored(
    kubeadm: FakeKubeadm, case: Case, moment: str
) -> None:
    kubeadm.wrong["pki/apiserver.crt", moment] = DAY
    with pytest.raises(WrongLifetime, match=rf"apiserver.crt \({case}, {moment}\)"):
        prove_stored(kubeadm, case, EITHER)


@pytest.mark.slow
@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", [b"[" * 60_000, b"{a: " * 15_000, b"- " * 30_000, b"? " * 30_000])
def test_a_kubeconfig_without_end_is_refused_soon(text: bytes) -> None:
    with pytest.raises(UnreadableCertificate, match=r"more than 16 levels|it is not YAML"):
        read_certificates({"admin.conf": text})
