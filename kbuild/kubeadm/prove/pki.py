"""Have kubeadm issue and renew everything, and check every date that it wrote."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from string import Template

from packaging.version import Version

from kbuild.base.eras import era_of
from kbuild.base.sandbox import Files
from kbuild.kubeadm.model import Case, IssuedCertificate, Lifetimes, Moment, StoredDefaults
from kbuild.kubeadm.prove.eras import Era, eras
from kbuild.kubeadm.prove.errors import MissingCertificate, NotRenewed, WrongLifetime
from kbuild.kubeadm.prove.issued import (
    CAS,
    KUBECONFIGS,
    LEAVES,
    Certificate,
    UnreadableCertificate,
    make_old_cas,
    read_certificates,
)
from kbuild.kubeadm.prove.runner import ETC_KUBERNETES, Runner
from kbuild.kubernetes.configuration import configuration_of
from kbuild.kubernetes.renewal import renewal_of

_CASES: tuple[Case, ...] = ("fresh-ca", "old-ca")
_STORED_CASES: tuple[Case, ...] = ("stored-defaults", "stored-values")
# kubeadm backdates by CertificateBackdate, 5 minutes (cmd/kubeadm/app/constants/constants.go since
# v1.28.0); from v1.31 NotAfter counts from there. X.509 drops what is less than a second.
SLACK = timedelta(minutes=5, seconds=1)
_OLD_CA_AGE = timedelta(days=3 * 365)
_HOURS_A_DAY = 24
RUNS_OF_A_CASE = 3  # of kubeadm, in `prove_pki`


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The certificates that one command has made, and between which times it was called."""

    moment: Moment
    began: datetime
    ended: datetime
    certificates: list[Certificate]


def cases(version: Version, accepted: Sequence[StoredDefaults]) -> tuple[Case, ...]:
    """Return the cases of a version; ``accepted`` is empty where no lifetimes are to be stored."""
    stored = accepted and era_of(eras(), version).stored
    return _CASES + (_STORED_CASES if stored else ())


def prove_pki(
    case: Case,
    runner: Runner,
    version: Version,
    lifetimes: Lifetimes,
    accepted: Sequence[StoredDefaults] = (),
) -> tuple[IssuedCertificate, ...]:
    """Issue and renew a whole PKI and return every certificate seen.

    ``case`` is ``fresh-ca`` (kubeadm makes the CAs too), ``old-ca`` (they are three years old
    already), or one of a fresh PKI by a configuration with lifetimes: ``stored-defaults`` (those of
    a stock kubeadm, which it must treat in one of the ways ``accepted``) or ``stored-values``
    (others). Where kubeadm can make ECDSA keys, which takes less time than RSA, those that renew in
    the first case and those that issue in the second are such, and all in the others. Raises
    WrongLifetime, MissingCertificate, NotRenewed, KubeadmFailed or SandboxLimit.
    """
    seen = _issue_and_renew(case, runner, version, lifetimes)
    ways = accepted if case == "stored-defaults" else ("keep",)
    *others, last = (lifetimes.expected(case, way) for way in ways)
    for other in others:
        with contextlib.suppress(WrongLifetime):
            return _check(case, other, seen)
    return _check(case, last, seen)


def issued_lifetimes(runner: Runner, version: Version) -> Lifetimes:
    """Return the lifetimes that a kubeadm issues, in the nearest whole number of years.

    Raises MissingCertificate, KubeadmFailed or SandboxLimit.
    """
    name, config = "kbuild-issue.yaml", _config(era_of(eras(), version), version, None, ecdsa=True)
    now = datetime.now(UTC)
    issue = ("init", "phase", "certs", "all", f"--config={ETC_KUBERNETES / name}")
    _, files = runner.run(issue, {name: config.encode()})
    issued = _read(files, "fresh-ca", "issued", [*CAS, *LEAVES])
    ca, leaf = (
        max(1, round((issued[path].not_after - now) / timedelta(days=365)))
        for path in ("pki/ca.crt", "pki/apiserver.crt")
    )
    return Lifetimes(ca_years=ca, leaf_years=leaf)


def stored_defaults_of(
    certificates: Sequence[IssuedCertificate],
    lifetimes: Lifetimes,
    accepted: Sequence[StoredDefaults],
) -> StoredDefaults | None:
    """Return what a kubeadm did with stock's defaults, None where no configuration stored them."""
    years = {c.kind == "ca": c.years for c in certificates if c.case == "stored-defaults"}
    for way in accepted:
        expected = lifetimes.expected("stored-defaults", way)
        if years == {True: expected.ca_years, False: expected.leaf_years}:
            return way
    return None


