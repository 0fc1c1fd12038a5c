"""What is there of a plan, and what must be done about it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from kbuild.base.values import day, rfc3339
from kbuild.base.words import shortened
from kbuild.pki.durations import hours
from kbuild.pki.errors import (
    BadCertificateFile,
    BadKeyFile,
    CADiffers,
    CAExpired,
    CAMissing,
    CANotAlone,
    CANotYetValid,
    CAWithoutKey,
    KeyOfAnother,
    NamesDiffer,
    NothingToExtend,
    RotationDiffers,
    RotationUnderWay,
    UnknownCertificate,
)
from kbuild.pki.model import Decision, Login, Pair, Plan, Spec, State
from kbuild.pki.rotations import bundle_of
from kbuild.pki.store import content_of
from kbuild.x509.api import (
    BadKubeconfig,
    CertificateFacts,
    Unreadable,
    name_of,
    quiet,
    read_certificate,
    read_content,
    read_kubeconfig,
    signed_by,
)

_SHOWN = 5  # names in a reason
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is there of a certificate: it, its PEM, and the PEM of its key; empty if missing.

    Whether a key that is ``on_token`` is there, and fits, is known when it signs.
    """

    facts: CertificateFacts | None = None
    pem: bytes = b""
    key: bytes = b""
    on_token: bool = False

    @property
    def has_key(self) -> bool:
        """Tell whether there is a key to sign with."""
        return bool(self.key) or self.on_token


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """Which certificates are renewed though they are as planned.

    ``names`` is empty for all leaves. ``before`` is None for all, or how soon they must end.
    """

    names: Collection[str] = ()
    before: timedelta | None = None
    new_keys: bool = False


def held_of(spec: Spec) -> Held:
    """Return what is there of a certificate; raises BadCertificateFile or KeyOfAnother."""
    pem, key = _stored(spec)
    on_token = spec.key_uri is not None
    if not pem:
        return Held(key=key, on_token=on_token)
    try:
        with quiet():
            facts = read_certificate(pem)
    except Unreadable as error:
        raise BadCertificateFile(path=spec.place, reason=str(error)) from error
    if key:
        _demand_fit(spec, facts, key)
    return Held(facts=facts, pem=pem, key=key, on_token=on_token)


def _stored(spec: Spec) -> tuple[bytes, bytes]:
    if spec.certificate is not None and spec.key_uri is not None:
        return content_of(spec.certificate), b""
    if spec.certificate is not None and spec.key is not None:
        return content_of(spec.certificate), content_of(spec.key)
    content = content_of(spec.place)
    if not content:
        return b"", b""
    try:
        user = next(iter(read_kubeconfig(content).users), None)
    except BadKubeconfig as error:
        raise BadCertificateFile(path=spec.place, reason=str(error)) from error
    return (user.certificate.data, user.key.data) if user else (b"", b"")


def _demand_fit(spec: Spec, facts: CertificateFacts, key: bytes) -> None:
    keys = read_content(key).keys
    where = spec.key or spec.place
    if not keys or keys[0].problem:
        raise BadKeyFile(path=where, reason=keys[0].problem if keys else "there is no key in it")
    if keys[0].public_key and keys[0].public_key != facts.public_key:
        raise KeyOfAnother(path=spec.place, key=where)


def decide(plan: Plan, now: datetime, renewal: Renewal | None = None) -> tuple[Decision, ...]:
    """Return what must be done about each certificate and key pair, in the order of the plan.

    CAs that are there are never replaced. Raises an error of kbuild.pki.errors.
    """
    held = {spec.name: held_of(spec) for spec in plan.specs}
    decisions = states(plan, held, now, renewal)
    _demand_cas(decisions, held, now)
    return (*decisions, *map(_of_pair, plan.pairs))


def states(
    plan: Plan, held: dict[str, Held], now: datetime, renewal: Renewal | None = None
) -> list[Decision]:
    """Return the decisions on certificates, whether or not the CAs can sign.

    Raises an error of kbuild.pki.errors.
    """
    with quiet():
        return [
            _of_ca(plan, spec, held, now)
            if spec.wanted.is_ca
            else _of_leaf(spec, held, now, renewal)
            for spec in plan.specs
        ]


def extension(plan: Plan, names: Collection[str]) -> tuple[Decision, ...]:
    """Return the decisions that extend CAs, all or those that are named, and rewrite kubeconfigs.

    Raises an error of kbuild.pki.errors.
    """
    held = {spec.name: held_of(spec) for spec in plan.specs}
    roots = {each.name: each for each in plan.specs if not each.issuer}
    for name in names:
        if name not in roots:
            raise UnknownCertificate(name=name, known=", ".join(roots))
    decisions = []
    for spec in plan.specs:
        found = held[spec.name]
        if found.facts is None:
            raise NothingToExtend(path=spec.place)
        is_chosen = spec.name in roots and (not names or spec.name in names)
        if is_chosen and plan.rotation(spec.name):
            raise RotationUnderWay(ca=spec.name)
        if is_chosen and not found.has_key:
            raise CAWithoutKey(path=spec.place, key=spec.key or "", needed="itself")
        if is_chosen and (count := len(read_content(found.pem).certificates)) != 1:
            raise CANotAlone(path=spec.place, count=count)
        is_chosen_login = spec.login is not None and spec.login.ca in (names or roots)
        is_login = is_chosen_login and bool(found.key)
        state: State = "extended" if is_chosen else "changed" if is_login else "kept"
        decisions.append(Decision(spec=spec, state=state, keeps_key=True, only_login=is_login))
    return tuple(decisions)


