"""An inventory as a JSON document; docs/certificates.md explains its fields."""

from typing import Any

from kbuild.base.values import rfc3339
from kbuild.certs.model import Certificate, Finding, Inventory, Owner, PrivateKey


def document(inventory: Inventory) -> dict[str, Any]:
    """Return an inventory as values that JSON has; times are RFC 3339, the time left seconds."""
    return {
        "read_at": rfc3339(inventory.read_at),
        "paths": list(inventory.paths),
        "certificates": [_certificate(each, inventory) for each in inventory.certificates],
        "findings": [_finding(each) for each in inventory.findings],
    }


def _certificate(certificate: Certificate, inventory: Inventory) -> dict[str, Any]:
    return {
        "path": certificate.path,
        "place": certificate.place,
        "role": certificate.role,
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "serial": certificate.serial,
        "fingerprint": certificate.fingerprint,
        "not_before": rfc3339(certificate.not_before),
        "not_after": rfc3339(certificate.not_after),
        "seconds_left": int(certificate.time_left(inventory.read_at).total_seconds()),
        "is_ca": certificate.is_ca,
        "key": certificate.key,
        "names": list(certificate.names),
        "usages": list(certificate.usages),
        "chain": certificate.chain,
        "issued_by": certificate.issued_by,
        "owner": _owner(certificate.owner),
        "private_key": certificate.private_key and _key(certificate.private_key),
    }


def _finding(finding: Finding) -> dict[str, str]:
    return {
        "severity": finding.severity,
        "kind": finding.kind,
        "path": finding.path,
        "place": finding.place,
        "reason": finding.reason,
        "command": finding.command,
    }


def _key(key: PrivateKey) -> dict[str, Any]:
    return {
        "path": key.path,
        "owner": _owner(key.owner),
        "fits": key.fits,
        "encrypted": key.encrypted,
    }


def _owner(owner: Owner) -> dict[str, str]:
    return {"user": owner.user, "group": owner.group, "mode": f"{owner.mode:04o}"}
