"""What the findings are made from."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from kbuild.certs.chains import Issuer
from kbuild.certs.model import Certificate, Finding, Severity
from kbuild.certs.reading import CertificateEntry, KeyEntry, KubeconfigEntry, Tree
from kbuild.certs.roles import KnownFile, known_file

# What is issued in one go, with one lifetime, ends within seconds.
SAME_TIME = timedelta(days=1)
ADMINISTRATOR = "administrator, client"


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
        return self.entry.number == 1 and (not place or place.startswith("users["))

    @property
    def is_in_use(self) -> bool:
        """Tell whether kubelet has not replaced it."""
        return not self.shown.is_superseded

    @property
    def issuer_key(self) -> bytes:
        """Return the public key of the CA that signed it, empty if that was not found."""
        return self.issuer.ca.facts.public_key if self.issuer.ca else b""

    @property
    def lifetime(self) -> timedelta:
        """Return the time from NotBefore to NotAfter."""
        return self.shown.lifetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that was ``seen``, and the moment by which it is judged.

    ``judged`` are the certificates in use; of the copies of a CA only the first by rank.
    ``latest_cas`` are the CAs in files of their own, by public key; of each the last to expire.
    """

    now: datetime
    tree: Tree
    seen: tuple[Seen, ...]
    judged: tuple[Seen, ...]
    kubeconfigs: Mapping[str, KubeconfigEntry]
    latest_cas: Mapping[bytes, Seen]
    _at: Mapping[tuple[str, str], Seen]
    _admins: Mapping[tuple[bytes, str], Seen]

    def ca_of(self, one: Seen) -> Seen | None:
        """Return the CA that signed a certificate, if it was found."""
        ca = one.issuer.ca
        return self._at.get((ca.path, ca.place)) if ca else None

    def admin_like(self, one: Seen) -> Seen | None:
        """Return kubeadm's admin.conf of the same cluster, if a kubeconfig is a copy of it."""
        if one.shown.role != ADMINISTRATOR or not one.issuer_key:
            return None
        found = self._admins.get((one.issuer_key, one.entry.facts.common_name))
        return found if found and found.shown.path != one.shown.path else None


def scene(now: datetime, tree: Tree, seen: tuple[Seen, ...]) -> Scene:
    """Return what the findings are made from."""
    judged = tuple(_judged(seen))
    return Scene(
        now=now,
        tree=tree,
        seen=seen,
        judged=judged,
        kubeconfigs={entry.path: entry for entry in tree.kubeconfigs},
        latest_cas={
            one.entry.facts.public_key: one
            for one in sorted(judged, key=lambda one: one.shown.not_after)
            if one.shown.is_ca and not one.shown.place
        },
        _at={(one.shown.path, one.shown.place): one for one in seen},
        _admins=dict(_admins(judged)),
    )


def _admins(judged: Iterable[Seen]) -> Iterator[tuple[tuple[bytes, str], Seen]]:
    for one in sorted(judged, key=lambda one: one.shown.not_after):
        is_kubeadms = one.file is not None and one.file.path == "admin.conf"
        if is_kubeadms and one.shown.role == ADMINISTRATOR and one.issuer_key:
            yield (one.issuer_key, one.entry.facts.common_name), one


def _judged(seen: tuple[Seen, ...]) -> Iterator[Seen]:
    known = set[str]()
    for one in sorted(seen, key=lambda one: one.shown.rank):
        is_copy = one.shown.is_ca and one.shown.fingerprint in known
        if one.is_in_use and not is_copy:
            known.add(one.shown.fingerprint)
            yield one


def finding(
    severity: Severity, kind: str, on: Certificate | KeyEntry, reason: str, command: str
) -> Finding:
    """Return a finding on a certificate or a private key."""
    return Finding(
        severity=severity,
        kind=kind,
        path=on.path,
        place=on.place,
        reason=reason,
        command=command,
    )