def _of_ca(plan: Plan, spec: Spec, held: dict[str, Held], now: datetime) -> Decision:
    found, rotation = held[spec.name], plan.rotation(spec.name)
    if found.facts is None:
        if rotation:
            raise RotationDiffers(path=spec.place, reason="it is not there")
        if not found.has_key:
            _demand_unused(plan, spec, held)
        reasons = tuple(_key_notes(plan, spec, found)) if found.on_token else ()
        return Decision(spec=spec, state="missing", reasons=reasons, keeps_key=found.has_key)
    planned = found.facts
    if rotation:  # the new CA is the planned one, also while the old one signs
        planned = bundle_of(spec, rotation, found.pem)[rotation.new]
    if reason := _difference_of_ca(spec, planned):
        raise CADiffers(path=spec.place, reason=reason)
    if rotation:
        reasons = (f"it is being replaced, and the last step is {rotation.stage}",)
        return Decision(spec=spec, state="kept", reasons=reasons, keeps_key=True)
    lifetime = found.facts.not_after - found.facts.not_before
    notes = list(_key_notes(plan, spec, found))
    if found.facts.not_after <= now:
        notes.append(f"it expired on {day(found.facts.not_after)}")
    # One that was extended is older than planned by the time until then.
    elif spec.term.not_after is None and lifetime < spec.term.lifetime:
        notes.append(
            f"it is valid for {hours(lifetime)}, planned are {hours(spec.term.lifetime)};"
            " `kbuild pki extend-ca` changes that"
        )
    return Decision(spec=spec, state="kept", reasons=tuple(notes), keeps_key=True)


def _key_notes(plan: Plan, spec: Spec, found: Held) -> Iterator[str]:
    if found.on_token:
        yield "its key is on a token"
        if spec.key is not None and content_of(spec.key):
            yield f"{spec.key.name} is there too; destroy it if it is the same key"
    elif plan.encrypts_ca_keys and found.key and not read_content(found.key).keys[0].encrypted:
        yield "its key is not encrypted; `openssl pkcs8 -topk8` does that"
    if not found.on_token and found.facts and found.facts.key != spec.key_kind.shown:
        kinds = f"its key is {found.facts.key}, planned is {spec.key_kind.shown}"
        yield f"{kinds}; `kbuild pki rotate-ca` changes that"


def _demand_unused(plan: Plan, spec: Spec, held: dict[str, Held]) -> None:
    """Raise CAMissing if a CA is not there, but has signed what is there."""
    subject = name_of(spec.wanted.subject).rfc4514_string()
    for each in plan.specs:
        facts = held[each.name].facts
        if each.issuer == spec.name and facts is not None and facts.issuer == subject:
            raise CAMissing(path=spec.place, leaf=each.place)


def _difference_of_ca(spec: Spec, facts: CertificateFacts) -> str:
    subject = name_of(spec.wanted.subject).rfc4514_string()
    if facts.subject != subject:
        return f"its subject is {facts.subject}, planned is {subject}"
    if not facts.may_sign:
        return "it is no CA: its constraints say CA:FALSE"
    return ""


def _of_leaf(spec: Spec, held: dict[str, Held], now: datetime, renewal: Renewal | None) -> Decision:
    found, ca = held[spec.name], held[spec.issuer].facts
    if found.facts is None:
        return Decision(spec=spec, state="missing", keeps_key=_is_planned_key(spec, found))
    facts, keeps_key = found.facts, bool(found.key) and found.facts.key == spec.key_kind.shown
    reasons = list(_differences(spec, facts, ca, has_key=bool(found.key)))
    state: State = "changed" if reasons else "kept"
    if ca is None or not signed_by(facts, ca):
        state, reasons = "resigned", [f"{spec.issuer} has not signed it", *reasons]
    if renewal is not None and _is_to_be_renewed(spec, facts, now, renewal):
        if changed := names_changed(spec, facts):
            raise NamesDiffer(name=spec.name, reason=changed)
        keeps_key = keeps_key and not renewal.new_keys
        state, reasons = "renewed", [f"it ended on {day(facts.not_after)}"]
    elif facts.not_after <= now:
        state, reasons = "expired", [f"it expired on {day(facts.not_after)}", *reasons]
    if state == "kept":
        return _of_kept_leaf(spec, found, held)
    return Decision(spec=spec, state=state, reasons=tuple(reasons), keeps_key=keeps_key)


def _of_kept_leaf(spec: Spec, found: Held, held: dict[str, Held]) -> Decision:
    """Return what must be done about a certificate that is right: perhaps its kubeconfig is not."""
    reason = _login_differs(spec.login, found, held[spec.login.ca]) if spec.login else ""
    if not reason:
        return Decision(spec=spec, state="kept", keeps_key=True)
    return Decision(spec=spec, state="changed", reasons=(reason,), keeps_key=True, only_login=True)


