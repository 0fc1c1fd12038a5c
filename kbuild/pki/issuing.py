"""Carry out decisions: make keys on all processors, sign, and compose all files."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from kbuild.base.progress import Progress
from kbuild.base.values import day, rfc3339
from kbuild.pki.errors import (
    BadKeyFile,
    BadPkiFile,
    CANotExtended,
    CAShortened,
    CAWithoutKey,
    KeyOfAnother,
    LeafOutlastsItsCA,
    NoKeyPassword,
    TokenKeyDiffers,
    TooManyHosts,
    WrongKeyPassword,
)
from kbuild.pki.key_uris import KeyUri
from kbuild.pki.model import Decision, Pair, Plan, Spec, Written
from kbuild.pki.state import held_of
from kbuild.pki.store import MANIFEST, PRIVATE, PUBLIC, File, commit, content_of
from kbuild.pki.tokens import Tokens
from kbuild.x509.api import (
    BadPrivateKey,
    CertificateFacts,
    PrivateKey,
    Signer,
    WrongPassword,
    extend,
    is_usable,
    issue,
    key_pem,
    load_key,
    make_kubeconfig,
    new_key,
    public_der,
    public_pem,
    quiet,
    read_certificate,
    request,
)

PASSWORD = "CFSSL_CA_PK_PASSWORD"  # as for cfssl
# Go refuses longer TLS messages (maxHandshake of crypto/tls/common.go), and one holds the chain.
_MOST_BYTES = 65536 - 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """A change of the file of a CA to ``pem``, which begins with the certificate that signs.

    ``key`` is the key that signs, as PEM, empty if it is not there or on a token, where ``key_uri``
    names it. ``files`` are changed with it.
    ``asks`` tells whether the request is written anew, because another key signs.
    """

    pem: bytes
    key: bytes
    files: tuple[File, ...]
    asks: bool
    key_uri: KeyUri | None = None


@dataclass(slots=True)
class _Authority:
    """A CA while certificates are issued; its key is read when it is needed.

    ``key_pem`` is None if that is the key at its place. With ``key_uri`` it is on a token.
    """

    spec: Spec
    pem: bytes
    facts: CertificateFacts
    key: PrivateKey | None
    key_pem: bytes | None = None
    key_uri: KeyUri | None = None

    def signer(self, needed: str, tokens: Tokens) -> Signer:
        if self.key is None and self.key_uri is not None:
            self.key = tokens.key(self.key_uri)
            demand_own(self.spec, self.facts, self.key, self.key_uri)
        elif self.key is None:
            assert self.spec.key is not None
            pem = content_of(self.spec.key) if self.key_pem is None else self.key_pem
            if not pem:
                raise CAWithoutKey(path=self.spec.place, key=self.spec.key, needed=needed)
            self.key = key_of(self.spec.key, pem)
            demand_own(self.spec, self.facts, self.key, self.spec.key)
        return Signer(der=self.facts.der, key=self.key)


@dataclass(slots=True)
class _Work:
    """What a run has made so far."""

    plan: Plan
    now: datetime
    keys: dict[str, PrivateKey]
    tokens: Tokens
    swaps: Mapping[str, Swap] = field(default_factory=dict)
    cas: dict[str, _Authority] = field(default_factory=dict)
    files: list[File] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    chain: dict[str, CertificateFacts] = field(default_factory=dict)


def carry_out(
    plan: Plan,
    decisions: Iterable[Decision],
    now: datetime,
    progress: Progress,
    more: Iterable[File] = (),
    swaps: Mapping[str, Swap] | None = None,
    tokens: Tokens | None = None,
) -> tuple[Written, ...]:
    """Issue what was decided and write it, and return what was written.

    ``more`` are files that are written with it, ``swaps`` what a rotation changes of CAs, by their
    names, and ``tokens`` have the keys that are on them. The caller holds the lock of the output.
    If anything fails, no file has changed. Raises an error of kbuild.pki.errors, NotWritable or
    DiskFull.
    """
    chosen, opened = list(decisions), tokens or Tokens()
    _demand_password(plan, chosen)
    _open_tokens(plan, chosen, swaps or {}, opened)
    keys = _keys(chosen, progress)
    work = _Work(plan=plan, now=now, keys=keys, tokens=opened, swaps=swaps or {})
    most = sum(not each.is_kept for each in chosen)
    for each in chosen:
        if isinstance(each.spec, Pair):
            _do_pair(work, each, each.spec)
        else:
            _do_certificate(work, each, each.spec)
        if not each.is_kept:
            progress.advance("certificates", len(work.written), most)
    extra = list(more)
    if work.files or extra:
        work.files.append(File(path=plan.output / MANIFEST, content=_manifest(work), mode=PUBLIC))
        commit(plan.output, [*work.files, *extra], now, plan.key_folders)
    return tuple(work.written)


def self_signed(plan: Plan, spec: Spec, key: PrivateKey, now: datetime) -> bytes:
    """Return a certificate of a CA for a new key, as PEM; raises BadPkiFile."""
    return _signed(_Work(plan=plan, now=now, keys={}, tokens=Tokens()), spec, key)


def key_of(path: Path, pem: bytes) -> PrivateKey:
    """Return a private key, with the password from the environment.

    Raises WrongKeyPassword or BadKeyFile.
    """
    try:
        return load_key(pem, lambda: os.environ.get(PASSWORD, ""))
    except WrongPassword as error:
        raise WrongKeyPassword(path=path, reason=str(error)) from error
    except BadPrivateKey as error:
        raise BadKeyFile(path=path, reason=str(error)) from error


def demand_own(spec: Spec, facts: CertificateFacts, key: PrivateKey, where: Path | KeyUri) -> None:
    """Check that a key fits a certificate; raises KeyOfAnother or TokenKeyDiffers.

    That of an encrypted key is known only when it is read.
    """
    if public_der(key) == facts.public_key:
        return
    if isinstance(where, KeyUri):
        raise TokenKeyDiffers(path=spec.place, uri=where)
    raise KeyOfAnother(path=spec.place, key=where)


def new_password(names: Iterable[str]) -> str:
    """Return the password for the new keys of CAs; raises NoKeyPassword or WrongKeyPassword."""
    password, shown = os.environ.get(PASSWORD, ""), ", ".join(names)
    if not password:
        raise NoKeyPassword(names=shown)
    if not is_usable(password):
        raise WrongKeyPassword(path=shown, reason="it is not UTF-8, or over 1023 bytes")
    return password


def _demand_password(plan: Plan, decisions: list[Decision]) -> None:
    """Check that there is a password for the new keys of CAs, before keys are made."""
    names = [
        each.spec.name
        for each in decisions
        if _is_encrypted(plan, each.spec) and not each.is_kept and not each.keeps_key
    ]
    if names:
        new_password(names)


def _open_tokens(
    plan: Plan, decisions: list[Decision], swaps: Mapping[str, Swap], tokens: Tokens
) -> None:
    """Open the tokens that must sign, before keys are made: someone may be asked for a PIN."""
    for each in decisions:
        if each.is_kept or each.only_login or not isinstance(each.spec, Spec):
            continue
        signer = plan.spec(each.spec.issuer) if each.spec.issuer else each.spec
        swap = swaps.get(signer.name)
        uri = swap.key_uri if swap else signer.key_uri
        if uri is not None and each.state != "rotated":
            tokens.key(uri)


def _is_encrypted(plan: Plan, spec: Spec | Pair) -> bool:
    """Tell whether a key is written encrypted: only CAs, as Kubernetes and etcd read no such."""
    return plan.encrypts_ca_keys and isinstance(spec, Spec) and spec.wanted.is_ca


def _keys(decisions: list[Decision], progress: Progress) -> dict[str, PrivateKey]:
    """Return the new keys that are needed, made by as many threads as there are processors.

    The library makes a key without holding Python's lock.
    """
    new = [each.spec for each in decisions if not each.is_kept and not each.keeps_key]
    made: dict[str, PrivateKey] = {}
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        waiting = {pool.submit(new_key, spec.key_kind): spec.name for spec in new}
        try:
            for done in as_completed(waiting):
                made[waiting[done]] = done.result()
                progress.advance("keys", len(made), len(new))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return made


def _do_pair(work: _Work, decision: Decision, pair: Pair) -> None:
    if decision.is_kept:
        return
    key = work.keys.get(pair.name) or key_of(pair.key, content_of(pair.key))
    files = [File(path=pair.public, content=public_pem(key), mode=PUBLIC)]
    if not decision.keeps_key:
        files.insert(0, File(path=pair.key, content=key_pem(key), mode=PRIVATE))
    _add(work, decision, files, None)


def _do_swap(work: _Work, decision: Decision, spec: Spec, swap: Swap) -> None:
    with quiet():
        facts = read_certificate(swap.pem)
    _remember(work, spec, swap.pem, facts, None)
    authority = work.cas[spec.name]
    authority.key_pem, authority.key_uri = swap.key, swap.key_uri
    files = [File(path=spec.place, content=swap.pem, mode=PUBLIC), *swap.files]
    if swap.asks and spec.request is not None:
        content = request(spec.asked, authority.signer(spec.name, work.tokens).key)
        files.append(File(path=spec.request, content=content, mode=PUBLIC))
    _add(work, decision, files, facts)


def _do_certificate(work: _Work, decision: Decision, spec: Spec) -> None:
    if swap := work.swaps.get(spec.name):
        _do_swap(work, decision, spec, swap)
        return
    if decision.is_kept or decision.only_login:
        held = held_of(spec)
        assert held.facts is not None
        _remember(work, spec, held.pem, held.facts, None)
        if decision.only_login:
            files = [_login(work, spec, held.pem, held.key)]
            _add(work, decision, files, held.facts)
        return
    key = work.keys.get(spec.name)
    if key is None:
        held = held_of(spec)
        where = spec.key_uri or spec.key or spec.place
        key = work.tokens.key(where) if isinstance(where, KeyUri) else key_of(where, held.key)
        if held.facts is not None:
            demand_own(spec, held.facts, key, where)
    pem = _extended(work, spec, key) if decision.state == "extended" else _signed(work, spec, key)
    facts = read_certificate(pem)
    _remember(work, spec, pem, facts, key)
    is_new_key = not decision.keeps_key
    _add(work, decision, list(_files(work, spec, pem, key, is_new_key=is_new_key)), facts)


def _remember(
    work: _Work, spec: Spec, pem: bytes, facts: CertificateFacts, key: PrivateKey | None
) -> None:
    work.chain[spec.name] = facts
    if spec.wanted.is_ca:
        work.cas[spec.name] = _Authority(
            spec=spec, pem=pem, facts=facts, key=key, key_uri=spec.key_uri
        )


def _signed(work: _Work, spec: Spec, key: PrivateKey) -> bytes:
    ca = work.cas[spec.issuer] if spec.issuer else None
    born, ends = _dates(work.plan, spec, work.now)
    if ca is not None:
        ends = _end_with(work.plan, spec, born, ends, ca.facts.not_after)
    try:
        signer = ca.signer(spec.name, work.tokens) if ca else None
        pem = issue(spec.wanted, key, signer, born=born, ends=ends)
    except ValueError as error:
        hint = "correct the plan, then run the same command again"
        raise BadPkiFile(
            path=work.plan.inputs[0], reason=f"{spec.name}: {error}", hint=hint
        ) from error
    if len(pem) * 3 // 4 > _MOST_BYTES:
        raise TooManyHosts(name=spec.name, size=len(pem) * 3 // 4, most=_MOST_BYTES)
    return pem


def demand_ends(plan: Plan, decisions: Iterable[Decision], now: datetime) -> None:
    """Check that what is issued would not outlast its CA; raises LeafOutlastsItsCA or BadPkiFile.

    So a plan fails where its run would.
    """
    chosen = [each for each in decisions if isinstance(each.spec, Spec) and not each.only_login]
    ends = dict[str, datetime]()
    for each in chosen:
        spec = each.spec
        assert isinstance(spec, Spec)
        if not spec.issuer:
            facts = held_of(spec).facts
            ends[spec.name] = facts.not_after if facts else _dates(plan, spec, now)[1]
        elif not each.is_kept and spec.issuer in ends:
            _end_with(plan, spec, *_dates(plan, spec, now), ends[spec.issuer])


def _end_with(
    plan: Plan, spec: Spec, born: datetime, ends: datetime, ca_ends: datetime
) -> datetime:
    """Return when a leaf ends, at the latest with its CA; raises LeafOutlastsItsCA."""
    if ends > ca_ends and not (plan.cap or ends_nearly_with(plan, spec, born, ca_ends)):
        raise LeafOutlastsItsCA(
            name=spec.name, leaf_end=rfc3339(ends), ca=spec.issuer, ca_end=rfc3339(ca_ends)
        )
    return min(ends, ca_ends)


def ends_nearly_with(plan: Plan, spec: Spec, born: datetime, ca_ends: datetime) -> bool:
    """Tell whether a leaf may end with its CA without a word.

    So it is if the plan makes it no longer than the CA, and it loses less than a tenth: it is only
    issued later than the CA.
    """
    wanted, most = spec.term.lifetime, plan.spec(spec.issuer).term.lifetime
    return spec.term.not_after is None and wanted <= most and ca_ends - born >= wanted * 0.9


def _extended(work: _Work, spec: Spec, key: PrivateKey) -> bytes:
    """Return a CA again, with the same key and name and other dates."""
    facts = held_of(spec).facts
    assert facts is not None
    born, ends = _dates(work.plan, spec, work.now)
    if ends.date() == facts.not_after.date():
        raise CANotExtended(path=spec.place, ends=day(ends))
    if ends < facts.not_after:
        raise CAShortened(path=spec.place, planned=rfc3339(ends), ends=rfc3339(facts.not_after))
    return extend(facts.der, key, born=min(born, facts.not_before), ends=ends)


def _dates(plan: Plan, spec: Spec, now: datetime) -> tuple[datetime, datetime]:
    """Return begin and end, which cfssl sets back by five minutes; raises BadPkiFile."""
    try:
        born, ends = spec.term.dates(now)
    except OverflowError as error:
        reason = f"{spec.name} would end after the year 9999"
        hint = "give it a shorter lifetime"
        raise BadPkiFile(path=plan.inputs[0], reason=reason, hint=hint) from error
    if ends <= now:
        reason = f"{spec.name} would end on {rfc3339(ends)}, before it is used"
        hint = "give it a longer lifetime, or a later not_after"
        raise BadPkiFile(path=plan.inputs[0], reason=reason, hint=hint)
    return born, ends


def _files(
    work: _Work, spec: Spec, pem: bytes, key: PrivateKey, *, is_new_key: bool
) -> Iterator[File]:
    if spec.key is not None and is_new_key:
        password = os.environ[PASSWORD] if _is_encrypted(work.plan, spec) else ""
        yield File(
            path=spec.key, content=key_pem(key, password, pkcs8=bool(password)), mode=PRIVATE
        )
    if spec.certificate is not None:
        yield File(path=spec.certificate, content=pem, mode=PUBLIC)
    if spec.request is not None:
        yield File(path=spec.request, content=request(spec.asked, key), mode=PUBLIC)
    if spec.login is not None:
        yield _login(work, spec, pem, key_pem(key))


def _login(work: _Work, spec: Spec, pem: bytes, key: bytes) -> File:
    login = spec.login
    assert login is not None
    content = make_kubeconfig(
        cluster=login.cluster,
        server=login.server,
        ca=work.cas[login.ca].pem,
        user=login.user,
        certificate=pem,
        key=key,
    )
    return File(path=login.path, content=content, mode=PRIVATE)


def _add(
    work: _Work, decision: Decision, files: list[File], facts: CertificateFacts | None
) -> None:
    work.files += files
    work.written.append(
        Written(
            name=decision.spec.name,
            state=decision.state,
            reasons=decision.reasons,
            files=tuple(file.path for file in files if file.content is not None),
            not_after=facts.not_after if facts else None,
            fingerprint=facts.fingerprint if facts else "",
        )
    )


def _manifest(work: _Work) -> bytes:
    """Return the document that names each certificate of the plan with its fingerprint."""
    output = work.plan.output
    entries = []
    for spec in work.plan.specs:
        facts = work.chain.get(spec.name) or held_of(spec).facts
        if facts is not None:
            entries.append({"name": spec.name, **_entry(spec, facts, output)})
    document = {"version": 1, "written_at": rfc3339(work.now), "certificates": entries}
    return (json.dumps(document, indent=2) + "\n").encode()


def _entry(spec: Spec, facts: CertificateFacts, output: Path) -> dict[str, Any]:
    place = spec.place
    return {
        "file": str(place.relative_to(output) if place.is_relative_to(output) else place),
        "source": spec.source,
        "subject": facts.subject,
        "names": list(facts.names),
        "issuer": spec.issuer,
        "serial": facts.serial,
        "sha256": facts.fingerprint,
        "not_before": rfc3339(facts.not_before),
        "not_after": rfc3339(facts.not_after),
    }
