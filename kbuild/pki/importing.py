"""Derive a plan from certificates that are there, and write it."""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kbuild.pki.cfssl import CONFIG, SUFFIX
from kbuild.pki.cluster import FILE
from kbuild.pki.errors import BadPkiFile, NothingToImport, NotReproduced, PlanExists
from kbuild.pki.found import expressed, flat, flat_files
from kbuild.pki.import_cfssl import cfssl_files
from kbuild.pki.import_cluster import cluster_file, has_every_name, has_logins, planned
from kbuild.pki.model import Decision, Plan, Spec
from kbuild.pki.planning import key_uris
from kbuild.pki.rotations import read_rotations
from kbuild.pki.state import Held, held_of, states
from kbuild.pki.store import PUBLIC, File, commit, locked
from kbuild.x509.api import Wanted, quiet

_NO_KEY = "its key is missing"  # as in the reasons of a decision; it is told by its own note


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """A plan that was derived, its files, and what the user should know."""

    plan: Plan
    files: dict[Path, bytes]
    kept: tuple[Spec, ...]
    notes: tuple[str, ...]


def derive(
    folder: Path, without: Collection[str] = (), ca_keys: Mapping[str, str] | None = None
) -> Derived:
    """Return a plan that keeps every certificate that is there.

    Certificates ``without`` are left out. ``ca_keys`` are PKCS#11 URIs of the keys of CAs. Raises
    an error of kbuild.pki.errors.
    """
    key_uris(ca_keys or {}, "--ca-key")
    with quiet():
        return _derived(folder, without, ca_keys or {})


def _output_of(folder: Path) -> tuple[Path, bool]:
    """Return where the certificates are, and whether they are in the layout of kubeadm.

    Raises NothingToImport if there are none, and BadPkiFile.
    """
    outputs = (folder, folder / "pki")
    for output in outputs:
        if (output / "pki/ca.crt").exists():
            return output, True
    for output in outputs:
        if output.is_dir() and flat_files(output):
            return output, False
    raise NothingToImport(path=folder)


def _derived(folder: Path, without: Collection[str], ca_keys: Mapping[str, str]) -> Derived:
    notes: list[str] = []
    for each in (folder, folder / "pki"):
        _demand_no_rotation(each)
    output, is_kubeadm = _output_of(folder)
    if is_kubeadm:
        text = cluster_file(folder, output, "kubeadm", without, ca_keys, notes)
        return _proven(folder, {folder / FILE: text}, notes)
    names = [path.stem for path in flat_files(output)]
    if has_every_name(output, names) and has_logins(output):
        text = cluster_file(folder, output, "cfssl", without, ca_keys, notes)
        return _proven(folder, {folder / FILE: text}, notes)
    found = flat(output, without, notes)
    notes += (
        f"{path.name} is not planned: after a renewal, write the new certificate into it."
        for path in sorted(output.glob("*.kubeconfig"))
    )
    return _proven(output, cfssl_files(output, found, ca_keys, notes), notes)


def write(
    folder: Path,
    without: Collection[str],
    now: datetime,
    ca_keys: Mapping[str, str] | None = None,
) -> Derived:
    """Derive a plan and write its files, all or none, and return it.

    Nobody else issues certificates there meanwhile, and a run that was killed is finished first.
    Raises PlanExists if the directory has a plan, and as ``derive`` does.
    """
    if folder.is_dir():
        _demand_no_plan(folder)
    output, _ = _output_of(folder)
    with locked(output):
        derived = derive(folder, without, ca_keys)
        assert derived.plan.output == output
        for path in derived.files:
            _demand_no_plan(path.parent)
        files = [File(path=p, content=c, mode=PUBLIC) for p, c in derived.files.items()]
        commit(derived.plan.output, files, now)
    return derived


def _demand_no_plan(folder: Path) -> None:
    """Check that a directory has no file of a plan; raises PlanExists."""
    for name in sorted(os.listdir(folder)):  # noqa: PTH208  # names only
        if name in (FILE, CONFIG) or name.endswith(SUFFIX):
            raise PlanExists(path=folder / name)


def _demand_no_rotation(output: Path) -> None:
    """Check that no CA is being replaced, whose file holds two CAs; raises BadPkiFile."""
    if rotations := read_rotations(output):
        reason = f"the CA {rotations[0].ca} is being replaced"
        hint = (
            "end the rotation first with `kbuild pki rotate-ca`, or take it back with"
            " `--step back`; both need the plan that it began with"
        )
        raise BadPkiFile(path=output, reason=reason, hint=hint)


def _proven(folder: Path, texts: dict[Path, str], notes: list[str]) -> Derived:
    """Return a plan after checking that it keeps what is there, whatever was derived."""
    files = {path: text.encode() for path, text in texts.items()}
    plan = planned(folder, files)
    held = {spec.name: held_of(spec) for spec in plan.specs}
    births = [each.facts.not_before for each in held.values() if each.facts is not None]
    if not births:
        raise NothingToImport(path=folder)
    kept = []
    for each in states(plan, held, min(births)):
        assert isinstance(each.spec, Spec)
        notes += _judged(each, each.spec, held[each.spec.name])
        if each.is_kept:
            kept.append(each.spec)
    return Derived(plan=plan, files=files, kept=tuple(kept), notes=(*notes, *plan.notes))


def _judged(decision: Decision, spec: Spec, held: Held) -> Iterator[str]:
    """Yield what must be told of a certificate; raises NotReproduced if it would not be kept."""
    if held.facts is None:
        yield f"{spec.name} is planned, and is not there: `kbuild pki issue` makes it."
        return
    reasons = [each for each in decision.reasons if each != _NO_KEY]
    if not decision.is_kept and not decision.only_login and reasons:
        raise NotReproduced(name=spec.name, reason="; ".join(reasons))
    if decision.only_login:
        yield f"{spec.name}: `kbuild pki issue` writes its kubeconfig, as {reasons[0]}."
    there = expressed(spec.name, spec.place, held.facts).wanted
    if spec.issuer and _comparable(there) != _comparable(spec.wanted):
        reason = "its constraints or URLs are not as planned"
        raise NotReproduced(name=spec.name, reason=reason)


def _comparable(wanted: Wanted) -> tuple[object, ...]:
    urls = (wanted.crl_url, wanted.ocsp_url, wanted.issuer_urls, wanted.ocsp_no_check)
    names, usages = frozenset(wanted.names), frozenset(wanted.usages)
    return wanted.subject, names, usages, wanted.is_ca, wanted.path_length, *urls
