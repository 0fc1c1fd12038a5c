"""Lifetimes that a cluster stores since v1.31, which its kubeadm obeys: shown, kept or changed."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from kbuild.base.words import counted
from kbuild.kubernetes.durations import duration
from kbuild.nodes.connection import (
    CallFailed,
    Connection,
    ConnectionFailed,
    first_of,
    values_of,
)
from kbuild.nodes.model import HostPlan, Refusal, Step
from kbuild.nodes.renew.calls import call
from kbuild.nodes.renew.facts import ASK_AGAIN, ControlPlane, issued_for_trial
from kbuild.nodes.renew.health import TOLERANCE
from kbuild.nodes.renew.undo import Backup

Wish = Literal["keep", "change"]
_STORE = "store-lifetimes"
MAP = "kube-system/kubeadm-config"
_LEAF = re.compile(r"^certificateValidityPeriod: *[\"']?([0-9hms]+)", re.MULTILINE)
_CA = re.compile(r"^caCertificateValidityPeriod: *[\"']?([0-9hms]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredConfiguration:
    """The ClusterConfiguration of a cluster, and the resourceVersion of its ConfigMap."""

    text: str
    revision: str

    @property
    def leaf(self) -> str:
        """Return the stored lifetime of leaf certificates, as Go writes it, or an empty text."""
        found = _LEAF.search(self.text)
        return found[1] if found else ""

    @property
    def ca(self) -> str:
        """Return the stored lifetime of CAs, as Go writes it, or an empty text."""
        found = _CA.search(self.text)
        return found[1] if found else ""

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A stored configuration, and the text that takes its place."""

    before: StoredConfiguration
    after: str


def read_stored(
    planes: Sequence[ControlPlane], connections: Mapping[str, Connection]
) -> StoredConfiguration | None:
    """Return what the cluster stores; None if no control plane has a kubectl that can read it."""
    for plane in planes:
        if not plane.kubectl:
            continue
        try:
            values = values_of(connections[plane.name].call(call("configuration", plane.kubectl)))
            text = base64.b64decode(first_of(values, "configuration"), validate=True).decode()
        except (CallFailed, ConnectionFailed, binascii.Error, UnicodeDecodeError):
            continue
        return StoredConfiguration(text=text, revision=first_of(values, "revision"))
    return None


def built_for(plane: ControlPlane) -> timedelta:
    """Return the lifetime that a kubeadm was built for: as recorded, or as it issues for trial."""
    issues = plane.facts.issues
    return timedelta(days=365 * issues.leaf_years) if issues else plane.lifetime


def obeying(
    planes: Sequence[ControlPlane],
    stored: StoredConfiguration,
    wish: Wish | None,
    connections: Mapping[str, Connection],
) -> tuple[list[ControlPlane], list[Refusal]]:
    """Return control planes with the lifetimes that their kubeadm will issue.

    Each kubeadm issues for trial with the stored lifetime, because one that was built with
    ``--stored-defaults override`` takes stock's defaults as not set. If what it then issues is
    shorter than what it was built for, only the user can tell which is right: without a wish there
    is a refusal.
    """
    leaf = duration(stored.leaf)
    if leaf is None:
        return list(planes), []
    if not _is_short(planes, leaf):
        return [replace(each, lifetime=leaf, is_stored=True) for each in planes], []
    issued, refused = _issued(planes, stored.leaf, connections)
    if not refused and all(each >= built_for(planes[0]) - TOLERANCE for each in issued):
        return [replace(each, ignores_stored=True) for each in planes], []
    if not refused and wish is None:
        reason = (
            f"{MAP} stores {_shown(stored.leaf)} for certificates, which kubeadm obeys since v1.31;"
            f" this one was built for {_days(built_for(planes[0]))}"
        )
        todo = (
            "give --stored-values change, which stores what kubeadm was built for, or"
            " --stored-values keep, to renew for what is stored"
        )
        refused = [planes[0].refusal(reason, todo)]
    if refused:
        return [], refused
    if wish == "keep":
        pairs = zip(planes, issued, strict=True)
        return [replace(each, lifetime=lifetime, is_stored=True) for each, lifetime in pairs], []
    return list(planes), []


def _issued(
    planes: Sequence[ControlPlane], leaf: str, connections: Mapping[str, Connection]
) -> tuple[list[timedelta], list[Refusal]]:
    """Return what kubeadm issues on each control plane if this lifetime is stored."""
    issued, refused = [], []
    for each in planes:
        try:
            issued.append(issued_for_trial(each.facts, connections[each.name], leaf))
        except (CallFailed, ConnectionFailed, LookupError, ValueError) as error:
            refused.append(each.refusal(str(error), ASK_AGAIN))
    return issued, refused


def is_changed(planes: Sequence[ControlPlane], stored: StoredConfiguration, wish: str) -> bool:
    """Tell whether what is stored is to be changed."""
    leaf = duration(stored.leaf)
    return wish == "change" and leaf is not None and _is_short(planes, leaf)


