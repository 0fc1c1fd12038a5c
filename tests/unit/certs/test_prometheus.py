"""The metrics: what prometheus_client, the parser of the project itself, reads in them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kbuild.certs.model import Inventory
from kbuild.certs.prometheus import MARK, metrics
from tests.support.inventories import (
    HOSTILE,
    PKI,
    READ_AT,
    certificate,
    control_plane,
    finding,
    in_kubeconfig,
    inventory,
)

PER_CERTIFICATE = ("x509_cert_not_before", "x509_cert_not_after", "x509_cert_expired")


def families(found: Inventory) -> dict[str, Any]:
    text = metrics(found)
    assert text.startswith(MARK)
    assert text.endswith(b"\n")
    each = list(text_string_to_metric_families(text.decode()))
    assert all(family.type == "gauge" and family.documentation for family in each)
    series = [(s.name, *sorted(s.labels.items())) for family in each for s in family.samples]
    assert len(series) == len(set(series)), "a series is there twice"
    assert len({family.name for family in each}) == len(each)
    return {family.name: family for family in each}


def test_each_certificate_has_the_series_of_x509_certificate_exporter() -> None:
    found = families(inventory(certificate(days=10)))
    for name in PER_CERTIFICATE:
        (sample,) = found[name].samples
        assert sample.labels == {
            "filename": "apiserver.crt",
            "filepath": f"{PKI}/apiserver.crt",
            "embedded_kind": "",
            "embedded_key": "",
            "serial_number": "4242",
            "subject_CN": "kube-apiserver",
            "issuer_CN": "kubernetes",
        }
    assert found["x509_cert_not_after"].samples[0].value == READ_AT.timestamp() + 10 * 86400
    assert found["x509_cert_not_before"].samples[0].value == READ_AT.timestamp() - 86400
    assert found["x509_cert_expired"].samples[0].value == 0


def test_expired_certificates_and_findings_are_counted() -> None:
    found = families(control_plane())
    expired = {s.labels["filename"] for s in found["x509_cert_expired"].samples if s.value == 1}
    assert expired == {"apiserver.crt"}
    by_severity = {s.labels["severity"]: s.value for s in found["kbuild_certs_findings"].samples}
    assert by_severity == {"critical": 1, "warning": 2, "info": 1}
    (read,) = found["kbuild_certs_read_timestamp_seconds"].samples
    assert read.value == READ_AT.timestamp()


def test_a_kubeconfig_names_the_user_or_the_cluster() -> None:
    cluster = certificate("/admin.conf", place="clusters[a].b].certificate-authority-data")
    found = families(inventory(in_kubeconfig("joe"), cluster))
    where = [
        (s.labels["filename"], s.labels["embedded_kind"], s.labels["embedded_key"])
        for s in found["x509_cert_not_after"].samples
    ]
    assert sorted(where) == [("admin.conf", "cluster", "a].b"), ("admin.conf", "user", "joe")]


def test_files_that_could_not_be_read_are_counted_once() -> None:
    findings = (
        finding("/a", kind="unreadable"),
        finding("/a", kind="unreadable"),
        finding("/b", kind="unreadable"),
        finding("/c", kind="expired"),
    )
    assert families(inventory(findings=findings))["x509_read_errors"].samples[0].value == 2


def test_certificates_with_the_same_labels_are_told_apart() -> None:
    """Two of a chain in one file may have the same names, and serial numbers are often reused."""
    one, other, again = (certificate(fingerprint=f * 64) for f in "aba")
    samples = families(inventory(one, other, again))["x509_cert_not_after"].samples
    assert sorted(s.labels["discriminator"] for s in samples) == ["a" * 8, "b" * 8]


def test_hostile_names_add_no_series_and_come_back_as_text() -> None:
    subject = "O=x,CN=" + HOSTILE.replace("\\", "\\\\").replace(",", "\\,").replace('"', '\\"')
    hostile = certificate(f"/pki/{HOSTILE}", subject=subject)
    (sample,) = families(inventory(hostile))["x509_cert_not_after"].samples
    assert r"\x00\r\nBEGIN:VEVENT\n;,\ \udcff" in sample.labels["subject_CN"]
    assert "<script>" in sample.labels["filepath"]


@pytest.mark.slow
@given(text=st.text(max_size=100))
def test_any_label_comes_back_as_it_was_shown(text: str) -> None:
    path = "".join(c if c.isprintable() else "?" for c in text) or "x"
    (sample,) = families(inventory(certificate(path)))["x509_cert_not_after"].samples
    assert sample.labels["filepath"] == path


def test_an_inventory_without_certificates_has_no_series_of_them() -> None:
    found = families(inventory())
    assert all(found[name].samples == [] for name in PER_CERTIFICATE)
    assert found["x509_read_errors"].samples[0].value == 0
    assert all(s.value == 0 for s in found["kbuild_certs_findings"].samples)


def test_the_same_inventory_gives_the_same_metrics() -> None:
    assert metrics(control_plane()) == metrics(control_plane())
