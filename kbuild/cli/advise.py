"""``kbuild advise``: what expires in a cluster of a version, and what to do in which order."""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from kbuild.advise.api import Advice, Cluster, Limit, Plan, Step, advise, cluster_of, next_request
from kbuild.base.values import day, rfc3339
from kbuild.base.words import years
from kbuild.certs.model import Certificate, Finding
from kbuild.cli.boundary import begin
from kbuild.cli.console import Screen, visible
from kbuild.cli.options import command_app, takes
from kbuild.cli.tags import whole_tag
from kbuild.kubeadm.model import Lifetimes
from kbuild.settings import AdviseSettings

_WIDTH = 80
# What a page shows of a cluster: of each kind those that expire first, and the worst findings.
_FIRST, _SHOWN = 3, 8
_INDENT, _DEEP = "  ", "     "
_LISTED = "`kbuild certs PATH…` lists them"
_ONE_RELEASE = "the advice is for one patch release, not a minor version or several versions"

app = command_app()


@app.command("advise")
@takes(AdviseSettings)
def advise_command(
    ctx: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            readable=False,
            help="Files and directories with the certificates of a cluster.",
        ),
    ] = None,
) -> None:
    """Tell what expires in a cluster of a version, and what to do in which order."""
    settings, screen = begin(ctx, AdviseSettings)
    [versions] = settings.required("version")
    tag, lifetimes = whole_tag(versions, _ONE_RELEASE), settings.wished()
    cluster = _read(tuple(paths), lifetimes, screen) if paths else None
    plan: Plan = "living" if settings.living or cluster else "new"
    advice = advise(tag, plan, lifetimes, cluster)
    screen.result(_document(advice), _lines(advice))


def _read(paths: tuple[Path, ...], lifetimes: Lifetimes, screen: Screen) -> Cluster:
    from kbuild.certs.api import take_inventory

    try:
        return cluster_of(take_inventory(paths, datetime.now(UTC), screen), lifetimes)
    finally:
        screen.close()


def _lines(advice: Advice) -> Iterator[str]:
    yield from _wrapped(_headline(advice))
    yield from _part("Do you need another kubeadm?")
    yield from _wrapped(f"{_answer(advice)} {advice.rebuild.reason}", _INDENT)
    yield from _commands(advice.rebuild.optional)
    if advice.cluster:
        yield from _part("What is in this cluster")
        yield from _cluster_lines(advice.cluster, advice.lifetimes)
    yield from _part("What stays short, whatever kubeadm does")
    for limit in advice.limits:
        yield from _limit_lines(limit)
    yield from _part("What to do, in this order")
    for number, step in enumerate(advice.steps, 1):
        yield from _step_lines(number, step)
    if advice.caution:
        yield ""
        yield from _wrapped(advice.caution)


def _headline(advice: Advice) -> str:
    cluster = "a new cluster" if advice.plan == "new" else "a cluster that exists"
    lifetimes = advice.lifetimes
    return (
        f"Kubernetes {advice.version}, {cluster}: CAs for {years(lifetimes.ca_years)}, other"
        f" certificates for {years(lifetimes.leaf_years)} (--ca-years, --leaf-years)."
    )


def _answer(advice: Advice) -> str:
    return "Yes." if advice.rebuild.needed else "No."


def _cluster_lines(cluster: Cluster, lifetimes: Lifetimes) -> Iterator[str]:
    for kind, shown in (
        (cluster.authorities, _SHOWN),
        (cluster.kubelets, _SHOWN),
        (cluster.others, _FIRST),
    ):
        for certificate in kind[:shown]:
            yield from _certificate_lines(certificate, cluster.read_at)
        if (rest := len(kind) - shown) > 0:
            yield f"{_INDENT}{rest} more, none of which expires earlier: {_LISTED}"
    yield from _wrapped(_forecast(cluster, lifetimes), _INDENT)
    for finding in cluster.findings[:_SHOWN]:
        yield from _finding_lines(finding)
    if (rest := len(cluster.findings) - _SHOWN) > 0:
        yield f"{_INDENT}{rest} more findings: {_LISTED}"


