"""Have kubeadm issue and renew everything, and check every date that it wrote."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import resources
from typing import get_args

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.base.eras import era_of, read_eras
from kbuild.base.sandbox import Files
from kbuild.kubeadm.model import Case, IssuedCertificate, Lifetimes, Moment
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

CASES: tuple[Case, ...] = get_args(Case)
# kubeadm backdates by CertificateBackdate, 5 minutes (cmd/kubeadm/app/constants/constants.go since
# v1.28.0); from v1.31 NotAfter counts from there. X.509 drops what is less than a second.
SLACK = timedelta(minutes=5, seconds=1)
_OLD_CA_AGE = timedelta(days=3 * 365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """How an era of kubeadm is driven; the fields are explained at the top of eras.toml."""

    versions: SpecifierSet
    read: list[str]
    config: str
    renew: list[str]
    renewed: list[str]
    ecdsa: str


def eras() -> tuple[Era, ...]:
    """Return the shipped eras, oldest first."""
    text = resources.files("kbuild.kubeadm.prove").joinpath("eras.toml").read_text()
    return read_eras(text, "era", Era)


def prove_pki(
    case: Case, runner: Runner, version: Version, lifetimes: Lifetimes
) -> tuple[IssuedCertificate, ...]:
    """Issue and renew a whole PKI and return every certificate seen.

    ``case`` is ``fresh-ca`` (kubeadm makes the CAs too) or ``old-ca`` (they are three years old
    already). Where kubeadm can make ECDSA keys, which takes less time than RSA, those that renew in
    the first case and those that issue in the second are such. Raises WrongLifetime,
    MissingCertificate, NotRenewed, KubeadmFailed or SandboxLimit.
    """
    era = era_of(eras(), version)
    files: Files = {
        "kbuild-issue.yaml": _config(era, version, ecdsa=case == "old-ca").encode(),
        "kbuild-renew.yaml": _config(era, version, ecdsa=case == "fresh-ca").encode(),
    }
    issue, renew = (f"--config={ETC_KUBERNETES / name}" for name in files)
    now = datetime.now(UTC).replace(microsecond=0)
    if case == "old-ca":
        born = now - _OLD_CA_AGE
        files = {**files, **make_old_cas(born=born, ends=born + timedelta(days=292 * 365))}
    check = partial(_check, case, lifetimes)

    _, files = runner.run(("init", "phase", "certs", "all", issue), files)
    _, files = runner.run(("init", "phase", "kubeconfig", "all", issue), files)
    issued = _read(files, case, "issued", [*CAS, *LEAVES, *KUBECONFIGS, *era.renewed])
    ours = [c for c in issued.values() if case == "fresh-ca" or c.kind != "ca"]
    seen = check("issued", now, ours)

    began = datetime.now(UTC)
    _, files = runner.run((*era.renew, renew), files)
    renewed = _read(files, case, "renewed", list(issued))
    expected = [*LEAVES, *era.renewed]
    for path in expected:
        if renewed[path].fingerprint == issued[path].fingerprint:
            raise NotRenewed(path=path, case=case)
    changed = [c for p, c in renewed.items() if p not in issued or _differs(c, issued[p])]
    return seen + check("renewed", began, changed)


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


def _check(
    case: Case,
    lifetimes: Lifetimes,
    moment: Moment,
    began: datetime,
    certificates: list[Certificate],
) -> tuple[IssuedCertificate, ...]:
    ended = datetime.now(UTC)
    seen = []
    for found in certificates:
        ca = found.kind == "ca"
        years = lifetimes.ca_years if ca else lifetimes.leaf_years
        lifetime = lifetimes.ca if ca else lifetimes.leaf
        if not began - SLACK + lifetime <= found.not_after <= ended + lifetime:
            raise WrongLifetime(
                path=found.path,
                case=case,
                moment=moment,
                years=years,
                actual=found.not_after.isoformat(),
                expected=(ended + lifetime).isoformat(timespec="seconds"),
            )
        seen.append(
            IssuedCertificate(
                case=case,
                moment=moment,
                kind=found.kind,
                path=found.path,
                subject=found.subject,
                not_before=found.not_before,
                not_after=found.not_after,
                years=years,
            )
        )
    return tuple(seen)


def _config(era: Era, version: Version, *, ecdsa: bool) -> str:
    # 192.0.2.1 is a documentation address (RFC 5737): nothing here is ever connected to.
    return f"""\
apiVersion: {era.config}
kind: InitConfiguration
localAPIEndpoint:
  advertiseAddress: 192.0.2.1
nodeRegistration:
  name: kbuild-proof
---
apiVersion: {era.config}
kind: ClusterConfiguration
kubernetesVersion: v{version.base_version}
{era.ecdsa if ecdsa else ""}
"""