def _issue_and_renew(
    case: Case, runner: Runner, version: Version, lifetimes: Lifetimes
) -> list[_Seen]:
    era, renewal = era_of(eras(), version), renewal_of(version)
    stored = lifetimes.stored(case) if case in _STORED_CASES else None
    files: Files = {
        "kbuild-issue.yaml": _config(era, version, stored, ecdsa=case != "fresh-ca").encode(),
        "kbuild-renew.yaml": _config(era, version, stored, ecdsa=case != "old-ca").encode(),
    }
    issue, renew = (f"--config={ETC_KUBERNETES / name}" for name in files)
    now = datetime.now(UTC).replace(microsecond=0)
    if case == "old-ca":
        born = now - _OLD_CA_AGE
        files = {**files, **make_old_cas(born=born, ends=born + timedelta(days=292 * 365))}

    _, files = runner.run(("init", "phase", "certs", "all", issue), files)
    _, files = runner.run(("init", "phase", "kubeconfig", "all", issue), files)
    issued = _read(files, case, "issued", [*CAS, *LEAVES, *KUBECONFIGS, *renewal.kubeconfigs])
    ours = [c for c in issued.values() if case != "old-ca" or c.kind != "ca"]
    first = _Seen(moment="issued", began=now, ended=datetime.now(UTC), certificates=ours)

    began = datetime.now(UTC)
    _, files = runner.run((*renewal.renew, renew), files)
    renewed = _read(files, case, "renewed", list(issued))
    for path in (*LEAVES, *renewal.kubeconfigs):
        if renewed[path].fingerprint == issued[path].fingerprint:
            raise NotRenewed(path=path, case=case)
    changed = [c for p, c in renewed.items() if p not in issued or _differs(c, issued[p])]
    ended = datetime.now(UTC)
    return [first, _Seen(moment="renewed", began=began, ended=ended, certificates=changed)]


def _differs(now: Certificate, before: Certificate) -> bool:
    return now.fingerprint != before.fingerprint


def _read(files: Files, case: Case, moment: Moment, expected: list[str]) -> dict[str, Certificate]:
    try:
        found = read_certificates(files)
    except UnreadableCertificate as error:
        raise MissingCertificate(
            path=error.path, case=case, moment=moment, details=error.reason
        ) from error
    for path in expected:
        if path not in found:
            raise MissingCertificate(path=path, case=case, moment=moment)
    return found


def _check(case: Case, expected: Lifetimes, seen: list[_Seen]) -> tuple[IssuedCertificate, ...]:
    issued, wrong = [], []
    for each in seen:
        for certificate in each.certificates:
            try:
                issued.append(_issued(case, expected, each, certificate))
            except WrongLifetime as error:
                wrong.append(error)
    if wrong:
        wrong[0].details = "\n".join(other.happened for other in wrong[1:])
        raise wrong[0]
    return tuple(issued)


def _issued(
    case: Case, expected: Lifetimes, seen: _Seen, certificate: Certificate
) -> IssuedCertificate:
    ca = certificate.kind == "ca"
    years = expected.ca_years if ca else expected.leaf_years
    lifetime = expected.ca if ca else expected.leaf
    if not seen.began - SLACK + lifetime <= certificate.not_after <= seen.ended + lifetime:
        raise WrongLifetime(
            path=certificate.path,
            case=case,
            moment=seen.moment,
            years=years,
            actual=certificate.not_after.isoformat(),
            expected=(seen.ended + lifetime).isoformat(timespec="seconds"),
        )
    return IssuedCertificate(
        case=case,
        moment=seen.moment,
        kind=certificate.kind,
        path=certificate.path,
        subject=certificate.subject,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        years=years,
    )


def _config(era: Era, version: Version, stored: Lifetimes | None, *, ecdsa: bool) -> str:
    api = configuration_of(version).kubeadm_api
    # 192.0.2.1 is a documentation address (RFC 5737): nothing here is ever connected to.
    return f"""\
apiVersion: {api}
kind: InitConfiguration
localAPIEndpoint:
  advertiseAddress: 192.0.2.1
nodeRegistration:
  name: kbuild-proof
---
apiVersion: {api}
kind: ClusterConfiguration
kubernetesVersion: v{version.base_version}
{era.ecdsa if ecdsa else ""}
{_stored(era, stored) if stored else ""}
"""


def _stored(era: Era, lifetimes: Lifetimes) -> str:
    """Return the fields that store these lifetimes, as kubeadm writes them."""
    ca, leaf = (f"{span.days * _HOURS_A_DAY}h0m0s" for span in (lifetimes.ca, lifetimes.leaf))
    return Template(era.stored).substitute(ca=ca, leaf=leaf)
