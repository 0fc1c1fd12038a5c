"""What the certificates of a cluster mean for its advice."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kbuild.advise.api import advise, cluster_of, next_request
from kbuild.advise.errors import NoCertificates
from kbuild.certs.model import Certificate, Finding, Inventory, Owner
from kbuild.kubeadm.model import Lifetimes

NOW = datetime(2026, 11, 26, tzinfo=UTC)
YEAR = timedelta(days=365)
LONG = Lifetimes(ca_years=100, leaf_years=50)
CA = Certificate(
    path="/etc/kubernetes/pki/ca.crt",
    place="",
    role="cluster CA",
    subject="CN=kubernetes",
    issuer="CN=kubernetes",
    serial="0",
    fingerprint="ca",
    not_before=NOW - 3 * YEAR,
    not_after=NOW + 7 * YEAR,
    is_ca=True,
    key="RSA 2048",
    names=(),
    usages=(),
    chain="self-signed",
    issued_by=None,
    owner=Owner(user="root", group="root", mode=0o644),
    private_key=None,
)
LEAF = replace(
    CA,
    path="/etc/kubernetes/pki/apiserver.crt",
    role="API server, server",
    subject="CN=kube-apiserver",
    fingerprint="leaf",
    not_after=NOW + YEAR,
    is_ca=False,
)
KUBELET = replace(
    LEAF,
    path="/var/lib/kubelet/pki/kubelet-client-current.pem",
    role="kubelet, client",
    fingerprint="kubelet",
)


def inventory(*certificates: Certificate, findings: tuple[Finding, ...] = ()) -> Inventory:
    return Inventory(
        read_at=NOW, paths=("/etc/kubernetes",), certificates=certificates, findings=findings
    )


def finding(severity: str) -> Finding:
    return Finding(
        severity=severity,  # type: ignore[arg-type]  # each of them
        kind="expired",
        path=LEAF.path,
        place="",
        reason="it has expired",
        command="kubeadm certs renew apiserver",
    )


def test_certificates_are_told_apart() -> None:
    cluster = cluster_of(inventory(LEAF, KUBELET, CA), LONG)
    assert cluster.authorities == (CA,)
    assert cluster.kubelets == (KUBELET,)
    assert cluster.others == (LEAF,)


def test_a_certificate_is_told_once_and_by_its_own_file() -> None:
    embedded = replace(CA, path="/etc/kubernetes/admin.conf", place="clusters[a]")
    assert cluster_of(inventory(embedded, CA), LONG).authorities == (CA,)


@pytest.mark.parametrize(
    "useless",
    [
        replace(CA, subject="CN=node-1-ca@1700000000", path="/var/lib/kubelet/pki/kubelet.crt"),
        replace(KUBELET, role="kubelet, client (earlier)"),
    ],
)
def test_what_nobody_uses_is_left_out(useless: Certificate) -> None:
    cluster = cluster_of(inventory(replace(useless, fingerprint="useless"), LEAF), LONG)
    assert (cluster.authorities, cluster.kubelets, cluster.others) == ((), (), (LEAF,))


def test_the_ends_are_those_of_certificates_issued_now() -> None:
    cluster = cluster_of(inventory(CA), LONG)
    assert (cluster.ca_end, cluster.leaf_end) == (NOW + 100 * YEAR, NOW + 50 * YEAR)


@pytest.mark.parametrize(
    ("years_left", "is_too_short"), [((60, 49), True), ((49, 60), True), ((50, 60), False)]
)
def test_cas_are_signed_again_if_one_ends_too_early(
    years_left: tuple[int, int], is_too_short: bool
) -> None:
    first, second = (
        replace(CA, fingerprint=str(years), path=f"{years}.crt", not_after=NOW + years * YEAR)
        for years in years_left
    )
    cluster = cluster_of(inventory(first, second), LONG)
    assert cluster.is_ca_too_short is is_too_short
    steps = {step.name for step in advise("v1.20.2", "living", LONG, cluster).steps}
    for step in ("sign-cas", "spread-cas", "cluster-info"):
        assert (step in steps) is is_too_short


@pytest.mark.parametrize(
    ("lifetimes", "days_left", "is_too_short"),
    [
        (Lifetimes(ca_years=100, leaf_years=100), 100 * 365 - 1, False),
        (Lifetimes(ca_years=100, leaf_years=100), 90 * 365, False),
        (Lifetimes(ca_years=100, leaf_years=100), 90 * 365 - 1, True),
        (Lifetimes(ca_years=10, leaf_years=1), 365, False),
        (Lifetimes(ca_years=10, leaf_years=1), 364, True),
    ],
)
def test_a_ca_that_is_as_good_as_new_stays(
    lifetimes: Lifetimes, days_left: int, is_too_short: bool
) -> None:
    ca = replace(CA, not_after=NOW + timedelta(days=days_left))
    assert cluster_of(inventory(ca), lifetimes).is_ca_too_short is is_too_short


def test_a_ca_that_was_not_found_may_end_too_early() -> None:
    assert cluster_of(inventory(LEAF), LONG).is_ca_too_short


def test_a_kubelet_asks_again_before_its_certificate_ends() -> None:
    kubelet = replace(KUBELET, not_before=NOW, not_after=NOW + timedelta(days=100))
    assert next_request(kubelet) == (NOW + timedelta(days=70), NOW + timedelta(days=90))
    assert next_request(CA) is None
    assert next_request(replace(kubelet, role="kubelet, server")) is None


def test_only_what_needs_attention_is_told() -> None:
    found = tuple(finding(severity) for severity in ("critical", "warning", "info"))
    assert cluster_of(inventory(CA, findings=found), LONG).findings == found[:2]


def test_without_a_certificate_there_is_no_cluster() -> None:
    with pytest.raises(NoCertificates) as caught:
        cluster_of(inventory(findings=(finding("critical"),)), LONG)
    assert "/etc/kubernetes" in caught.value.happened
    assert caught.value.details == f"{LEAF.path}: it has expired"
