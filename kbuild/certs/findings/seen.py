"""What the findings are made from."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from kbuild.certs.chains import Issuer
from kbuild.certs.model import Certificate, Finding, Severity
from kbuild.certs.reading import CertificateEntry, Tree
from kbuild.certs.roles import KnownFile, known_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A certificate as it is shown, with what it was made from."""

    shown: Certificate
    entry: CertificateEntry
    issuer: Issuer

    @property
    def file(self) -> KnownFile | None:
        """Return the well-known file that this is the certificate of."""
        return known_file(self.shown.path) if self.is_first else None

    @property
    def is_first(self) -> bool:
        """Tell whether it is what its file is for: not the CA of a kubeconfig or of a bundle."""
        place = self.shown.place
        return not place or (place.startswith("users[") and "certificate " not in place)

    @property
    def is_in_use(self) -> bool:
        """Tell whether kubelet has not replaced it."""
        file = known_file(self.shown.path)
        return not file or file.state != "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that was ``seen``, and the moment by which it is judged.

    ``judged`` are the certificates in use; of the copies of a CA only one, in a file if it can be.
    """

    now: datetime
    tree: Tree
    seen: tuple[Seen, ...]
    judged: tuple[Seen, ...]


def scene(now: datetime, tree: Tree, seen: tuple[Seen, ...]) -> Scene:
    """Return what the findings are made from."""
    return Scene(now=now, tree=tree, seen=seen, judged=tuple(_judged(seen)))


def _judged(seen: tuple[Seen, ...]) -> Iterator[Seen]:
    known = set[str]()
    for one in sorted(seen, key=lambda one: bool(one.shown.place)):
        is_copy = one.shown.is_ca and one.shown.fingerprint in known
        known.add(one.shown.fingerprint)
        if one.is_in_use and not is_copy:
            yield one


def finding(
    severity: Severity, kind: str, certificate: Certificate, reason: str, command: str
) -> Finding:
    """Return a finding on a certificate."""
    return Finding(
        severity=severity,
        kind=kind,
        path=certificate.path,
        place=certificate.place,
        reason=reason,
        command=command,
    )
