"""Private keys that are missing, do not fit, or are not private; and weak ones."""

from collections.abc import Iterator

from kbuild.certs.commands import REQUESTS, cert_dir, quote, show_key
from kbuild.certs.findings.remedy import another, remedied, with_new_key
from kbuild.certs.findings.seen import Scene, Seen, finding
from kbuild.certs.model import Finding, Severity

LEAST_BITS = 2048  # NIST SP 800-57 part 1 takes RSA below that as broken by now
WEAK_HASHES = ("md5", "sha1")
_GROUP, _OTHERS = 0o070, 0o007


def unfitting(scene: Scene) -> Iterator[Finding]:
    """Find certificates whose key belongs to another one, or is not there."""
    for one in scene.judged:
        certificate, key = one.shown, one.shown.private_key
        if key is not None and key.fits is False:
            reason = f"the key {key.path} belongs to another certificate"
            yield remedied("critical", "key-mismatch", one, reason, another(one, scene))
        elif key is None and one.is_first and not certificate.is_ca:
            severity: Severity = "warning" if one.file else "info"
            reason = "no private key was found for it"
            folder = quote(cert_dir(certificate.path) or ".")
            command = f"grep -rl 'PRIVATE KEY' {folder}"
            yield finding(severity, "key-missing", certificate, reason, command)


def external_cas(scene: Scene) -> Iterator[Finding]:
    """Find CAs without a key, whose certificates kubeadm can therefore not renew."""
    renewable = {
        one.issuer.ca.facts.fingerprint
        for one in scene.judged
        if one.issuer.ca is not None and one.file and one.file.renew
    }
    for one in scene.judged:
        certificate = one.shown
        if certificate.private_key is None and certificate.fingerprint in renewable:
            reason = (
                "its key is not here (an external CA): `kubeadm certs renew` cannot renew what it"
                " signed; make requests and have them signed where the key is"
            )
            yield finding("info", "ca-key-missing", certificate, reason, REQUESTS)


def readable(scene: Scene) -> Iterator[Finding]:
    """Find private keys that others than their owner may read or write."""
    for key in {key.path: key for key in scene.tree.keys}.values():
        mode = key.owner.mode
        if mode & (_GROUP | _OTHERS):
            who = "every user" if mode & _OTHERS else f"the group {key.owner.group}"
            yield Finding(
                severity="critical" if mode & _OTHERS else "warning",
                kind="key-readable",
                path=key.path,
                place="",
                reason=f"it holds a private key, and {who} of this machine may use it: {mode:04o}",
                command=f"chmod 600 {quote(key.path)}",
            )


def unread(scene: Scene) -> Iterator[Finding]:
    """Find private keys that are encrypted, damaged or not readable by this user."""
    for key in scene.tree.keys:
        if key.facts.encrypted:
            reason = "it is encrypted, so whether it fits its certificate is not known"
            command = show_key(key.path, scene.tree.der)
            yield finding("info", "key-encrypted", key, reason, command)
        elif key.facts.problem:
            command = f"ls -l {quote(key.path)}"
            yield finding("warning", "key-unreadable", key, key.facts.problem, command)


def weak(scene: Scene) -> Iterator[Finding]:
    """Find keys and signatures that can be forged."""
    for one in scene.judged:
        facts = one.entry.facts
        if 0 < facts.bits < LEAST_BITS or facts.key.startswith("DSA"):
            reason = f"its key is {facts.key}; {LEAST_BITS} bits of RSA are the least"
            yield remedied("warning", "weak-key", one, reason, with_new_key(one, scene))
        if facts.has_large_exponent:
            reason = "the exponent of its RSA key is 2^32 or more, which Go's programs refuse"
            yield remedied("warning", "weak-key", one, reason, with_new_key(one, scene))
        if facts.hash_name in WEAK_HASHES and not _is_root(one):
            reason = f"it is signed with {facts.hash_name.upper()}, which Go's programs refuse"
            yield remedied("warning", "weak-signature", one, reason, another(one, scene))


def _is_root(one: Seen) -> bool:
    return one.entry.facts.is_self_issued  # nobody checks the signature of a root
