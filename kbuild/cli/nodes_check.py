"""What ``kbuild nodes check`` shows."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from rich.table import Table

from kbuild.base.errors import BadSetting
from kbuild.base.values import day
from kbuild.base.words import counted, shortened
from kbuild.certs.model import Certificate, Finding
from kbuild.cli.console import Screen, plain_table
from kbuild.nodes.api import (
    Checked,
    HostChecked,
    HostsUnchecked,
    Issues,
    Wanted,
    as_one,
    check,
    check_document,
    connections,
    for_reports,
)
from kbuild.nodes.model import Host
from kbuild.settings import NodesCheckSettings

_NOT_KNOWN = "not known"
_MANY = 6  # hosts that are named in a line
_SHORT = 12  # digits of a sha256


def show_check(
    settings: NodesCheckSettings,
    screen: Screen,
    hosts: tuple[Host, ...],
    known: Mapping[str, Issues],
    paths: tuple[str, ...],
) -> None:
    """Check hosts and show the result; raises BadSetting, HostsUnchecked or as demand_longer."""
    from kbuild.certs.api import Reports, demand_longer, write_reports

    for path in paths:
        if not path.startswith("/"):
            reason = "it is not absolute, and the current directory here is none of a node"
            hint = "give the whole path that it has on the nodes, such as /etc/etcd/pki"
            raise BadSetting(name="PATH", value=path, reason=reason, hint=hint)
    wanted = Wanted(
        now=datetime.now(UTC),
        paths=paths,
        kubeadm=settings.path or "",
        known=known,
        parallel=settings.parallel,
    )
    screen.stage("hosts")
    with connections(hosts) as connected:
        checked = check(connected, wanted, screen)
    whole = as_one(checked)
    reports = Reports(html=settings.html, prometheus=settings.prometheus)
    title = counted(len(checked.hosts), "host")
    write_reports(reports, for_reports(checked), title, lambda path: screen.say(f"wrote {path}"))
    screen.result(check_document(checked), list(_lines(checked)))
    if settings.fail_before is not None and checked.hosts:
        demand_longer(whole, settings.fail_before)
    if checked.unreachable:
        raise HostsUnchecked(
            count=f"{len(checked.unreachable)} of {counted(len(hosts), 'host')}",
            details="\n".join(map(str, checked.unreachable)),
        )


def _lines(checked: Checked) -> Iterator[str | Table]:
    if checked.hosts:
        yield _hosts(checked)
        if any(host.issues is None and host.seen.facts.sha256 for host in checked.hosts):
            yield f"{_NOT_KNOWN}: give its release with --release, or see `kbuild verify`."
        yield ""
        has_any = any(host.inventory.certificates for host in checked.hosts)
        yield _certificates(checked) if has_any else "no certificates"
    for each in checked.unreachable:
        yield f"{each.host}: not checked: {each.reason}"
    severity = ""
    for finding, hosts in _merged(checked):
        if finding.severity != severity:
            severity = finding.severity
            yield ""
            yield f"{severity}:"
        where = f"{finding.path} {finding.place}".rstrip()
        yield f"  {hosts}: {where}: {finding.reason} [{finding.kind}]"
        yield f"    {finding.command}"


def _hosts(checked: Checked) -> Table:
    table = plain_table("host", "kubeadm", "sha256", "issues", "package", "backups", "kubelet")
    for each in checked.hosts:
        facts = each.seen.facts
        held = " (held)" if facts.is_held else ""
        table.add_row(
            each.name,
            facts.version or ("cannot run" if facts.sha256 else "none"),
            facts.sha256[:_SHORT],
            _issues(each),
            f"{facts.package}{held}",
            len(facts.generations) if facts.uid == 0 else _NOT_KNOWN,
            facts.kubelet or "none",
        )
    return table


def _issues(host: HostChecked) -> str:
    if not host.seen.facts.sha256:
        return ""
    if host.issues is None:
        return _NOT_KNOWN
    return f"CA {host.issues.ca_years}y, leaf {host.issues.leaf_years}y"


def _certificates(checked: Checked) -> Table:
    """Return a row for each file and its end, with the hosts that have it, by their ends."""
    from kbuild.certs.api import left, without_copies

    rows: dict[tuple[str, ...], list[str]] = {}
    found = [
        (each, host.name, _served(host))
        for host in checked.hosts
        for each in without_copies(host.inventory.certificates)
    ]
    for each, host_name, served in sorted(found, key=lambda one: (one[0].not_after, one[0].path)):
        row = (
            each.path,
            each.role,
            day(each.not_after),
            left(each.time_left(checked.at)),
            "" if each.place else served.get(each.path, ""),
        )
        names = rows.setdefault(row, [])
        if host_name not in names:
            names.append(host_name)
    table = plain_table("host", "certificate", "what", "NotAfter", "left", "served")
    for column in table.columns[:3]:
        column.no_wrap, column.overflow = False, "fold"
    for cells, hosts in rows.items():
        table.add_row(_named(hosts), *cells)
    return table


def _named(hosts: list[str]) -> str:
    """Return the names of hosts, of many only the first."""
    return shortened(sorted(hosts), _MANY)


def _served(host: HostChecked) -> dict[str, str]:
    """Return for each file that a port should serve whether it does."""
    files: dict[str, Certificate] = {
        each.path: each for each in host.inventory.certificates if not each.place
    }
    found: dict[str, list[str]] = {}
    for each in host.served:
        file, shown = files.get(each.port.file), each.certificate
        if file is None:
            continue
        if shown is None:
            state = "unknown"
        elif shown.fingerprint == file.fingerprint:
            state = "yes"
        else:
            state = f"until {day(shown.not_after)}"
        found.setdefault(file.path, []).append(f"{each.port.number}: {state}")
    return {path: ", ".join(states) for path, states in found.items()}


def _merged(checked: Checked) -> Iterator[tuple[Finding, str]]:
    """Yield each finding once, with the hosts that have it, the worst first."""
    hosts: dict[Finding, list[str]] = {each: ["all"] for each in checked.between}
    for host in checked.hosts:
        for each in host.inventory.findings:
            hosts.setdefault(each, []).append(host.name)
    order = ("critical", "warning", "info")
    for each in sorted(hosts, key=lambda found: order.index(found.severity)):
        yield each, _named(hosts[each])
