"""Replace a CA by one with a new key, step by step, so that all that is in use stays valid.

begin: both CAs are trusted, and the old one signs. leaves: both are trusted, and the new one signs
all again. end: the new one alone. back: from leaves to begin, or from begin to the old one alone.

While both are trusted, the file of the CA holds both certificates, first that of the CA that signs,
whose key stands beside it. The other key waits at a place of its own. A third file holds only the
certificate that signs: the controller manager takes no more than one (setCA of
pkg/controller/certificates/signer/ca_provider.go, v1.20.2).
"""

import json
import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from kbuild.base.values import rfc3339
from kbuild.base.words import counted, shortened
from kbuild.certs.api import EARLIER
from kbuild.pki.errors import (
    CAWithoutKey,
    NamesDiffer,
    NothingToRotate,
    RotationRefused,
    StillSigned,
    UnknownCertificate,
    WrongStep,
)
from kbuild.pki.issuing import (
    PASSWORD,
    Swap,
    demand_own,
    ends_nearly_with,
    key_of,
    new_password,
    self_signed,
)
from kbuild.pki.key_uris import KeyUri, key_uri
from kbuild.pki.model import Decision, Plan, Rotation, Spec
from kbuild.pki.rotations import ROTATION, SIGNING, bundle_of, file_of
from kbuild.pki.state import Held, demand_valid, held_of, names_changed
from kbuild.pki.store import PRIVATE, PUBLIC, File, content_of
from kbuild.pki.tokens import Tokens
from kbuild.x509.api import (
    BadKubeconfig,
    CertificateFacts,
    PrivateKey,
    certificate_pem,
    key_pem,
    new_key,
    public_der,
    quiet,
    read_content,
    read_kubeconfig,
    signed_by,
)

