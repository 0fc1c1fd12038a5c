"""The values of an inventory; all times are UTC."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from kbuild.certs.paths import split_extension

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # the worst first
# How far the issuer of a certificate could be followed among the CAs that were found. verified: up
# to a self-signed CA. self-signed: it is one itself. unknown-issuer: its issuer was not found.
# bad-signature: a CA with the issuer's name was found, and its key did not sign this certificate.
Chain = Literal["verified", "self-signed", "unknown-issuer", "bad-signature"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The owner and the permissions of a file; ``mode`` holds the permission bits."""

    user: str
    group: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateKey:
    """The private key of a certificate; ``fits`` is None if it could not be read (encrypted)."""

    path: str
    owner: Owner
    fits: bool | None
    encrypted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate and where it stands.

    ``place`` tells which one of a file with several it is: ``""``, ``certificate 2``, or the key of
    a kubeconfig, ``users[kubernetes-admin].client-certificate-data``. ``role`` is what it is for
    (``API server, server``). ``key`` is type and size (``RSA 2048``, ``ECDSA P-256``).
    ``fingerprint`` is the SHA-256 in hexadecimal digits. ``issued_by`` is the path of the CA
    certificate whose key signed it, None if it was not found. ``is_superseded`` tells whether
    kubelet has replaced it, and nobody uses it.
    """

    path: str
    place: str
    role: str
    subject: str
    issuer: str
    serial: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    is_ca: bool
    key: str
    names: tuple[str, ...]
    usages: tuple[str, ...]
    chain: Chain
    issued_by: str | None
    owner: Owner
    private_key: PrivateKey | None
    is_superseded: bool = False

    @property
    def lifetime(self) -> timedelta:
        """Return the time from NotBefore to NotAfter."""
        return self.not_after - self.not_before

    @property
    def rank(self) -> tuple[bool, bool, int, list[str]]:
        """Return what sorts copies of a certificate: a backup comes after the file in use.

        A file of its own comes first, then one with a key of its name beside it, as ``ca.key`` and
        ``ca-key.pem`` are, then the least deep.
        """
        folders = self.path.split("/")
        key = self.private_key.path if self.private_key else ""
        is_alone = not key.startswith(split_extension(self.path)[0])
        return bool(self.place), is_alone, len(folders), folders

    def time_left(self, now: datetime) -> timedelta:
        """Return the time until NotAfter, negative if it has passed."""
        return self.not_after - now


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong or needs attention, and the next command to type.

    ``kind`` is stable, in kebab case (``expired``, ``leaf-outlives-ca``, ``unreadable``). ``path``
    and ``place`` are those of the certificate or the file that it is about.
    """

    severity: Severity
    kind: str
    path: str
    place: str
    reason: str
    command: str


def first_to_expire(certificate: Certificate) -> tuple[datetime, str, str]:
    """Sort certificates by their ends, then by where they stand."""
    return certificate.not_after, certificate.path, certificate.place


def worst_first(found: Finding) -> tuple[int, str, str, str]:
    """Sort findings by severity, then by what they are about."""
    return SEVERITIES.index(found.severity), found.path, found.place, found.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All certificates that were found, the first to expire first, and the findings on them.

    ``read_at`` is the moment that everything is judged by. ``paths`` are the requested files and
    directories. Findings are sorted by severity, the worst first.
    """

    read_at: datetime
    paths: tuple[str, ...]
    certificates: tuple[Certificate, ...]
    findings: tuple[Finding, ...]
