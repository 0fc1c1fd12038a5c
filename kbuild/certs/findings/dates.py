"""Certificates that end too early, too late, or not together."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from kbuild.certs.commands import RENEW_ALL, issue_again
from kbuild.certs.findings.seen import Scene, Seen, finding
from kbuild.certs.model import Finding, Severity

CRITICAL = timedelta(days=30)
WARNING = timedelta(days=90)
# What is issued in one go, with one lifetime, ends within seconds.
SAME_TIME = timedelta(days=1)


def expiring(scene: Scene) -> Iterator[Finding]:
    """Find what has expired, ends soon, or is not valid yet."""
    for one in scene.judged:
        certificate = one.shown
        left, day = certificate.time_left(scene.now), f"{certificate.not_after:%Y-%m-%d}"
        if certificate.not_before > scene.now:
            reason = f"it is not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC"
            yield finding("warning", "not-yet-valid", certificate, reason, "timedatectl status")
        if left <= timedelta():
            reason, command = f"it expired on {day}", issue_again(certificate)
            yield finding("critical", "expired", certificate, reason, command)
        elif left < WARNING:
            severity: Severity = "critical" if left < CRITICAL else "warning"
            reason = f"it expires on {day}, in {left.days} days"
            yield finding(severity, "expires-soon", certificate, reason, issue_again(certificate))


def outliving(scene: Scene) -> Iterator[Finding]:
    """Find CAs that end before certificates that they signed, which end with them."""
    signed = defaultdict[str, list[Seen]](list)
    for one in scene.judged:
        if one.issuer.ca is not None:
            signed[one.issuer.ca.facts.fingerprint].append(one)
    for ca in scene.judged:
        mine = signed.get(ca.shown.fingerprint, []) if ca.entry.facts.may_sign else []
        later = [one for one in mine if one.shown.not_after > ca.shown.not_after + SAME_TIME]
        if later:
            last = max(later, key=lambda one: one.shown.not_after).shown
            count = _certificates(len(later))
            reason = (
                f"it expires on {ca.shown.not_after:%Y-%m-%d}, before {count} that it signed, which"
                f" are not valid without it; {last.path} expires on {last.not_after:%Y-%m-%d}"
            )
            command = issue_again(ca.shown)
            yield finding("warning", "leaf-outlives-ca", ca.shown, reason, command)


def differing(scene: Scene) -> Iterator[Finding]:
    """Find sets of certificates that were renewed in part."""
    for peers in _sets(scene).values():
        first = min(peers, key=lambda one: one.shown.not_after).shown
        last = max(peers, key=lambda one: one.shown.not_after).shown
        if last.not_after - first.not_after > SAME_TIME:
            early = sum(_is_with(one, first.not_after) for one in peers)
            reason = (
                f"{early} of {len(peers)} certificates that belong together expire on"
                f" {first.not_after:%Y-%m-%d}, {last.path} on {last.not_after:%Y-%m-%d}"
            )
            is_kubeadm = any(one.file and one.file.renew for one in peers)
            command = RENEW_ALL if is_kubeadm else issue_again(first)
            yield finding("warning", "peers-differ", first, reason, command)


def _is_with(one: Seen, moment: datetime) -> bool:
    return one.shown.not_after - moment <= SAME_TIME


def _sets(scene: Scene) -> dict[tuple[str, str], list[Seen]]:
    sets = defaultdict[tuple[str, str], list[Seen]](list)
    for one in scene.judged:
        file = one.file
        if file and file.set and not one.shown.is_ca:
            folder = one.shown.path.removesuffix(_tail(one.shown.path, file.path))
            sets[file.set, folder.removesuffix("pki/")].append(one)
    return sets


def _tail(path: str, pattern: str) -> str:
    return "/".join(path.split("/")[-len(pattern.split("/")) :])


def _certificates(count: int) -> str:
    return "a certificate" if count == 1 else f"{count} certificates"
