"""Certificates that do not belong together: chains, kubeconfigs and kubelets."""

import re
from collections.abc import Iterator
from datetime import timedelta

from kbuild.certs.commands import CONFIG, PKI, issue_again, quote
from kbuild.certs.findings.dates import SAME_TIME
from kbuild.certs.findings.seen import Scene, Seen, finding
from kbuild.certs.model import Certificate, Finding
from kbuild.certs.paths import beside
from kbuild.certs.reading import KubeconfigEntry
from kbuild.x509.api import Cluster

# The controller manager signs for a year by default; those who lengthen leaves mean decades.
_SHORT, _LONG = timedelta(days=400), timedelta(days=2 * 365)
_LONG_CA = timedelta(days=20 * 365)
# Of GenerateSelfSignedCertKey, k8s.io/client-go/util/cert/cert.go (v0.20.2).
_KUBELETS_OWN_CA = re.compile(r"CN=.*-ca@\d+")
# Where the CA of the cluster of a kubeconfig stands, as seen from its folder.
_CAS = ("pki/ca.crt", "ca.crt", "ssl/ca.pem", "ca.pem", "../pki/ca.crt", "../ssl/ca.pem")


def chains(scene: Scene) -> Iterator[Finding]:
    """Find certificates that no CA here has signed."""
    for one in scene.judged:
        certificate = one.shown
        if certificate.chain == "bad-signature":
            reason = (
                f"there is a CA with the name of its issuer ({certificate.issuer}), but another"
                " key signed it"
            )
            yield finding(
                "critical", "bad-signature", certificate, reason, issue_again(certificate)
            )
        elif certificate.chain == "unknown-issuer" and not _is_self_made(certificate):
            reason = f"its issuer ({certificate.issuer}) is not among what was read"
            command = f"kbuild certs {quote(certificate.path)} {PKI}"
            yield finding("info", "unknown-issuer", certificate, reason, command)


def kubelets(scene: Scene) -> Iterator[Finding]:
    """Find what kubelet has by itself: a serving certificate, and a client one of a year."""
    is_long = any(_is_long(one) for one in scene.judged)
    for one in scene.judged:
        certificate = one.shown
        if not one.is_first or not certificate.role.startswith("kubelet, "):
            continue
        if certificate.role == "kubelet, server" and _is_self_made(certificate):
            reason = (
                "kubelet signed its serving certificate itself, so clients cannot verify it, and"
                " kubeadm does not renew it; serverTLSBootstrap and an approver change that"
            )
            yield finding("warning", "kubelet-serving-self-signed", certificate, reason, CONFIG)
        lifetime = certificate.not_after - certificate.not_before
        if certificate.role == "kubelet, client" and lifetime <= _SHORT and is_long:
            reason = (
                f"it is valid for {lifetime.days} days, unlike the cluster's others; the controller"
                " manager issues it, for the time in --cluster-signing-duration"
            )
            yield finding("warning", "kubelet-client-short", certificate, reason, CONFIG)


def embedded(scene: Scene) -> Iterator[Finding]:
    """Find kubeconfigs that embed a certificate of which there is a later one."""
    latest: dict[tuple[str, str], Certificate] = {}
    for one in scene.judged:
        name = (one.shown.subject, one.shown.issuer)
        if name not in latest or one.shown.not_after > latest[name].not_after:
            latest[name] = one.shown
    for one in scene.judged:
        certificate = one.shown
        other = latest[certificate.subject, certificate.issuer]
        is_older = other.not_after - certificate.not_after > SAME_TIME
        if certificate.place.startswith("users[") and one.is_first and is_older:
            reason = (
                f"it embeds a certificate until {certificate.not_after:%Y-%m-%d}; {other.path} has"
                f" one of the same subject until {other.not_after:%Y-%m-%d}"
            )
            command = _take_over(certificate, other)
            yield finding("warning", "kubeconfig-old-certificate", certificate, reason, command)


def trusted(scene: Scene) -> Iterator[Finding]:
    """Find kubeconfigs that trust another CA than that of the cluster beside them."""
    files = {one.shown.path: one for one in scene.seen if not one.shown.place}
    bundles: dict[tuple[str, str], list[Seen]] = {}
    for one in scene.seen:
        where = one.shown.place.partition(" certificate ")[0]
        bundles.setdefault((one.shown.path, where), []).append(one)
    for entry in scene.tree.kubeconfigs:
        ca = next((files[path] for path in _cas_beside(entry) if path in files), None)
        for cluster in entry.kubeconfig.clusters:
            place = f"clusters[{cluster.name}].certificate-authority-data"
            bundle = bundles.get((entry.path, place), [])
            if ca is not None and ca.shown.is_ca and bundle:
                yield from _compare(bundle, ca, cluster)


def _compare(bundle: list[Seen], expected: Seen, cluster: Cluster) -> Iterator[Finding]:
    if any(one.shown.fingerprint == expected.shown.fingerprint for one in bundle):
        return
    embedded, ca = bundle[0].shown, expected.shown
    command = (
        f"kubectl config --kubeconfig={quote(embedded.path)} set-cluster {quote(cluster.name)}"
        f" --certificate-authority={quote(ca.path)} --embed-certs=true"
    )
    if any(one.entry.facts.public_key == expected.entry.facts.public_key for one in bundle):
        reason = (
            f"it embeds the CA of {ca.path} as of another time, until"
            f" {embedded.not_after:%Y-%m-%d} instead of {ca.not_after:%Y-%m-%d}"
        )
        yield finding("warning", "kubeconfig-old-ca", embedded, reason, command)
    else:
        reason = f"it trusts another CA than {ca.path}, so it cannot verify the API server"
        yield finding("critical", "kubeconfig-other-ca", embedded, reason, command)


def _cas_beside(entry: KubeconfigEntry) -> Iterator[str]:
    return (beside(entry.path, name) for name in _CAS)


def _take_over(old: Certificate, new: Certificate) -> str:
    if new.place:  # of another kubeconfig of the same user
        return f"cp {quote(new.path)} {quote(old.path)}"
    user = old.place.removeprefix("users[").rpartition("]")[0]
    key = new.private_key.path if new.private_key else new.path
    return (
        f"kubectl config --kubeconfig={quote(old.path)} set-credentials {quote(user)}"
        f" --client-certificate={quote(new.path)} --client-key={quote(key)}"
    )


def _is_self_made(certificate: Certificate) -> bool:
    return certificate.role == "kubelet, server" and (
        certificate.chain == "self-signed"
        or _KUBELETS_OWN_CA.fullmatch(certificate.issuer) is not None
    )


def _is_long(one: Seen) -> bool:
    lifetime = one.shown.not_after - one.shown.not_before
    if one.shown.is_ca:
        return lifetime > _LONG_CA
    return lifetime > _LONG and one.file is not None and bool(one.file.set)