def _is_short(planes: Sequence[ControlPlane], leaf: timedelta) -> bool:
    return leaf < built_for(planes[0]) - TOLERANCE


def with_change(
    plans: Sequence[HostPlan], planes: Sequence[ControlPlane], change: Change
) -> list[HostPlan]:
    """Return plans of which the first to renew stores other lifetimes, after its backup."""
    found = list(plans)
    kubectls = {each.name: each.kubectl for each in planes}
    for number, plan in enumerate(found):
        names = [step.name for step in plan.steps]
        if "back-up" in names:
            at = names.index("back-up") + 1
            generation = plan.steps[at - 1].do.arguments[0]
            step = _store_step(change, kubectls[plan.host.name], generation)
            found[number] = replace(plan, steps=(*plan.steps[:at], step, *plan.steps[at:]))
            break
    return found


def with_notes(
    plans: Sequence[HostPlan],
    stored: StoredConfiguration | None,
    change: Change | None,
    *,
    is_ignored: bool,
) -> list[HostPlan]:
    """Return plans of which the first says what is stored, and what becomes of it."""
    becomes = "and kubeadm obeys it"
    if is_ignored:
        becomes = "stock's defaults, which this kubeadm takes as not set"
    if change:
        is_there = any(step.name == _STORE for plan in plans for step in plan.steps)
        becomes = "and is changed first" if is_there else "and stays, because nothing is renewed"
    first, *others = plans
    return [replace(first, notes=(*first.notes, *_notes(stored, becomes))), *others]


def _notes(stored: StoredConfiguration | None, becomes: str) -> Iterator[str]:
    if stored is None:
        yield f"it is not known what {MAP} stores, which kubeadm obeys since v1.31"
    elif stored.leaf:
        yield (
            f"{MAP} stores {_shown(stored.leaf)} for certificates and {_shown(stored.ca)} for CAs,"
            f" {becomes}"
        )


def _store_step(change: Change, kubectl: str, generation: str) -> Step:
    before, after = change.before, StoredConfiguration(text=change.after, revision="")
    what = (
        f"store {_shown(after.leaf)} instead of {_shown(before.leaf)} for certificates, and"
        f" {_shown(after.ca)} instead of {_shown(before.ca)} for CAs, in {MAP}"
    )
    why = "kubeadm renews for what is stored there; the backup has what there was"
    return _step(what, why, kubectl, before, after, generation)


def _step(
    what: str,
    why: str,
    kubectl: str,
    before: StoredConfiguration,
    after: StoredConfiguration,
    *more: str,
) -> Step:
    """Return the step that stores one text in place of another; ``more`` is for its call."""
    shas = (before.sha256, after.sha256)
    is_stored = call("has_configuration", kubectl, shas[1])
    patch = _patch(after.text, before.revision)
    return Step(
        name=_STORE,
        what=what,
        why=why,
        check=is_stored,
        do=call("store_configuration", kubectl, *shas, patch, *more),
        confirm=is_stored,
        undo=call("store_configuration", kubectl, *shas[::-1], _patch(before.text)),
    )


def with_restored(
    plans: Sequence[HostPlan],
    plane: ControlPlane,
    backup: Backup,
    stored: StoredConfiguration | None,
) -> list[HostPlan]:
    """Return plans of an undo in which what the cluster stored before is stored again, at the end.

    If somebody has changed it since the renewal, it stays as it is, and a note says so.
    """
    if not backup.configuration or (stored and stored.text == backup.configuration):
        return list(plans)

    def changed(plan: HostPlan) -> HostPlan:
        if plan.host != plane.facts.host:
            return plan
        if stored is None or stored.sha256 != backup.stored:
            why = "has changed since the renewal" if stored else "cannot be read"
            return replace(plan, notes=(*plan.notes, f"{MAP} {why}, so it stays as it is"))
        step = restore_step(backup.configuration, stored.text, plane.kubectl)
        last = [each for each in plan.steps if each.name == "settled"]
        return replace(plan, steps=(*plan.steps[: len(plan.steps) - len(last)], step, *last))

    return [changed(plan) for plan in plans]


def restore_step(kept: str, stored: str, kubectl: str) -> Step:
    """Return the step that stores again what a backup has, in place of what a renewal stored."""
    now, again = (StoredConfiguration(text=text, revision="") for text in (stored, kept))
    what = f"store {_shown(again.leaf)} for certificates again, in {MAP}"
    return _step(what, "the renewal had changed it", kubectl, now, again)


def _patch(text: str, revision: str = "") -> str:
    """Return the merge patch of the ConfigMap; the API server refuses it for another revision."""
    metadata = {"metadata": {"resourceVersion": revision}} if revision else {}
    return json.dumps({**metadata, "data": {"ClusterConfiguration": text}})


def _shown(text: str) -> str:
    lifetime = duration(text)
    return f"{text} ({_days(lifetime)})" if lifetime is not None else "nothing"


def _days(lifetime: timedelta) -> str:
    return counted(round(lifetime / timedelta(days=1)), "day")
