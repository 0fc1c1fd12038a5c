"""An inventory as metrics, for the textfile collector of Prometheus's node_exporter.

The names and labels are those of x509-certificate-exporter, so its alerts and dashboards work:
enix/x509-certificate-exporter, docs/metrics.md and internal/collector.go. As there, certificates
that all labels have in common get a ``discriminator``, 8 digits of the fingerprint. Its relative
times are left out: they would be wrong until kbuild runs again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath

from kbuild.base.printable import printable
from kbuild.certs.inventory import UNREAD
from kbuild.certs.model import SEVERITIES, Certificate, Finding, Inventory
from kbuild.certs.naming import common_name, embedded

MARK = b"# Written by kbuild certs"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_DIGITS = 8

Sample = tuple[Mapping[str, str], int]


def metrics(inventory: Inventory) -> bytes:
    """Return the metrics in Prometheus's text format, version 0.0.4, without timestamps."""
    return "".join(_lines(inventory)).encode()


def _lines(inventory: Inventory) -> Iterator[str]:
    now, certificates = inventory.read_at, _labelled(inventory.certificates)
    yield f"{MARK.decode()}.\n"
    yield from _metric(
        "x509_cert_not_before",
        "Start of the certificate's validity, in seconds since 1970.",
        [(labels, int(c.not_before.timestamp())) for labels, c in certificates],
    )
    yield from _metric(
        "x509_cert_not_after",
        "End of the certificate's validity, in seconds since 1970.",
        [(labels, int(c.not_after.timestamp())) for labels, c in certificates],
    )
    yield from _metric(
        "x509_cert_expired",
        "1 if the certificate had expired when it was read.",
        [(labels, int(c.not_after < now)) for labels, c in certificates],
    )
    yield from _metric(
        "x509_read_errors",
        "Number of files that could not be read as they should.",
        [({}, len({f.path for f in inventory.findings if f.kind in UNREAD}))],
    )
    yield from _metric(
        "kbuild_certs_findings",
        "Number of findings of kbuild certs by severity.",
        _by_severity(inventory.findings),
    )
    yield from _metric(
        "kbuild_certs_read_timestamp_seconds",
        "When kbuild certs read the certificates, in seconds since 1970.",
        [({}, int(now.timestamp()))],
    )


def _by_severity(findings: tuple[Finding, ...]) -> list[Sample]:
    count = Counter(finding.severity for finding in findings)
    return [({"severity": severity}, count[severity]) for severity in SEVERITIES]


def _metric(name: str, help_text: str, samples: list[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {help_text}\n# TYPE {name} gauge\n"
    for labels, value in samples:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{{{inside}}} {value}\n" if inside else f"{name} {value}\n"


def _escaped(text: str) -> str:
    return printable(text).translate(_ESCAPES)


def _labelled(certificates: tuple[Certificate, ...]) -> list[tuple[dict[str, str], Certificate]]:
    """Return each certificate with its labels; one that is in a file twice is left out once."""
    distinct = {(*_labels(c).values(), c.fingerprint): c for c in certificates}
    count = Counter(tuple(_labels(c).values()) for c in distinct.values())
    return [
        (labels | _discriminator(c, count[tuple(labels.values())]), c)
        for c in distinct.values()
        for labels in [_labels(c)]
    ]


def _labels(certificate: Certificate) -> dict[str, str]:
    inside = embedded(certificate)
    labels = {
        "filename": PurePath(certificate.path).name,
        "filepath": certificate.path,
        "embedded_kind": "" if inside is None else inside.kind,
        "embedded_key": "" if inside is None else inside.key,
        "serial_number": str(int(certificate.serial, 16)),  # decimal, as the exporter has it
        "subject_CN": common_name(certificate.subject),
        "issuer_CN": common_name(certificate.issuer),
    }
    return {name: printable(text) for name, text in labels.items()}


def _discriminator(certificate: Certificate, same: int) -> dict[str, str]:
    return {"discriminator": certificate.fingerprint[:_DIGITS]} if same > 1 else {}