def _forecast(cluster: Cluster, lifetimes: Lifetimes) -> str:
    issued = (
        f"A certificate issued now for {years(lifetimes.leaf_years)} ends {day(cluster.leaf_end)}"
    )
    if not cluster.authorities:
        return f"{issued}. No CA was found here, so compare that with the end of yours."
    first = cluster.authorities[0]
    if cluster.is_ca_too_short:
        return (
            f"{issued}, but {first.path} ends {day(first.not_after)}, and everything with it."
            f" Signed again now, it would end {day(cluster.ca_end)}."
        )
    if first.not_after < cluster.leaf_end:
        return f"{issued}. {first.path} ends {day(first.not_after)}, which is late enough."
    return f"{issued}; every CA here lasts longer, so none needs to be signed again."


def _certificate_lines(certificate: Certificate, now: datetime) -> Iterator[str]:
    from kbuild.certs.api import left

    time = certificate.time_left(now)
    word = f"expired {left(-time)} ago" if time < timedelta() else f"{left(time)} left"
    end = f"{day(certificate.not_after)}, {word}"
    yield from _wrapped(f"{end}: {certificate.role}, {certificate.path}", _INDENT)
    if time > timedelta() and (moments := next_request(certificate)):
        first, last = map(day, moments)
        asks = f"asks for its next one between {first} and {last}"
        if now > moments[1]:
            asks = f"should have asked for its next one by {last}"
        yield f"{_DEEP}The kubelet {asks}."


def _finding_lines(finding: Finding) -> Iterator[str]:
    yield from _wrapped(f"{finding.severity}: {finding.path}: {finding.reason}", _INDENT)
    yield from _commands((finding.command,) if finding.command else ())


def _limit_lines(limit: Limit) -> Iterator[str]:
    yield from _wrapped(f"{limit.certificate}: {limit.lasts}.", _INDENT)
    yield from _wrapped(f"{limit.reason} {limit.action}".strip(), _DEEP)


def _step_lines(number: int, step: Step) -> Iterator[str]:
    yield f"{number:>2}. {step.title}"
    yield f"{_DEEP}Where: {step.where}"
    yield from _wrapped(step.text, _DEEP)
    yield from _commands(step.commands)


def _commands(commands: Iterable[str]) -> Iterator[str]:
    for command in commands:
        for line in command.splitlines():
            yield f"{_DEEP} {line}"


def _part(title: str) -> Iterator[str]:
    yield from ("", title)


def _wrapped(text: str, indent: str = "") -> list[str]:
    # Escaped before it is wrapped: a line end in a file name would become a blank.
    return textwrap.wrap(
        visible(text),
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _document(advice: Advice) -> dict[str, object]:
    return {
        "version": advice.version,
        "plan": advice.plan,
        "ca_years": advice.lifetimes.ca_years,
        "leaf_years": advice.lifetimes.leaf_years,
        "rebuild": asdict(advice.rebuild),
        "limits": [asdict(limit) for limit in advice.limits],
        "steps": [asdict(step) for step in advice.steps],
        "cluster": _cluster_document(advice.cluster) if advice.cluster else None,
        "caution": advice.caution,
    }


def _cluster_document(cluster: Cluster) -> dict[str, object]:
    return {
        "read_at": rfc3339(cluster.read_at),
        "paths": list(cluster.paths),
        "authorities": [_certificate_document(each) for each in cluster.authorities],
        "kubelets": [_certificate_document(each) for each in cluster.kubelets],
        "others": [_certificate_document(each) for each in cluster.others],
        "ca_too_short": cluster.is_ca_too_short,
        "ca_end": rfc3339(cluster.ca_end),
        "leaf_end": rfc3339(cluster.leaf_end),
        "findings": [asdict(finding) for finding in cluster.findings],
    }


def _certificate_document(certificate: Certificate) -> dict[str, object]:
    moments = next_request(certificate)
    return {
        "path": certificate.path,
        "place": certificate.place,
        "role": certificate.role,
        "not_after": rfc3339(certificate.not_after),
        "next_request": [rfc3339(moment) for moment in moments] if moments else None,
    }
