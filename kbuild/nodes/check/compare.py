"""What differs between the control planes of one cluster, which should be alike."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial

from kbuild.base.values import day
from kbuild.certs.model import Certificate, Finding
from kbuild.nodes.check.checked import HostChecked

# What is the node's own: its addresses and its name.
_OWN = (
    *("advertise-address", "bind-address", "name", "initial-cluster", "initial-cluster-state"),
    *("advertise-client-urls", "initial-advertise-peer-urls", "listen-client-urls"),
    *("listen-peer-urls", "listen-metrics-urls", "etcd-servers"),
)
_SAME_TIME = timedelta(days=1)
_PKI = "/etc/kubernetes/"


def between(hosts: Sequence[HostChecked]) -> Iterator[Finding]:
    """Yield what differs between control planes, with the hosts of each value."""
    planes = [host for host in hosts if host.seen.facts.is_control_plane]
    if len(planes) < 2:  # noqa: PLR2004  # one differs from nothing
        return
    yield from _facts(planes)
    yield from _flags(planes)
    yield from _dates(planes)


def _facts(planes: Sequence[HostChecked]) -> Iterator[Finding]:
    yield from _differing(
        *("kubeadm", "kubeadm", planes, 'sha256sum "$(command -v kubeadm)"'),
        lambda host: f"{host.seen.facts.version} {host.seen.facts.sha256[:12]}".strip() or "none",
    )
    yield from _differing(
        *("kubelet", "kubelet", planes, "kubelet --version"),
        lambda host: host.seen.facts.kubelet or "none",
    )


def _flags(planes: Sequence[HostChecked]) -> Iterator[Finding]:
    for name in sorted({name for host in planes for name in host.seen.components}):
        path = f"/etc/kubernetes/manifests/{name}.yaml"
        flags = {flag for host in planes for flag in _flags_of(host, name)} - set(_OWN)
        yield from _differing(
            path, "image", planes, f"grep image: {path}", partial(_image, name=name)
        )
        for flag in sorted(flags):
            look = f"grep -e --{flag} {path}"
            value = partial(_flag, name=name, flag=flag)
            yield from _differing(path, f"--{flag}", planes, look, value)


def _flag(host: HostChecked, name: str, flag: str) -> str:
    return _flags_of(host, name).get(flag, "not set")


def _flags_of(host: HostChecked, name: str) -> dict[str, str]:
    component = host.seen.components.get(name)
    return component.flags if component else {}


def _image(host: HostChecked, name: str) -> str:
    component = host.seen.components.get(name)
    return component.image if component else "none"


def _dates(planes: Sequence[HostChecked]) -> Iterator[Finding]:
    """Find files of one name that end at different times."""
    ends: dict[tuple[str, str], dict[str, Certificate]] = {}
    for host in planes:
        for each in host.inventory.certificates:
            if each.path.startswith(_PKI) and not each.path.endswith("/kubelet.conf"):
                ends.setdefault((each.path, each.place), {})[host.name] = each
    for (path, _), found in sorted(ends.items()):
        dates = [each.not_after for each in found.values()]
        if max(dates) - min(dates) > _SAME_TIME:
            values = {host: day(each.not_after) for host, each in found.items()}
            yield _finding(
                path, "NotAfter", values, f"kbuild nodes check --hosts {','.join(found)}"
            )


def _differing(
    path: str,
    what: str,
    planes: Sequence[HostChecked],
    command: str,
    value: Callable[[HostChecked], str],
) -> Iterator[Finding]:
    values = {host.name: value(host) for host in planes}
    if len(set(values.values())) > 1:
        yield _finding(path, what, values, command)


def _finding(path: str, what: str, values: dict[str, str], command: str) -> Finding:
    hosts: dict[str, list[str]] = {}
    for host, value in values.items():
        hosts.setdefault(value, []).append(host)
    listed = "; ".join(f"{', '.join(names)}: {value}" for value, names in hosts.items())
    return Finding(
        severity="warning",
        kind="control-planes-differ",
        path=path,
        place="",
        reason=f"{what} differs: {listed}",
        command=command,
    )
