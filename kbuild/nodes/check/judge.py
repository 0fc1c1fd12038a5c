"""What is wrong with a node besides its files: what it serves, and what it has not reread."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from packaging.version import InvalidVersion, Version

from kbuild.base.values import day
from kbuild.base.words import counted, shortened
from kbuild.certs.model import Certificate, Finding, Inventory, Severity
from kbuild.kubernetes.configuration import configuration_of
from kbuild.kubernetes.durations import duration
from kbuild.kubernetes.facts import facts_of
from kbuild.nodes.check.lasting import config_command, lasting
from kbuild.nodes.check.seen import KUBELET, Component, NodeSeen
from kbuild.nodes.check.served import Served
from kbuild.nodes.model import Issues

_MANIFESTS = "/etc/kubernetes/manifests"
_KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
_JOURNAL = "journalctl -u kubelet -n 50"
_CRITICAL, _WARNING = timedelta(days=30), timedelta(days=90)  # as `kbuild certs` has them
_MAX_SKEW = 60  # seconds
_STOCK_LEAF = timedelta(days=365)
# The start of a process is known to a second only.
_SAME_TIME = timedelta(seconds=3)
# Flags with files of certificates, keys and kubeconfigs.
_FILES = re.compile(r"cert|key|ca-?file|kubeconfig")
_LONGEST_LIST = 4


def of_node(
    seen: NodeSeen, inventory: Inventory, served: Sequence[Served], issues: Issues | None
) -> Iterator[Finding]:
    """Yield what is wrong with a node, judged by the moment of its inventory."""
    now = inventory.read_at
    yield from _access(seen)
    yield from _silent(seen, served)
    yield from _stale(seen, inventory, served)
    yield from _loopback(seen, now)
    yield from _self_made(served, now)
    yield from _stored(seen, inventory, issues)
    yield from lasting(seen, inventory, issues)


def restart(component: str) -> str:
    """Return the command that restarts a static pod, or kubelet."""
    if component == KUBELET:
        return "systemctl restart kubelet"
    return f"cd {_MANIFESTS} && mv {component}.yaml .. && sleep 20 && mv ../{component}.yaml ."


def _finding(severity: Severity, kind: str, path: str, reason: str, command: str) -> Finding:
    return Finding(
        severity=severity, kind=kind, path=path, place="", reason=reason, command=command
    )


def _access(seen: NodeSeen) -> Iterator[Finding]:
    facts = seen.facts
    if facts.uid != 0:
        reason = "the user is not root there, so not all files could be read"
        command = "give the same command with --sudo, or with --user root"
        yield _finding("warning", "unreadable", "/", reason, command)
    skew = round(facts.clock - facts.asked_at)
    if abs(skew) > _MAX_SKEW:
        reason = f"its clock differs from ours by {counted(abs(skew), 'second')}"
        yield _finding("warning", "clock-skew", "/", reason, "timedatectl status")
    if seen.is_cut:
        reason = "there are more files than are read"
        command = f"kbuild nodes check --hosts {seen.name}"
        yield _finding("warning", "too-many-files", "/", reason, command)


def _silent(seen: NodeSeen, served: Sequence[Served]) -> Iterator[Finding]:
    """Find programs that do not run, and ports that do not answer."""
    stopped = {name for name in seen.components if seen.started and name not in seen.started}
    for name in sorted(stopped):
        reason = "its manifest is there, and no process of it runs"
        yield _finding("critical", "not-running", _manifest(name), reason, _JOURNAL)
    for each in served:
        name = each.port.component
        if each.certificate is None and name not in stopped:
            reason = f"port {each.port.number} shows no certificate: {each.problem}"
            yield _finding("warning", "not-served", _manifest(name), reason, _JOURNAL)


def _stale(seen: NodeSeen, inventory: Inventory, served: Sequence[Served]) -> Iterator[Finding]:
    """Find programs that still use what was in files when they started."""
    files = {each.path: each for each in inventory.certificates if not each.place}
    for name in (*seen.components, KUBELET):
        mine = [each for each in served if each.port.component == name and each.certificate]
        old = [why for each in mine if (why := _older(each, files))]
        if old:
            severity = _urgency(mine, inventory.read_at)
            yield _finding(severity, "restart-needed", _manifest(name), old[0], restart(name))
            continue
        yield from _differing(mine, files, name)
        fresh = {path for each in mine for path in _pair(seen, name, each.port.file)}
        if changed := _changed_since(seen, name, fresh):
            reason = (
                f"it started on {_moment(seen.started[name])}, before {_listed(changed)} changed"
            )
            yield _finding("warning", "restart-needed", _manifest(name), reason, restart(name))


def _older(each: Served, files: dict[str, Certificate]) -> str:
    """Return why a served certificate is older than its file, or nothing if it is not."""
    file, shown = files.get(each.port.file), each.certificate
    if file is None or shown is None or shown.fingerprint == file.fingerprint:
        return ""
    if (file.not_after, file.not_before) <= (shown.not_after, shown.not_before):
        return ""
    return (
        f"port {each.port.number} serves a certificate until {day(shown.not_after)};"
        f" {file.path} has a later one, until {day(file.not_after)}"
    )


def _urgency(served: Sequence[Served], now: datetime) -> Severity:
    ends = [each.certificate.not_after for each in served if each.certificate]
    return "critical" if min(ends) - now < _CRITICAL else "warning"


def _differing(
    served: Sequence[Served], files: dict[str, Certificate], name: str
) -> Iterator[Finding]:
    for each in served:
        file, shown = files.get(each.port.file), each.certificate
        if file and shown and shown.fingerprint != file.fingerprint:
            reason = (
                f"port {each.port.number} serves another certificate than {file.path}, until"
                f" {day(shown.not_after)}"
            )
            yield _finding("warning", "served-differs", _manifest(name), reason, restart(name))


def _pair(seen: NodeSeen, name: str, file: str) -> Iterator[str]:
    """Yield a file that is served as it is, and that of its key, which are thus in use."""
    yield file
    component = seen.components.get(name)
    for flag, value in component.flags.items() if component else ():
        if value == file and "cert" in flag:
            key = flag.replace("tls-cert-file", "tls-private-key-file").replace("cert-", "key-")
            yield component.flags.get(key, "") if component else ""


def _changed_since(seen: NodeSeen, name: str, fresh: set[str]) -> list[str]:
    """Return the files that a program uses and that were changed after it started."""
    began = seen.started.get(name)
    if began is None:
        return []
    component = seen.components.get(name)
    used = [_KUBELET_CONFIG] if component is None else _used(component)
    return sorted(
        path
        for path in set(used) - fresh
        if path in seen.changed and seen.changed[path] > began + _SAME_TIME
    )


def _used(component: Component) -> list[str]:
    flags = component.flags.items()
    return [value for name, value in flags if value.startswith("/") and _FILES.search(name)]


def _loopback(seen: NodeSeen, now: datetime) -> Iterator[Finding]:
    component, began = seen.components.get("kube-apiserver"), seen.started.get("kube-apiserver")
    version = _version(component.version) if component else None
    if began is None or version is None:
        return
    end = began + timedelta(days=int(facts_of(version)["loopback"]))
    if end - now < _WARNING:
        verb = "expired" if end <= now else "expires"
        reason = (
            f"it has run since {_moment(began)}; the certificate that it made then for connections"
            f" to itself {verb} on {day(end)}, and only a restart makes another one"
        )
        severity: Severity = "critical" if end - now < _CRITICAL else "warning"
        path = _manifest("kube-apiserver")
        yield _finding(severity, "loopback-expires", path, reason, restart("kube-apiserver"))


def _self_made(served: Sequence[Served], now: datetime) -> Iterator[Finding]:
    """Find certificates that a program made for itself, in memory, and that end."""
    for each in served:
        shown, name = each.certificate, each.port.component
        if shown and not each.port.file and shown.not_after - now < _CRITICAL:
            verb = "expired" if shown.not_after <= now else "expires"
            reason = (
                f"the certificate that it made for port {each.port.number} {verb} on"
                f" {day(shown.not_after)}; a restart makes another one"
            )
            yield _finding("info", "served-expires", _manifest(name), reason, restart(name))


def _stored(seen: NodeSeen, inventory: Inventory, issues: Issues | None) -> Iterator[Finding]:
    """Find lifetimes stored in the cluster, which kubeadm prefers to those it was built for."""
    stored = seen.stored
    if stored is None or not stored.leaf:
        return
    path = "kube-system/kubeadm-config"
    version = _version(seen.facts.version)
    if version and not configuration_of(version).validity:
        return  # this kubeadm does not read them
    leaf = duration(stored.leaf)
    if issues and leaf is not None and leaf >= timedelta(days=issues.leaf_years * 365):
        return
    is_default = leaf == _STOCK_LEAF
    but = (
        "except one of `--stored-defaults override`, which takes stock's defaults as not set"
        if is_default
        else "whatever it was built for"
    )
    reason = (
        f"certificateValidityPeriod is {stored.leaf} in it, and caCertificateValidityPeriod"
        f" {stored.ca or 'not set'}; kubeadm renews for that time, {but}"
    )
    if issues:
        reason += f"; this one was built for {counted(issues.leaf_years, 'year')}"
    severity: Severity = "warning" if issues and not is_default else "info"
    command = config_command(seen.facts.version, inventory, issues)
    yield _finding(severity, "stored-lifetimes", path, reason, command)


def _manifest(component: str) -> str:
    return component if component == KUBELET else f"{_MANIFESTS}/{component}.yaml"


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _moment(utc: datetime) -> str:
    return f"{day(utc)} {utc:%H:%M} UTC"


def _listed(paths: list[str]) -> str:
    return shortened(paths, _LONGEST_LIST)
