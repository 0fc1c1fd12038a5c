"""What shortens the certificates of a node beside kubeadm: signing duration and rotation."""

from collections.abc import Iterator
from datetime import timedelta

from packaging.version import InvalidVersion, Version

from kbuild.base.values import day
from kbuild.base.words import counted
from kbuild.certs.model import Certificate, Finding, Inventory, Severity
from kbuild.kubernetes.configuration import eras
from kbuild.kubernetes.durations import duration
from kbuild.kubernetes.facts import facts_of
from kbuild.nodes.check.seen import NodeSeen
from kbuild.nodes.model import Issues

SERVING = "/var/lib/kubelet/pki/kubelet.crt"
# What is found of that file, and what `kbuild certs` finds of it without kubelet's settings.
NOT_RENEWED, SELF_SIGNED = "kubelet-serving-not-renewed", "kubelet-serving-self-signed"
_KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
_MANAGER = "kube-controller-manager"
_MANIFEST = f"/etc/kubernetes/manifests/{_MANAGER}.yaml"
_YEAR = timedelta(days=365)
_TOLERANCE = timedelta(days=1)
_STOCK_YEARS = Issues(ca_years=10, leaf_years=1)


def lasting(seen: NodeSeen, inventory: Inventory, issues: Issues | None) -> Iterator[Finding]:
    """Yield what keeps certificates shorter than those of kubeadm, with the command to type."""
    yield from _signing(seen, inventory, issues)
    if _KUBELET_CONFIG in seen.changed:
        yield from _rotation(seen, inventory, issues)
        yield from _serving(seen, inventory, issues)


def _signing(seen: NodeSeen, inventory: Inventory, issues: Issues | None) -> Iterator[Finding]:
    component = seen.components.get(_MANAGER)
    version = _version(component.version) if component else None
    if component is None or version is None:
        return
    names = {era.signing_flag for era in eras()} & component.flags.keys()
    stock = timedelta(days=int(facts_of(version)["signing"]))
    given = [duration(component.flags[name]) for name in names]
    signs = given[0] if len(given) == 1 else None if given else stock
    if signs is None:  # it is not known
        return
    because = f"as --{names.pop()} says" if names else "its default"
    command = config_command(component.version, inventory, issues)
    leaf = issues.leaf_years * _YEAR if issues else None
    if signs <= stock and (leaf is None or leaf > signs):
        reason = f"it signs the certificates of kubelets for {_days(signs)}, {because}"
        if issues:
            reason += f"; this kubeadm issues for {counted(issues.leaf_years, 'year')}"
        severity: Severity = "warning" if issues else "info"
        yield _finding(severity, "signing-duration", _MANIFEST, reason, command)
    ca = _of_file(inventory, component.flags.get("cluster-signing-cert-file", ""))
    # One that was made for the lifetime of a CA goes beyond its end as soon as the CA has an age.
    if ca and signs > ca.lifetime + _TOLERANCE:
        reason = (
            f"it would sign for {_days(signs)}, and its CA {ca.path} ends on {day(ca.not_after)}:"
            " nothing that it signs is valid longer than that"
        )
        yield _finding("info", "signing-beyond-ca", _MANIFEST, reason, command)


def _rotation(seen: NodeSeen, inventory: Inventory, issues: Issues | None) -> Iterator[Finding]:
    if seen.kubelet.get("rotateCertificates") != "true":
        reason = "rotateCertificates is not true in it, so kubelet does not renew its certificate"
        command = config_command(seen.facts.kubelet, inventory, issues)
        yield _finding("warning", "kubelet-rotation-off", _KUBELET_CONFIG, reason, command)


def _serving(seen: NodeSeen, inventory: Inventory, issues: Issues | None) -> Iterator[Finding]:
    if seen.kubelet.get("serverTLSBootstrap") == "true" or seen.kubelet.get("tlsCertFile"):
        return
    own = _of_file(inventory, SERVING)
    if own and own.lifetime <= _YEAR + _TOLERANCE:
        reason = (
            f"kubelet made it itself, until {day(own.not_after)}, and nobody renews it: neither"
            f" kubeadm nor, without serverTLSBootstrap in {_KUBELET_CONFIG}, the cluster"
        )
        command = config_command(seen.facts.kubelet, inventory, issues)
        yield _finding("info", NOT_RENEWED, SERVING, reason, command)


def config_command(version: str, inventory: Inventory, issues: Issues | None) -> str:
    """Return the command that writes what must be changed in the configuration of a cluster."""
    years = issues or _years_of(inventory)
    tag = version if _version(version) else "VERSION"
    return (
        f"kbuild config --version {tag} --ca-years {years.ca_years}"
        f" --leaf-years {years.leaf_years} --for living"
    )


def _years_of(inventory: Inventory) -> Issues:
    """Return the lifetimes that the certificates of a cluster have, or those of kubeadm."""

    def years(path: str) -> int:
        found = _of_file(inventory, f"/etc/kubernetes/pki/{path}")
        return max(round(found.lifetime / _YEAR), 1) if found else 0

    ca = years("ca.crt") or _STOCK_YEARS.ca_years
    return Issues(
        ca_years=ca, leaf_years=min(years("apiserver.crt") or _STOCK_YEARS.leaf_years, ca)
    )


def _of_file(inventory: Inventory, path: str) -> Certificate | None:
    return next((c for c in inventory.certificates if c.path == path and not c.place), None)


def _days(lifetime: timedelta) -> str:
    return counted(lifetime // timedelta(days=1), "day")


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _finding(severity: Severity, kind: str, path: str, reason: str, command: str) -> Finding:
    return Finding(
        severity=severity, kind=kind, path=path, place="", reason=reason, command=command
    )
