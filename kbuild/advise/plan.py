"""From a version, a plan and lifetimes to the advice."""

from collections.abc import Mapping, Sequence

from packaging.version import Version

from kbuild.advise.knowledge import (
    LimitEntry,
    Plan,
    RebuildEntry,
    StepEntry,
    facts_of,
    filled,
    limits,
    newest_read,
    rebuilds,
    steps,
)
from kbuild.advise.model import Advice, Cluster, Limit, Rebuild, Step
from kbuild.kubeadm.api import renewal_of
from kbuild.kubeadm.model import DAYS_A_YEAR, STOCK_CA_YEARS, STOCK_LEAF_YEARS, Lifetimes
from kbuild.kubernetes.configuration import configuration_of

_STOCK = Lifetimes(ca_years=STOCK_CA_YEARS, leaf_years=STOCK_LEAF_YEARS)
Values = Mapping[str, int | str]


def advise(tag: str, plan: Plan, lifetimes: Lifetimes, cluster: Cluster | None = None) -> Advice:
    """Return the advice on a whole version such as ``v1.23.0``; ``cluster`` is a living one."""
    version = Version(tag)
    values = _values(tag, version, lifetimes)
    asked = "stock" if lifetimes == _STOCK else "other"
    rebuild = next(entry for entry in rebuilds(version, plan) if asked in entry.asked)
    conditions = {
        "": True,
        "rebuild": rebuild.needed,
        "longer-ca": cluster is None or cluster.is_ca_too_short,
    }
    return Advice(
        version=tag,
        plan=plan,
        lifetimes=lifetimes,
        rebuild=_rebuild(rebuild, values),
        limits=tuple(_limit(entry, values) for entry in limits(version, plan)),
        steps=tuple(_step(e, values) for e in steps(version, plan) if conditions[e.when]),
        cluster=cluster,
        caution=_caution(tag, version),
    )


def _values(tag: str, version: Version, lifetimes: Lifetimes) -> Values:
    years = {"ca_years": str(lifetimes.ca_years), "leaf_years": str(lifetimes.leaf_years)}
    return {
        **facts_of(version),
        **years,
        "signing_flag": f"--{configuration_of(version).signing_flag}",
        "ca_days": str(lifetimes.ca_years * DAYS_A_YEAR),
        "renew": " ".join(renewal_of(version)),
        "version": tag,
    }


def _rebuild(entry: RebuildEntry, values: Values) -> Rebuild:
    return Rebuild(
        needed=entry.needed,
        reason=filled(entry.reason, values),
        optional=_all(entry.optional, values),
    )


def _limit(entry: LimitEntry, values: Values) -> Limit:
    return Limit(
        name=entry.name,
        certificate=entry.certificate,
        lasts=filled(entry.lasts, values),
        reason=filled(entry.reason, values),
        action=filled(entry.action, values),
    )


def _step(entry: StepEntry, values: Values) -> Step:
    return Step(
        name=entry.name,
        title=entry.title,
        where=entry.where,
        text=filled(entry.text, values),
        commands=_all(entry.commands, values),
    )


def _all(texts: Sequence[str], values: Values) -> tuple[str, ...]:
    return tuple(filled(text, values) for text in texts)


def _caution(tag: str, version: Version) -> str:
    newest = newest_read()
    if version.release[:2] <= newest.release[:2]:
        return ""
    return (
        f"This is what is known up to v{newest}. kbuild's data was not compared with the source of"
        f" {tag}: check its release notes."
    )
