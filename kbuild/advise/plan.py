"""From a version, a plan and lifetimes to the advice."""

from collections.abc import Mapping, Sequence

from packaging.version import Version

from kbuild.advise.knowledge import (
    LimitEntry,
    Plan,
    RebuildEntry,
    StepEntry,
    filled,
    limits,
    rebuilds,
    steps,
)
from kbuild.advise.model import Advice, Cluster, Limit, Rebuild, Step
from kbuild.kubeadm.model import DAYS_A_YEAR, STOCK_CA_YEARS, STOCK_LEAF_YEARS, Lifetimes
from kbuild.kubernetes.configuration import configuration_of
from kbuild.kubernetes.facts import facts_of, newest_read
from kbuild.kubernetes.renewal import renewal_of

_STOCK = Lifetimes(ca_years=STOCK_CA_YEARS, leaf_years=STOCK_LEAF_YEARS)
Values = Mapping[str, int | str]


def advise(tag: str, plan: Plan, lifetimes: Lifetimes, cluster: Cluster | None = None) -> Advice:
    """Return the advice on a whole version such as ``v1.23.0``; ``cluster`` is a living one."""
    version = Version(tag)
    conditions = _conditions(cluster)
    values = _values(tag, version, lifetimes, cluster)
    asked = "stock" if lifetimes == _STOCK else "other"
    rebuild = next(entry for entry in rebuilds(version, plan) if asked in entry.asked)
    conditions["rebuild"] = rebuild.needed
    return Advice(
        version=tag,
        plan=plan,
        lifetimes=lifetimes,
        rebuild=_rebuild(rebuild, values),
        limits=tuple(_limit(entry, values) for entry in limits(version, plan)),
        steps=tuple(_step(e, values) for e in steps(version, plan) if _holds(e, conditions)),
        cluster=cluster,
        caution=_caution(tag, version),
    )


def _conditions(cluster: Cluster | None) -> dict[str, bool]:
    """Return whether each word of steps.toml holds; without certificates, all is to be done."""
    is_ca_too_short = cluster is None or cluster.is_ca_too_short
    is_leaf_too_short = cluster is None or cluster.is_leaf_too_short
    is_kubelet_too_short = cluster is None or cluster.is_kubelet_too_short
    is_worker = cluster is not None and cluster.is_worker
    is_over = cluster is not None and cluster.has_expired
    is_kubelet_over = cluster is not None and cluster.has_expired_kubelet
    renews = is_leaf_too_short and not is_worker
    return {
        "longer-ca": is_ca_too_short,
        "control-plane": not is_worker,
        "worker": is_worker,
        "stacked-etcd": cluster is None or cluster.has_etcd,
        "expired": is_over,
        "kubelet-expired": is_kubelet_over,
        "rejoin": is_kubelet_over or is_over,
        "ca-keys": cluster is None or cluster.has_ca_keys,
        "external-ca": cluster is not None and bool(cluster.without_key),
        "renew": renews,
        "restart": renews or is_ca_too_short,
        "change": renews or is_ca_too_short or is_kubelet_too_short,
    }


def _holds(entry: StepEntry, conditions: Mapping[str, bool]) -> bool:
    return all(
        conditions[word.removeprefix("not ")] is not word.startswith("not ") for word in entry.when
    )


def _values(tag: str, version: Version, lifetimes: Lifetimes, cluster: Cluster | None) -> Values:
    expired = cluster is not None and cluster.has_expired
    without_key = cluster.without_key if cluster else ()
    years = {"ca_years": str(lifetimes.ca_years), "leaf_years": str(lifetimes.leaf_years)}
    return {
        **facts_of(version),
        **years,
        "signing_flag": f"--{configuration_of(version).signing_flag}",
        "ca_days": str(lifetimes.ca_years * DAYS_A_YEAR),
        "renew": " ".join(renewal_of(version).renew),
        "verify": f"openssl verify{' -no_check_time' if expired else ''}",
        "missing_keys": ", ".join(each.path for each in without_key),
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
