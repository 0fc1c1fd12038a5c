"""Follow each certificate to the CAs that were found, by signatures."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kbuild.certs.model import Chain
from kbuild.certs.paths import folder_of, near
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
    """The CAs by name, and those that each kubeconfig embeds."""

    def __init__(self, entries: Iterable[CertificateEntry]) -> None:
        self._cas: dict[str, list[CertificateEntry]] = {}
        self._by_key_id: dict[tuple[str, bytes], list[CertificateEntry]] = {}
        self._own: dict[str, set[str]] = {}
        self._known: dict[tuple[str, str], Issuer] = {}
        cas: dict[str, CertificateEntry] = {}
        for entry in sorted(entries, key=_files_last):
            if entry.facts.may_sign:
                cas[entry.facts.fingerprint] = entry
                if _is_embedded(entry):
                    self._own.setdefault(entry.path, set()).add(entry.facts.fingerprint)
        for ca in cas.values():
            self._cas.setdefault(ca.facts.subject, []).append(ca)
            if ca.facts.own_key_id is not None:
                named = (ca.facts.subject, ca.facts.own_key_id)
                self._by_key_id.setdefault(named, []).append(ca)

    def issuer_of(self, entry: CertificateEntry, depth: int = 0) -> Issuer:
        """Return who signed a certificate."""
        # In a kubeconfig the answer depends on what else it embeds.
        which = entry.facts.fingerprint, entry.path if _is_embedded(entry) else ""
        known = self._known.get(which)
        if known is None:
            known = self._known[which] = self._find(entry, depth)
        return known

    def _find(self, entry: CertificateEntry, depth: int) -> Issuer:
        facts = entry.facts
        if facts.is_self_issued and signed_by(facts, facts):
            return Issuer(chain="self-signed", ca=None)
        named = self._cas.get(facts.issuer, [])
        ca = next((ca for ca in self._candidates(entry, named) if signed_by(facts, ca.facts)), None)
        if ca is None:
            is_bad = any(self._is_expected(entry, ca) for ca in named)
            return Issuer(chain="bad-signature" if is_bad else "unknown-issuer", ca=None)
        if depth == _MAX_DEPTH:
            return Issuer(chain="unknown-issuer", ca=ca)
        above = self.issuer_of(ca, depth + 1).chain
        return Issuer(chain="verified" if above in ("self-signed", "verified") else above, ca=ca)

    def _candidates(
        self, entry: CertificateEntry, named: list[CertificateEntry]
    ) -> Iterator[CertificateEntry]:
        """Yield the CAs to try: of the named key first, then the nearest, then the longest.

        The CAs that the same kubeconfig embeds are among them, however many others there are. Files
        come before copies in kubeconfigs, which may be out of date.
        """
        key_id = entry.facts.issuer_key_id
        if key_id is not None:  # nearly always enough, and then not all have to be sorted
            yield from _nearest(entry, self._by_key_id.get((entry.facts.issuer, key_id), []))
        yield from _nearest(entry, named)
        own = self._own.get(entry.path, set())
        yield from (ca for ca in named if ca.facts.fingerprint in own)

    def _is_expected(self, entry: CertificateEntry, ca: CertificateEntry) -> bool:
        """Tell whether a CA of the right name should have signed a certificate.

        Most clusters have a CA with the name ``kubernetes``. So a kubeconfig may be of another
        cluster than a CA elsewhere, and what a kubeconfig embeds says nothing of other files.
        """
        if not _is_embedded(entry):
            return not _is_embedded(ca)
        if ca.facts.fingerprint in self._own.get(entry.path, set()):
            return True
        return not _is_embedded(ca) and ca.path.startswith(f"{folder_of(entry.path)}/")


def _nearest(entry: CertificateEntry, cas: list[CertificateEntry]) -> list[CertificateEntry]:
    others = [ca for ca in cas if ca.facts.fingerprint != entry.facts.fingerprint]
    if len(others) > 1:
        others.sort(key=lambda ca: _rank(entry, ca))
    return others[:_MAX_TRIED]


def _rank(entry: CertificateEntry, ca: CertificateEntry) -> tuple[bool, int, float]:
    return _is_embedded(ca), -near(entry.path, ca.path), -ca.facts.not_after.timestamp()


def _is_embedded(entry: CertificateEntry) -> bool:
    return entry.place.startswith(("users[", "clusters["))


def _files_last(entry: CertificateEntry) -> tuple[bool, bool, str]:
    """Sort the copies of a CA so that the one that stands for all comes last."""
    return not _is_embedded(entry), not entry.place, entry.path
