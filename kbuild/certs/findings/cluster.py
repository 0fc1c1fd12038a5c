"""Certificates that do not belong together: chains, kubeconfigs and kubelets."""

import re
from collections.abc import Iterator
from datetime import timedelta
from statistics import median_low

from kbuild.base.values import day
from kbuild.certs import commands
from kbuild.certs.findings.dates import issued_together
from kbuild.certs.findings.remedy import Remedy, another, remedied, take_over
from kbuild.certs.findings.seen import SAME_TIME, Scene, Seen, finding
from kbuild.certs.model import Certificate, Finding
from kbuild.certs.paths import beside, folder_of
from kbuild.certs.reading import KubeconfigEntry

_YEAR = timedelta(days=365)
# The controller manager signs for a year by default.
_SHORT = timedelta(days=400)
_STOCK_YEARS = (10, 1)  # of kubeadm's CAs and leaves
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
            yield remedied("critical", "bad-signature", one, reason, another(one, scene))
        elif certificate.chain == "unknown-issuer" and not _is_self_made(certificate):
            reason = f"its issuer ({certificate.issuer}) is not among what was read"
            command = f"kbuild certs {commands.quote(certificate.path)} {commands.PKI}"
            yield finding("info", "unknown-issuer", certificate, reason, command)


def kubelets(scene: Scene) -> Iterator[Finding]:
    """Find what kubelet has by itself: a serving certificate, and a client one of a year."""
    leaves = _leaves_by_ca(scene)
    for one in scene.judged:
        certificate = one.shown
        if not one.is_first or not certificate.role.startswith("kubelet, "):
            continue
        others = leaves.get(one.issuer_key, [])
        if certificate.role == "kubelet, server" and _is_self_made(certificate):
            reason = (
                "kubelet signed its serving certificate itself, so clients cannot verify it, and"
                " kubeadm does not renew it; serverTLSBootstrap and an approver change that"
            )
            command = _config(scene, leaves)
            yield finding("info", "kubelet-serving-self-signed", certificate, reason, command)
        is_short = bool(others) and one.lifetime <= min(_SHORT, median_low(others) / 2)
        if certificate.role == "kubelet, client" and is_short:
            reason = (
                f"it is valid for {one.lifetime.days} days, the certificates of kubeadm for"
                f" {median_low(others).days}; the controller manager issues it, for the time in"
                " --cluster-signing-duration"
            )
            command = _config(scene, leaves)
            yield finding("warning", "kubelet-client-short", certificate, reason, command)


def _leaves_by_ca(scene: Scene) -> dict[bytes, list[timedelta]]:
    """Return the lifetimes of the leaves of each control plane, by the keys of its CAs."""
    found: dict[bytes, list[timedelta]] = {}
    for peers in issued_together(scene).values():
        lifetimes = [one.lifetime for one in peers]
        for key in {one.issuer_key for one in peers} - {b""}:
            found.setdefault(key, []).extend(lifetimes)
    return found


def _config(scene: Scene, leaves: dict[bytes, list[timedelta]]) -> str:
    """Return the command that prints configuration with the lifetimes that the cluster has."""
    ca_years, leaf_years = _STOCK_YEARS
    cas = [one for one in scene.judged if one.shown.is_ca and one.shown.role == "cluster CA"]
    if cas:
        ca = max(cas, key=lambda one: len(leaves.get(one.entry.facts.public_key, ())))
        ca_years = _years(ca.lifetime)
        if lifetimes := leaves.get(ca.entry.facts.public_key):
            leaf_years = _years(median_low(lifetimes))
    return commands.config(ca_years, min(ca_years, leaf_years))


def _years(lifetime: timedelta) -> int:
    return max(round(lifetime / _YEAR), 1)


def embedded(scene: Scene) -> Iterator[Finding]:
    """Find kubeconfigs that embed a certificate of which there is a later one of the same CA."""
    latest: dict[tuple[str, bytes], Seen] = {}
    for one in scene.judged:
        name = (one.shown.subject, one.issuer_key)
        if name not in latest or one.shown.not_after > latest[name].shown.not_after:
            latest[name] = one
    for one in scene.judged:
        certificate = one.shown
        # Clusters have the same names for their CAs and users, so only the key tells them apart.
        if not (certificate.place.startswith("users[") and one.is_first and one.issuer_key):
            continue
        new = latest[certificate.subject, one.issuer_key]
        if new.shown.not_after - certificate.not_after > SAME_TIME:
            reason = (
                f"it embeds a certificate until {day(certificate.not_after)};"
                f" {new.shown.path} has one of the same user and the same CA until"
                f" {day(new.shown.not_after)}"
            )
            remedy = take_over(one, new, scene)
            yield remedied("warning", "kubeconfig-old-certificate", one, reason, remedy)


