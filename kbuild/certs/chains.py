"""Follow each certificate to the CAs that were found, by signatures."""

from collections.abc import Iterable
from dataclasses import dataclass

from kbuild.certs.model import Chain
from kbuild.certs.paths import near
from kbuild.certs.reading import CertificateEntry
from kbuild.x509.api import signed_by

# A hostile folder may hold thousands of CAs of one name; after years of renewals there are a few.
_MAX_TRIED = 32
_MAX_DEPTH = 16  # CAs above one another


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """How far a certificate could be followed, and the CA that signed it, if it was found."""

    chain: Chain
    ca: CertificateEntry | None


class Chains:
    """The CAs by name; those of kubeconfigs only if there is none of that name in a file."""

    def __init__(self, entries: Iterable[CertificateEntry]) -> None:
        self._cas: dict[str, list[CertificateEntry]] = {}
        self._known: dict[str, Issuer] = {}
        cas = {e.facts.fingerprint: e for e in sorted(entries, key=_files_last) if e.facts.may_sign}
        in_files = {ca.facts.subject for ca in cas.values() if not _is_embedded(ca)}
        for ca in cas.values():
            # What a kubeconfig embeds is a copy, which may be out of date.
            if not _is_embedded(ca) or ca.facts.subject not in in_files:
                self._cas.setdefault(ca.facts.subject, []).append(ca)

    def issuer_of(self, entry: CertificateEntry, depth: int = 0) -> Issuer:
        """Return who signed a certificate."""
        known = self._known.get(entry.facts.fingerprint)
        if known is None:
            known = self._known[entry.facts.fingerprint] = self._find(entry, depth)
        return known

    def _find(self, entry: CertificateEntry, depth: int) -> Issuer:
        facts = entry.facts
        if facts.is_self_issued and signed_by(facts, facts):
            return Issuer(chain="self-signed", ca=None)
        named = self._cas.get(facts.issuer, [])
        ca = next((ca for ca in self._candidates(entry, named) if signed_by(facts, ca.facts)), None)
        if ca is None:
            return Issuer(chain="bad-signature" if named else "unknown-issuer", ca=None)
        if depth == _MAX_DEPTH:
            return Issuer(chain="unknown-issuer", ca=ca)
        above = self.issuer_of(ca, depth + 1).chain
        return Issuer(chain="verified" if above in ("self-signed", "verified") else above, ca=ca)

    def _candidates(
        self, entry: CertificateEntry, named: list[CertificateEntry]
    ) -> list[CertificateEntry]:
        """Return the CAs to try: of the named key first, then the nearest, then the longest."""
        others = [ca for ca in named if ca.facts.fingerprint != entry.facts.fingerprint]
        if len(others) > 1:
            others.sort(key=lambda ca: _rank(entry, ca))
        return others[:_MAX_TRIED]


def _rank(entry: CertificateEntry, ca: CertificateEntry) -> tuple[bool, int, float]:
    key_id = entry.facts.issuer_key_id
    is_named = key_id is not None and key_id == ca.facts.own_key_id
    return not is_named, -near(entry.path, ca.path), -ca.facts.not_after.timestamp()


def _is_embedded(entry: CertificateEntry) -> bool:
    return entry.place.startswith(("users[", "clusters["))


def _files_last(entry: CertificateEntry) -> tuple[bool, bool, str]:
    """Sort the copies of a CA so that the one that stands for all comes last."""
    return not _is_embedded(entry), not entry.place, entry.path