Step = Literal["begin", "leaves", "end", "back"]
# What a CA is after a step: being replaced, replaced, or as it was.
After = Literal["begin", "leaves", "ended", "undone"]
_SHOWN = 5  # names in a note
_ENDINGS = (".pem", ".crt", ".cer", ".conf", ".kubeconfig")
_STEPS: dict[tuple[str, Step], After] = {
    ("", "begin"): "begin",
    ("begin", "leaves"): "leaves",
    ("begin", "back"): "undone",
    ("leaves", "end"): "ended",
    ("leaves", "back"): "begin",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """A CA that is being replaced, and what it is after a step.

    ``old_key`` and ``new_key`` are the URIs of the keys, empty if they are in files.
    """

    spec: Spec
    after: After
    old: CertificateFacts
    new: CertificateFacts
    old_key: str = ""
    new_key: str = ""

    @property
    def is_on(self) -> bool:
        """Tell whether both CAs are trusted after the step."""
        return self.after in ("begin", "leaves")

    @property
    def old_key_file(self) -> Path:
        """Return where the key of the old CA is during the rotation, if it is in a file."""
        assert self.spec.key is not None
        return _waiting(self.spec)[1] if self.after == "leaves" else self.spec.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A step: what is decided, what is changed of CAs, and what else is written."""

    cas: tuple[Turned, ...]
    decisions: tuple[Decision, ...]
    swaps: dict[str, Swap]
    files: tuple[File, ...]
    notes: tuple[str, ...]

    @property
    def removed(self) -> tuple[Path, ...]:
        """Return the files that are removed."""
        files = [*self.files, *(file for swap in self.swaps.values() for file in swap.files)]
        return tuple(file.path for file in files if file.content is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CA:
    """A certificate and its key, both PEM; the key is empty if it is not there, or on a token."""

    facts: CertificateFacts
    key: bytes
    key_uri: KeyUri | None = None

    @property
    def pem(self) -> bytes:
        return certificate_pem(self.facts.der)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A step for one CA: both CAs, what is said of it before, and what it is after."""

    spec: Spec
    rotation: Rotation
    old: _CA
    new: _CA
    stage: str
    after: After

    @property
    def signer(self) -> _CA:
        return self.old if self.after in ("begin", "undone") else self.new

    @property
    def turned(self) -> Turned:
        return Turned(
            spec=replace(self.spec, key_uri=self.signer.key_uri),
            after=self.after,
            old=self.old.facts,
            new=self.new.facts,
            old_key=self.rotation.old_key,
            new_key=self.rotation.new_key,
        )

    @property
    def has_other_signer(self) -> bool:
        return (self.stage, self.after) in (("begin", "leaves"), ("leaves", "begin"))


def signing_file(spec: Spec) -> Path:
    """Return the file that holds only the certificate of a CA that signs, during its rotation."""
    return spec.place.with_name(f"{spec.place.stem}{SIGNING}{spec.place.suffix}")


def _waiting(spec: Spec) -> tuple[Path, Path]:
    """Return where the key of the new CA waits, and where that of the old one does."""
    assert spec.key is not None
    name = spec.place.stem
    return tuple(  # type: ignore[return-value]  # two
        spec.key.with_name(f"{name}-{which}{spec.key.name.removeprefix(name)}")
        for which in ("new", "old")
    )


def turn_of(
    plan: Plan,
    step: Step,
    names: Collection[str],
    now: datetime,
    *,
    new_keys: bool = False,
    new_ca_keys: Mapping[str, KeyUri] | None = None,
    tokens: Tokens | None = None,
) -> Turn:
    """Return what a step does to the CAs that are named, else to all that it is for.

    ``new_ca_keys`` are those of new CAs that are on tokens already. Raises an error of
    kbuild.pki.errors.
    """
    opened = tokens or Tokens()
    chosen = _chosen(plan, step, names)
    changes = list(_changes(plan, step, chosen, now, dict(new_ca_keys or {}), opened))
    _demand_own_keys(plan, changes)
    for each in changes:
        _demand_unused(plan, each)
        _demand_signer(each, now, opened)
    rotations = {each.ca: each for each in plan.rotations}
    for each in changes:
        if each.after in ("begin", "leaves"):
            rotations[each.spec.name] = replace(each.rotation, stage=each.after)
        else:
            del rotations[each.spec.name]
    return Turn(
        cas=tuple(each.turned for each in changes),
        decisions=tuple(_decisions(plan, changes, new_keys=new_keys)),
        swaps={each.spec.name: _swap(each) for each in changes},
        files=(file_of(plan.output, rotations.values()),),
        notes=tuple(note for each in changes for note in _notes(plan, each, now)),
    )


def rotated(plan: Plan) -> tuple[Turned, ...]:
    """Return the CAs that are being replaced, as they are; raises RotationDiffers."""
    found = []
    for rotation in plan.rotations:
        spec = plan.spec(rotation.ca)
        both = bundle_of(spec, rotation, content_of(spec.place))
        old, new = both[rotation.old], both[rotation.new]
        found.append(
            Turned(
                spec=spec,
                after=rotation.stage,
                old=old,
                new=new,
                old_key=rotation.old_key,
                new_key=rotation.new_key,
            )
        )
    return tuple(found)


def _chosen(plan: Plan, step: Step, names: Collection[str]) -> list[Spec]:
    roots = {each.name: each for each in plan.specs if not each.issuer}
    for name in names:
        if name not in roots:
            raise UnknownCertificate(name=name, known=", ".join(roots))
    chosen = names or (roots if step == "begin" else [each.ca for each in plan.rotations])
    for name in chosen or roots:
        rotation = plan.rotation(name)
        stage = rotation.stage if rotation else ""
        if (stage, step) not in _STEPS:
            steps = " and ".join(f"--step {made}" for before, made in _STEPS if before == stage)
            verb = "are" if " and " in steps else "is"
            raise WrongStep(
                ca=name,
                step=step,
                stage=f"the last step was {stage}" if stage else "it is not being replaced",
                following=f"what can be made now {verb} {steps}",
            )
    return [roots[name] for name in dict.fromkeys(chosen)]


def _changes(
    plan: Plan,
    step: Step,
    chosen: list[Spec],
    now: datetime,
    keys: Mapping[str, KeyUri],
    tokens: Tokens,
) -> Iterator[_Change]:
    known = [each.name for each in chosen]
    for name in keys:
        if name not in known:
            raise UnknownCertificate(name=name, known=", ".join(known))
    for spec in chosen:
        if plan.rotation(spec.name):
            yield _made(plan, spec, step)
        else:
            yield _beginning(plan, spec, now, keys.get(spec.name), tokens)


def _made(plan: Plan, spec: Spec, step: Step) -> _Change:
    """Return a step of a rotation that has begun."""
    rotation = plan.rotation(spec.name)
    assert rotation is not None
    where = f"{spec.name} in {ROTATION}"
    old_uri, new_uri = (
        key_uri(text, where) if text else None for text in (rotation.old_key, rotation.new_key)
    )
    held = held_of(spec)
    both, waiting = bundle_of(spec, rotation, held.pem), _waiting(spec)
    other = content_of(waiting[0 if rotation.stage == "begin" else 1])
    keys = (held.key, other) if rotation.stage == "begin" else (other, held.key)
    return _Change(
        spec=spec,
        rotation=rotation,
        old=_CA(facts=both[rotation.old], key=keys[0], key_uri=old_uri),
        new=_CA(facts=both[rotation.new], key=keys[1], key_uri=new_uri),
        stage=rotation.stage,
        after=_STEPS[rotation.stage, step],
    )


def _beginning(
    plan: Plan, spec: Spec, now: datetime, uri: KeyUri | None, tokens: Tokens
) -> _Change:
    held = held_of(spec)
    if held.facts is None:
        raise NothingToRotate(path=spec.place)
    _demand_ready(plan, spec, held, uri)
    key = new_key(spec.key_kind) if uri is None else _key_on(spec, held.facts, uri, tokens)
    with quiet():
        [new] = read_content(self_signed(plan, spec, key, now)).certificates
    return _Change(
        spec=spec,
        rotation=Rotation(
            ca=spec.name,
            stage="begin",
            old=held.facts.fingerprint,
            new=new.fingerprint,
            began=rfc3339(now),
            old_key=str(spec.key_uri or ""),
            new_key=str(uri or ""),
        ),
        old=_CA(facts=held.facts, key=held.key, key_uri=spec.key_uri),
        new=_CA(facts=new, key=b"" if uri else _new_key_pem(plan, spec, held, key), key_uri=uri),
        stage="",
        after="begin",
    )


def _demand_ready(plan: Plan, spec: Spec, held: Held, uri: KeyUri | None) -> None:
    """Check that the rotation of a CA can begin; raises RotationRefused."""
    with quiet():
        count = len(read_content(held.pem).certificates)
    if count != 1:
        reason = f"holds {count} certificates, and it must be that of the CA only"
        hint = "end the earlier rotation: leave only the certificate that fits the key in it"
        raise RotationRefused(path=spec.place, reason=reason, hint=hint)
    if spec.key_uri is not None and uri is None:
        reason = "has its key on a token, and kbuild makes no keys there"
        hint = (
            "make the new key there with `pkcs11-tool --keypairgen`, and name it with"
            f" --new-ca-key {spec.name}=pkcs11:…"
        )
        raise RotationRefused(path=spec.place, reason=reason, hint=hint)
    if spec.key is not None and spec.key.is_symlink() and spec.key_uri is None:
        reason = "is a symbolic link, and a rotation would write keys beside it"
        hint = "put the key in its place, or name the directory of the key as ca-keys in pki.toml"
        raise RotationRefused(path=spec.key, reason=reason, hint=hint)
    taken = {path for each in plan.specs for path in (each.certificate, each.key)}
    for path in (signing_file(spec), *_waiting(spec)):
        if path in taken or os.path.lexists(path):
            hint = "move it away: the rotation writes a file of this name"
            raise RotationRefused(path=path, reason="is there already", hint=hint)


def _key_on(spec: Spec, old: CertificateFacts, uri: KeyUri, tokens: Tokens) -> PrivateKey:
    """Return the key of a new CA that is on a token, and not that of the old one."""
    key = tokens.key(uri)
    if public_der(key) == old.public_key:
        reason = f"has the key {uri} already, and the new CA needs another one"
        hint = "make a new key on the token; to keep the key, use `kbuild pki extend-ca`"
        raise RotationRefused(path=spec.place, reason=reason, hint=hint)
    return key


def _demand_own_keys(plan: Plan, changes: list[_Change]) -> None:
    """Check that no new CA gets the key of another CA; raises RotationRefused."""
    chosen = [each for each in changes if not each.stage and each.new.key_uri]
    users: dict[bytes, str] = {}
    for spec in plan.specs if chosen else ():
        if not spec.issuer:
            with quiet():
                found = read_content(content_of(spec.place)).certificates
            users.update((each.public_key, spec.name) for each in found)
    for change in chosen:
        name = change.spec.name
        other = users.setdefault(change.new.facts.public_key, name)
        if other != name:
            reason = f"cannot get the key {change.new.key_uri}, which is that of the CA {other}"
            hint = f"make a key for it alone, and name that with --new-ca-key {name}=pkcs11:…"
            raise RotationRefused(path=change.spec.place, reason=reason, hint=hint)


def _new_key_pem(plan: Plan, spec: Spec, held: Held, key: PrivateKey) -> bytes:
    """Return a new key as PEM, encrypted as the old one is, or as the plan says."""
    keys = read_content(held.key).keys
    if not (keys and keys[0].encrypted):
        if not plan.encrypts_ca_keys:
            return key_pem(key)
        return key_pem(key, new_password([spec.name]), pkcs8=True)
    key_of(spec.key or spec.place, held.key)  # a wrong password would be found too late
    is_pkcs8 = b"BEGIN ENCRYPTED PRIVATE KEY" in held.key
    return key_pem(key, os.environ[PASSWORD], pkcs8=is_pkcs8)


def _demand_signer(change: _Change, now: datetime, tokens: Tokens) -> None:
    """Check that the CA that signs from now on can do it."""
    if not change.has_other_signer:
        return
    spec, signer = change.spec, change.signer
    path = _waiting(spec)[0 if change.after == "leaves" else 1]
    demand_valid(spec, signer.facts, now)
    if signer.key_uri is not None:
        demand_own(spec, signer.facts, tokens.key(signer.key_uri), signer.key_uri)
        return
    if not signer.key:
        raise CAWithoutKey(path=spec.place, key=path, needed="what this CA has signed")
    demand_own(spec, signer.facts, key_of(path, signer.key), path)


def _demand_unused(plan: Plan, change: _Change) -> None:
    """Check that a CA that is no longer trusted after a step has signed nothing that is there."""
    if change.after not in ("ended", "undone"):
        return
    which, gone = ("old", change.old) if change.after == "ended" else ("new", change.new)
    signed = sorted(_signed_below(plan.output, gone.facts))
    if signed:
        count = counted(len(signed), "certificate")
        raise StillSigned(path=signed[0], ca=change.spec.name, which=which, count=count)


def _signed_below(output: Path, ca: CertificateFacts) -> Iterator[Path]:
    for folder, folders, names in os.walk(output):
        folders[:] = [each for each in folders if each != EARLIER]
        for name in names:
            path = Path(folder, name)
            if name.endswith(_ENDINGS) and any(
                each.fingerprint != ca.fingerprint and signed_by(each, ca)
                for each in _certificates(content_of(path))
            ):
                yield path


def _certificates(content: bytes) -> list[CertificateFacts]:
    if b"-----BEGIN" not in content:
        try:
            users = read_kubeconfig(content).users
        except BadKubeconfig:
            return []
        content = b"\n".join(user.certificate.data for user in users)
    with quiet():
        return read_content(content).certificates


def _decisions(plan: Plan, changes: list[_Change], *, new_keys: bool) -> Iterator[Decision]:
    changed = {each.spec.name for each in changes}
    signers = {each.spec.name for each in changes if each.has_other_signer}
    for spec in plan.specs:
        found = held_of(spec)
        if spec.name in changed:
            yield Decision(spec=spec, state="rotated", keeps_key=True)
        elif spec.issuer in signers:
            yield _resigned(spec, found, new_keys=new_keys)
        elif found.facts is not None:
            is_login = spec.login is not None and spec.login.ca in changed and bool(found.key)
            reasons = ("its kubeconfig holds other CAs",) if is_login else ()
            yield Decision(
                spec=spec,
                state="changed" if is_login else "kept",
                reasons=reasons,
                keeps_key=True,
                only_login=is_login,
            )


def _resigned(spec: Spec, found: Held, *, new_keys: bool) -> Decision:
    if found.facts is None:
        return Decision(spec=spec, state="missing", keeps_key=bool(found.key))
    if reason := names_changed(spec, found.facts):
        raise NamesDiffer(name=spec.name, reason=reason)
    has_key = bool(found.key) and found.facts.key == spec.key_kind.shown
    # With another key, what a CA has signed would be lost.
    keeps_key = has_key and (not new_keys or spec.wanted.is_ca)
    reasons = (f"another key of {spec.issuer} signs it",)
    return Decision(spec=spec, state="resigned", reasons=reasons, keeps_key=keeps_key)


def _swap(change: _Change) -> Swap:
    spec, old, new, signer = change.spec, change.old, change.new, change.signer
    assert spec.key is not None
    pems: dict[After, bytes] = {
        "begin": old.pem + new.pem,
        "leaves": new.pem + old.pem,
        "ended": new.pem,
        "undone": old.pem,
    }
    new_place, old_place = _waiting(spec)
    is_on = change.after in ("begin", "leaves")
    wanted = {
        signing_file(spec): (signer.pem if is_on else b"", PUBLIC),
        **({} if old.key_uri else {spec.key: (signer.key, PRIVATE)}),  # else it has no file
        new_place: (new.key if change.after == "begin" else b"", PRIVATE),
        old_place: (old.key if change.after == "leaves" else b"", PRIVATE),
    }
    there = {path: content_of(path) for path in wanted}
    moved = [content for content, _ in wanted.values()]
    return Swap(
        pem=pems[change.after],
        key=signer.key,
        files=tuple(
            File(path=path, content=content or None, mode=mode, keeps=there[path] not in moved)
            for path, (content, mode) in wanted.items()
            if content != there[path]
        ),
        asks=change.has_other_signer,
        key_uri=signer.key_uri,
    )


def _notes(plan: Plan, change: _Change, now: datetime) -> Iterator[str]:
    """Yield what to know before the next step; nothing but what is true of these certificates."""
    if change.after == "ended":
        yield from _notes_of_tokens(change)
    if change.stage:
        return
    spec, old, new = change.spec, change.old.facts, change.new.facts
    mine = [each for each in plan.specs if each.issuer == spec.name]
    found = {each.name: facts for each in mine if (facts := held_of(each).facts) is not None}
    unclear = [name for name, facts in found.items() if facts.issuer_key_id is None]
    if old.subject == new.subject and (old.own_key_id is None or unclear):
        which = f"the CA {spec.name}" if old.own_key_id is None else shortened(unclear, _SHOWN)
        yield (
            f"Both CAs have the subject {old.subject}, and {which} has no key identifier. Programs"
            " with OpenSSL need it to choose between them: expect errors of theirs until the step"
            " leaves, or take this one back and give the new CA another subject. Go tries both."
        )
    long = [each.name for each in mine if _outlasts(plan, each, now, new.not_after)]
    if long and not plan.cap:
        yield (
            f"{shortened(long, _SHOWN)} would end later than the new CA. Plan a longer CA before"
            " you begin, or make the step leaves with --cap."
        )


def _notes_of_tokens(change: _Change) -> Iterator[str]:
    spec = change.spec
    if change.new.key_uri is not None:
        key = json.dumps(str(change.new.key_uri))
        yield (
            f"From now on the plan must name the key of the new CA: key-uri = {key} in"
            f" [certificates.{json.dumps(spec.name)}] of pki.toml, or --ca-key"
            f" {shlex.quote(f'{spec.name}={change.new.key_uri}')}."
        )
    if change.old.key_uri is not None:
        yield (
            f"The key of the old CA is still on its token, {change.old.key_uri}. Destroy it when"
            " you are sure that you never go back."
        )


def _outlasts(plan: Plan, spec: Spec, now: datetime, ca_ends: datetime) -> bool:
    born, ends = spec.term.dates(now)
    return ends > ca_ends and not ends_nearly_with(plan, spec, born, ca_ends)