def trusted(scene: Scene) -> Iterator[Finding]:
    """Find kubeconfigs that trust another CA than that of the cluster beside them."""
    files: dict[str, list[Seen]] = {}
    bundles: dict[tuple[str, str], list[Seen]] = {}
    for one in scene.seen:
        path, place = one.shown.path, one.shown.place
        if place.startswith("clusters["):
            bundles.setdefault((path, one.entry.part), []).append(one)
        elif one.shown.is_ca and not place.startswith("users["):
            files.setdefault(path, []).append(one)
    for entry in scene.tree.kubeconfigs:
        cas = next((files[path] for path in _cas_beside(entry) if path in files), None)
        for cluster in entry.kubeconfig.clusters:
            place = f"clusters[{cluster.name}].certificate-authority-data"
            bundle = bundles.get((entry.path, place), [])
            if cas and bundle:
                yield from _compare(bundle, cas, cluster.name, scene)


def _compare(
    bundle: list[Seen], expected: list[Seen], cluster: str, scene: Scene
) -> Iterator[Finding]:
    known = {one.shown.fingerprint for one in expected}
    if any(one.shown.fingerprint in known for one in bundle):
        return
    pair = next(((mine, ca) for mine in bundle for ca in expected if _same_key(mine, ca)), None)
    mine, ca = pair or (bundle[0], expected[0])
    theirs = commands.trust(mine.shown.path, cluster, ca.shown.path)
    inside = commands.show_embedded(mine.shown.path, cluster)
    end, other_end = day(mine.shown.not_after), day(ca.shown.not_after)
    if pair and ca.shown.not_after > mine.shown.not_after:
        reason = (
            f"it embeds the CA of {ca.shown.path} as of an earlier time, until {end} instead of"
            f" {other_end}"
        )
        yield remedied("warning", "kubeconfig-old-ca", mine, reason, Remedy(command=theirs))
    elif pair:
        reason = (
            f"it embeds a later certificate of the CA, until {end}: {ca.shown.path} is the older"
            f" one, until {other_end}"
        )
        yield remedied("warning", "kubeconfig-old-ca", mine, reason, Remedy(command=inside))
    elif _signed_here(ca, bundle, scene):
        reason = f"it trusts another CA than {ca.shown.path}, which did not sign the API server's"
        yield remedied("critical", "kubeconfig-other-ca", mine, reason, Remedy(command=inside))
    else:
        is_in_use = _signed_here(ca, [ca], scene)
        reason = f"it trusts another CA than {ca.shown.path}"
        if is_in_use:
            reason += ", so it cannot verify the API server"
        remedy = Remedy(command=theirs if is_in_use else inside)
        yield remedied("critical", "kubeconfig-other-ca", mine, reason, remedy)


def _same_key(one: Seen, other: Seen) -> bool:
    key = one.entry.facts.public_key
    return bool(key) and key == other.entry.facts.public_key


def _signed_here(ca: Seen, signers: list[Seen], scene: Scene) -> bool:
    """Tell whether one of these CAs signed the API server's certificate beside a CA, or others."""
    folder = f"{folder_of(ca.shown.path)}/"
    leaves = [
        one
        for one in scene.judged
        if one.issuer_key and not one.shown.is_ca and one.shown.path.startswith(folder)
    ]
    served = [one for one in leaves if one.shown.role == "API server, server"] or leaves
    keys = {one.entry.facts.public_key for one in signers}
    return any(one.issuer_key in keys for one in served)


def _cas_beside(entry: KubeconfigEntry) -> Iterator[str]:
    return (beside(entry.path, name) for name in _CAS)


def _is_self_made(certificate: Certificate) -> bool:
    return certificate.role == "kubelet, server" and (
        certificate.chain == "self-signed"
        or _KUBELETS_OWN_CA.fullmatch(certificate.issuer) is not None
    )
