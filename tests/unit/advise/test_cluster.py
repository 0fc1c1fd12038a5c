"""What the certificates of a cluster mean for its advice."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kbuild.advise.api import advise, cluster_of, next_request
from kbuild.advise.errors import NoCertificates
from kbuild.certs.model import Certificate, Finding, Inventory, Owner, PrivateKey
from kbuild.kubeadm.model import Lifetimes

NOW = datetime(2026, 11, 26, tzinfo=UTC)
YEAR = timedelta(days=365)
LONG = Lifetimes(ca_years=100, leaf_years=50)
ROOT = Owner(user="root", group="root", mode=0o600)
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
    private_key=PrivateKey(
        path="/etc/kubernetes/pki/ca.key", owner=ROOT, fits=True, encrypted=False
    ),
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
        replace(KUBELET, role="kubelet, client (earlier)", is_superseded=True),
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


def steps_of(*certificates: Certificate, lifetimes: Lifetimes = LONG) -> list[str]:
    cluster = cluster_of(inventory(*certificates), lifetimes)
    return [step.name for step in advise("v1.33.3", "living", lifetimes, cluster).steps]


LONG_CA, LONG_LEAF, LONG_KUBELET = (
    replace(each, not_after=NOW + 99 * YEAR) for each in (CA, LEAF, KUBELET)
)
OVER = {"not_before": NOW - 2 * YEAR, "not_after": NOW - YEAR}
EXPIRED, EXPIRED_KUBELET = replace(LEAF, **OVER), replace(KUBELET, **OVER)  # type: ignore[arg-type]  # times
ETCD = replace(LEAF, path="etcd/server.crt", role="etcd, server", fingerprint="etcd")
WORKER_CA = replace(LONG_CA, private_key=None)
FIRST = ["look"]
BY_FILES = ["recover-config", "renew", "recover-kubelet", "restart", "configure"]


def test_what_has_expired_is_renewed_from_files_before_anything_needs_the_api() -> None:
    found = steps_of(LONG_CA, EXPIRED, EXPIRED_KUBELET, ETCD)
    assert found == [*FIRST, *BY_FILES, "bootstrap", "rejoin", "kubelet", "look-again"]
    cas = ["sign-cas", "spread-cas"]
    assert steps_of(CA, EXPIRED, EXPIRED_KUBELET)[:8] == [*FIRST, *cas, *BY_FILES]


@pytest.mark.parametrize("tag", ["v1.13.7", "v1.20.2", "v1.31.0", "v1.33.3"])
def test_renewal_from_files_never_falls_back_to_defaults(tag: str) -> None:
    cluster = cluster_of(inventory(CA, EXPIRED), LONG)
    found = {step.name: step for step in advise(tag, "living", LONG, cluster).steps}
    assert "renew all --config /root/kubeadm.yaml" in found["renew"].commands[0]
    assert ("issues certificates for 1 year" in found["recover-config"].text) is (tag > "v1.31")
    typed = "\n".join(found["sign-cas"].commands)
    assert typed.count("openssl verify -no_check_time ") == 3
    before = list(found)[: list(found).index("restart")]
    for name in before:
        assert not any("kubectl" in command for command in found[name].commands)


@pytest.mark.parametrize(
    "alive",
    [
        (LEAF, replace(EXPIRED, path="/root/old/apiserver.crt", fingerprint="old")),
        (LEAF, replace(EXPIRED, role="metrics-server", fingerprint="other")),
    ],
)
def test_the_api_is_there_if_a_valid_certificate_is(alive: tuple[Certificate, ...]) -> None:
    assert "recover-config" not in steps_of(CA, *alive)


def test_an_expired_ca_stops_the_api_too() -> None:
    assert "recover-config" in steps_of(replace(CA, **OVER), LEAF)  # type: ignore[arg-type]  # times


def test_a_kubelet_that_still_runs_keeps_its_kubeconfig() -> None:
    assert "recover-kubelet" not in steps_of(LONG_CA, EXPIRED, KUBELET)


def test_a_worker_gets_the_plan_of_a_worker() -> None:
    assert steps_of(WORKER_CA, KUBELET) == ["look", "control-planes", "kubelet", "look-again"]
    short = replace(CA, private_key=None)
    assert "spread-cas" in steps_of(short, KUBELET)
    found = steps_of(WORKER_CA, EXPIRED_KUBELET)
    assert found[2:4] == ["bootstrap", "rejoin"]
    assert "kubelet" in steps_of(CA, KUBELET)  # with the key of a CA, it is none
    assert "control-planes" not in steps_of(CA, KUBELET)


@pytest.mark.parametrize("leaf", [LEAF, EXPIRED])
def test_without_the_keys_of_the_cas_kubeadm_renews_nothing(leaf: Certificate) -> None:
    external = replace(CA, private_key=None)
    cluster = cluster_of(inventory(external, leaf), LONG)
    found = {step.name: step for step in advise("v1.20.2", "living", LONG, cluster).steps}
    assert not {"sign-cas", "spread-cas", "renew", "build", "recover-config"} & set(found)
    assert external.path in found["external-ca"].text
    assert "kubeadm cannot renew" in found["external-ca"].text


def test_one_ca_without_its_key_is_named() -> None:
    etcd = replace(CA, role="etcd CA", fingerprint="etcd", path="etcd/ca.crt", private_key=None)
    found = steps_of(CA, etcd, LEAF)
    assert {"external-ca", "sign-cas", "renew"} <= set(found)


def test_nothing_is_renewed_if_everything_lasts() -> None:
    found = steps_of(LONG_CA, LONG_LEAF, LONG_KUBELET)
    assert found == ["look", "nothing", "look-again"]
    assert "nothing" not in steps_of(LONG_CA, LEAF, LONG_KUBELET)
    assert "renew" not in steps_of(LONG_CA, LONG_LEAF, KUBELET)
    assert "kubelet" in steps_of(LONG_CA, LONG_LEAF, KUBELET)
    soon = replace(LONG_LEAF, not_after=NOW + 45 * YEAR - timedelta(days=1))
    assert "renew" in steps_of(LONG_CA, soon, LONG_KUBELET)
    assert "renew" not in steps_of(LONG_CA, replace(soon, not_after=NOW + 45 * YEAR))


@pytest.mark.parametrize("tag", ["v1.13.7", "v1.20.2", "v1.33.3"])
@pytest.mark.parametrize(
    "certificates",
    [(CA, EXPIRED, ETCD), (WORKER_CA, EXPIRED_KUBELET), (replace(CA, private_key=None), LEAF)],
)
def test_a_plan_fits_into_80_columns(tag: str, certificates: tuple[Certificate, ...]) -> None:
    cluster = cluster_of(inventory(*certificates), LONG)
    for step in advise(tag, "living", LONG, cluster).steps:
        assert len(step.where) <= 68
        lines = [line for command in step.commands for line in command.split("\n")]
        assert all(len(line) <= 74 for line in lines)
        assert "$" not in step.text


def test_a_snapshot_is_taken_where_etcd_is_and_answers() -> None:
    assert "snapshot" in steps_of(CA, LEAF, ETCD)
    assert "snapshot" not in steps_of(CA, LEAF)
    assert "snapshot" not in steps_of(CA, EXPIRED, ETCD)


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