def _is_planned_key(spec: Spec, found: Held) -> bool:
    """Tell whether there is a key without certificate; what kind it is, is not known."""
    return bool(found.key) and spec.key is not None


def _is_to_be_renewed(spec: Spec, facts: CertificateFacts, now: datetime, renewal: Renewal) -> bool:
    if renewal.names and spec.name not in renewal.names:
        return False
    return renewal.before is None or facts.not_after - now <= renewal.before


def _differences(
    spec: Spec, facts: CertificateFacts, ca: CertificateFacts | None, *, has_key: bool
) -> Iterator[str]:
    wanted = spec.wanted
    if not has_key:
        yield "its key is missing"
    if (subject := name_of(wanted.subject).rfc4514_string()) != facts.subject:
        yield f"its subject is {facts.subject}, planned is {subject}"
    if changed := names_changed(spec, facts):
        yield changed
    if set(facts.usages) != set(wanted.usages):
        yield f"its usages are {', '.join(facts.usages)}, planned are {', '.join(wanted.usages)}"
    if facts.is_ca != wanted.is_ca:
        yield "it is a CA" if facts.is_ca else "it is no CA"
    if facts.key != spec.key_kind.shown:
        yield f"its key is {facts.key}, planned is {spec.key_kind.shown}"
    lifetime, planned = facts.not_after - facts.not_before, spec.term.lifetime
    # Issued minutes after its CA, it ended with that one, which may have been extended since.
    ends_with_ca = ca is not None and facts.not_after == ca.not_after
    is_capped = lifetime < planned and (
        ends_with_ca or planned - lifetime <= min(_DAY, planned / 100)
    )
    if spec.term.not_after is not None:
        if facts.not_after != spec.term.not_after:
            yield f"it ends on {day(facts.not_after)}, planned is {day(spec.term.not_after)}"
    elif lifetime != planned and not is_capped:
        yield f"it is valid for {hours(lifetime)}, planned are {hours(planned)}"


def names_changed(spec: Spec, facts: CertificateFacts) -> str:
    """Return which names a new certificate would add and lack, empty if it is the same ones."""
    planned, there = set(spec.wanted.names), set(facts.names)
    parts = []
    if added := [each for each in spec.wanted.names if each not in there]:
        parts.append(f"it lacks {some(added)}")
    # An empty DNS name, which cfssl writes for the host "", matches nothing.
    if gone := [each for each in facts.names if each not in planned and each != "DNS:"]:
        parts.append(f"it has {some(gone)}, not planned")
    return " and ".join(parts)


def some(names: list[str]) -> str:
    """Return the first names, which are in the words of CertificateFacts.names, as a text."""
    return shortened([each.partition(":")[2] for each in names], _SHOWN)


def _login_differs(login: Login, found: Held, ca: Held) -> str:
    content = content_of(login.path)
    if not content:
        return f"{login.path.name} is missing"
    try:
        config = read_kubeconfig(content)
    except BadKubeconfig as error:
        raise BadCertificateFile(path=login.path, reason=str(error)) from error
    users, clusters = config.users, config.clusters
    if len(users) != 1 or (users[0].certificate.data, users[0].key.data) != (found.pem, found.key):
        return f"{login.path.name} does not hold this certificate and its key"
    if len(clusters) != 1 or clusters[0].ca.data != ca.pem:
        return f"{login.path.name} does not hold the CA {login.ca}"
    if clusters[0].server != login.server:
        return f"{login.path.name} names {clusters[0].server}, planned is {login.server}"
    return ""


def _of_pair(pair: Pair) -> Decision:
    has_key, has_public = bool(content_of(pair.key)), bool(content_of(pair.public))
    if has_key and has_public:
        return Decision(spec=pair, state="kept", keeps_key=True)
    missing = pair.public if has_key else pair.key
    reason = f"{missing.name} is missing"
    return Decision(spec=pair, state="missing", reasons=(reason,), keeps_key=has_key)


def demand_valid(ca: Spec, facts: CertificateFacts, now: datetime) -> None:
    """Check that what a CA signs now is accepted; raises CANotYetValid or CAExpired."""
    if facts.not_before > now:
        raise CANotYetValid(path=ca.place, when=rfc3339(facts.not_before))
    if facts.not_after <= now:
        raise CAExpired(path=ca.place, when=day(facts.not_after))


def _demand_cas(decisions: list[Decision], held: dict[str, Held], now: datetime) -> None:
    """Check that each CA that must sign something can do it."""
    known = {each.spec.name: each.spec for each in decisions}
    for each in decisions:
        if each.is_kept or each.only_login or isinstance(each.spec, Pair) or not each.spec.issuer:
            continue
        ca, spec = held[each.spec.issuer], known[each.spec.issuer]
        if ca.facts is None or isinstance(spec, Pair):
            continue
        demand_valid(spec, ca.facts, now)
        if not ca.has_key:
            raise CAWithoutKey(path=spec.place, key=spec.key or "", needed=each.spec.name)
