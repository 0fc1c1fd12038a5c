"""Certificates that end too early, too late, or not together."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from kbuild.base.values import day
from kbuild.certs import commands
from kbuild.certs.findings.remedy import Remedy, another, remedied
from kbuild.certs.findings.seen import SAME_TIME, Scene, Seen, finding
from kbuild.certs.model import Finding, Severity
from kbuild.certs.rotation import is_rotated, will_rotate
from kbuild.certs.times import minute

CRITICAL = timedelta(days=30)
WARNING = timedelta(days=90)
# Equal lifetimes that began on different days are on purpose; a CA that ends within this time, or
# well before its leaves, is not.
_FAR, _ALMOST = timedelta(days=5 * 365), 0.9


def expiring(scene: Scene) -> Iterator[Finding]:
    """Find what has expired, ends soon, or is not valid yet."""
    for one in scene.judged:
        certificate = one.shown
        left, end = certificate.time_left(scene.now), day(certificate.not_after)
        if certificate.not_before > scene.now:
            reason = f"it is not valid before {minute(certificate.not_before)}"
            yield finding("warning", "not-yet-valid", certificate, reason, "timedatectl status")
        if left <= timedelta():
            reason, remedy = f"it expired on {end}", another(one, scene)
            yield remedied("critical", "expired", one, reason, remedy)
        elif left < WARNING and not will_rotate(certificate, scene.now):
            severity: Severity = "critical" if left < CRITICAL else "warning"
            reason = f"it expires on {end}, in {left.days} days"
            if is_rotated(certificate):
                reason += "; kubelet should have renewed it by now, so its rotation fails"
            yield remedied(severity, "expires-soon", one, reason, another(one, scene))


def outliving(scene: Scene) -> Iterator[Finding]:
    """Find CAs that end before certificates that they signed, which end with them."""
    signed = defaultdict[str, list[Seen]](list)
    for one in scene.judged:
        if one.issuer.ca is not None:
            signed[one.issuer.ca.facts.fingerprint].append(one)
    for ca in scene.judged:
        mine = signed.get(ca.shown.fingerprint, []) if ca.entry.facts.may_sign else []
        later = [one for one in mine if one.shown.not_after - ca.shown.not_after > SAME_TIME]
        if later:
            last = max(later, key=lambda one: one.shown.not_after).shown
            which = "a certificate" if len(later) == 1 else f"{len(later)} certificates"
            verb = "is" if len(later) == 1 else "are"
            reason = (
                f"it expires on {day(ca.shown.not_after)}, before {which} that it signed and"
                f" that {verb} not valid without it; {last.path} expires on"
                f" {day(last.not_after)}"
            )
            left, longest = ca.shown.time_left(scene.now), last.time_left(scene.now)
            is_near = left <= _FAR or left <= longest * _ALMOST
            severity: Severity = "warning" if is_near else "info"
            yield remedied(severity, "leaf-outlives-ca", ca, reason, another(ca, scene))


def differing(scene: Scene) -> Iterator[Finding]:
    """Find sets of certificates that were renewed in part."""
    for peers in issued_together(scene).values():
        first = min(peers, key=lambda one: one.shown.not_after)
        last = max(peers, key=lambda one: one.shown.not_after).shown
        if last.not_after - first.shown.not_after > SAME_TIME:
            early = sum(_is_with(one, first.shown.not_after) for one in peers)
            reason = (
                f"{early} of {len(peers)} certificates that belong together expire on"
                f" {day(first.shown.not_after)}, {last.path} on {day(last.not_after)}"
            )
            has_keys = all(ca is None or ca.shown.private_key for ca in map(scene.ca_of, peers))
            files = [(one.shown.path, one.file.renew) for one in peers if one.file]
            renewal = commands.renew_all(file for file in files if file[1]) if has_keys else ""
            remedy = Remedy(command=renewal) if renewal else another(first, scene)
            yield remedied("warning", "peers-differ", first, reason, remedy)


def _is_with(one: Seen, moment: datetime) -> bool:
    return one.shown.not_after - moment <= SAME_TIME


def issued_together(scene: Scene) -> dict[tuple[str, str], list[Seen]]:
    """Return the leaves that are issued together, by the name of their set and their folder."""
    sets = defaultdict[tuple[str, str], list[Seen]](list)
    for one in scene.judged:
        file = one.file
        if file and file.set and not one.shown.is_ca:
            folder = one.shown.path.removesuffix(_tail(one.shown.path, file.path))
            sets[file.set, folder.removesuffix("pki/")].append(one)
    return sets


def _tail(path: str, pattern: str) -> str:
    return "/".join(path.split("/")[-len(pattern.split("/")) :])
