"""Follow each certificate to the CAs that were found, by signatures."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from kbuild.certs.model import Chain
from kbuild.certs.paths import folder_of, near
from kbuild.certs.reading import CertificateEntry
from kbuild.x509.api import signed_by

# A hostile directory may hold thousands of CAs of one name; after renewals there are a few.
_MAX_TRIED = 1000  # keys for each certificate, until the attempts are used up
_MAX_ATTEMPTS = 20_000
_FEW = 8
_MAX_ALIKE = 32  # certificates of one CA
_MAX_ABOVE = 64  # CAs above a certificate

_Named = dict[bytes, list[CertificateEntry]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """How far a certificate could be followed, and the CA that signed it, if it was found."""

    chain: Chain
    ca: CertificateEntry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signers:
    """The certificates of the CA that signed one, the best first; without any, what is wrong."""

    cas: tuple[CertificateEntry, ...] = ()
    chain: Chain = "unknown-issuer"


class Chains:
    """The CAs by name and by public key, and those that each kubeconfig embeds."""

    def __init__(self, entries: Iterable[CertificateEntry]) -> None:
        self._named: dict[str, _Named] = {}
        self._by_key_id: dict[tuple[str, bytes], dict[bytes, None]] = {}
        self._own: dict[str, dict[bytes, None]] = {}
        self._signers: dict[tuple[str, str], _Signers] = {}
        self._above: dict[str, Chain] = {}
        self._roots: dict[str, bool] = {}
        self._attempts = _MAX_ATTEMPTS
        cas: dict[str, CertificateEntry] = {}
        for entry in sorted(entries, key=_files_last):
            if entry.facts.may_sign:
                cas[entry.facts.fingerprint] = entry
                if _is_embedded(entry):
                    self._own.setdefault(entry.path, {})[entry.facts.public_key] = None
        for ca in sorted(cas.values(), key=_longest_first):
            facts = ca.facts
            self._named.setdefault(facts.subject, {}).setdefault(facts.public_key, []).append(ca)
            if facts.own_key_id is not None:
                which = facts.subject, facts.own_key_id
                self._by_key_id.setdefault(which, {})[facts.public_key] = None

    def issuer_of(self, entry: CertificateEntry) -> Issuer:
        """Return who signed a certificate."""
        if self._is_root(entry):
            return Issuer(chain="self-signed", ca=None)
        signers = self._signers_of(entry)
        if not signers.cas:
            return Issuer(chain=signers.chain, ca=None)
        # A CA that was cross-signed has several certificates, and not all of them lead to a root.
        for ca in signers.cas:
            if self._chain_above(ca) == "verified":
                return Issuer(chain="verified", ca=ca)
        return Issuer(chain=self._chain_above(signers.cas[0]), ca=signers.cas[0])

    def _chain_above(self, ca: CertificateEntry) -> Chain:
        """Return how far a CA can be followed, whichever of its signers leads on."""
        known = self._above.get(ca.facts.fingerprint)
        if known is None:
            known = self._above[ca.facts.fingerprint] = self._follow(ca)
        return known

    def _follow(self, ca: CertificateEntry) -> Chain:
        seen, waiting, ends = {ca.facts.fingerprint}, [ca], set[Chain]()
        for each in waiting:
            if self._is_root(each):
                return "verified"
            signers = self._signers_of(each)
            if not signers.cas:
                ends.add(signers.chain)
            for above in signers.cas:
                if above.facts.fingerprint not in seen and len(seen) < _MAX_ABOVE:
                    seen.add(above.facts.fingerprint)
                    waiting.append(above)
        return "bad-signature" if ends == {"bad-signature"} else "unknown-issuer"

    def _is_root(self, entry: CertificateEntry) -> bool:
        facts = entry.facts
        known = self._roots.get(facts.fingerprint)
        if known is None:
            known = facts.is_self_issued and signed_by(facts, facts) is True
            self._roots[facts.fingerprint] = known
        return known

    def _signers_of(self, entry: CertificateEntry) -> _Signers:
        # In a kubeconfig the answer depends on what else it embeds.
        which = entry.facts.fingerprint, entry.path if _is_embedded(entry) else ""
        known = self._signers.get(which)
        if known is None:
            known = self._signers[which] = self._find(entry)
        return known

    def _find(self, entry: CertificateEntry) -> _Signers:
        named = self._named.get(entry.facts.issuer, {})
        is_certain, is_expected, tried = True, False, set[bytes]()
        for key in self._keys_to_try(entry, named):
            if key in tried:
                continue
            tried.add(key)
            others = _others(entry, named[key])
            if not others:
                continue
            self._attempts -= 1
            is_signed = signed_by(entry.facts, others[0].facts)
            if is_signed:
                return _Signers(cas=others)
            is_certain = is_certain and is_signed is not None
            is_expected = is_expected or any(self._is_expected(entry, ca) for ca in others)
        is_bad = is_certain and is_expected and len(tried) == len(named)
        return _Signers(chain="bad-signature" if is_bad else "unknown-issuer")

    def _keys_to_try(self, entry: CertificateEntry, named: _Named) -> Iterator[bytes]:
        """Yield the public keys of CAs to try: that of the key id and those beside it first."""
        limit = _MAX_TRIED if self._attempts > 0 else _FEW
        key_id = entry.facts.issuer_key_id
        by_id = self._by_key_id.get((entry.facts.issuer, key_id), {}) if key_id else {}
        yield from islice(by_id, limit)  # nearly always enough
        yield from (key for key in self._own.get(entry.path, {}) if key in named)
        yield from islice(named, limit)

    def _is_expected(self, entry: CertificateEntry, ca: CertificateEntry) -> bool:
        """Tell whether a CA of the right name should have signed a certificate.

        Most clusters have a CA with the name ``kubernetes``. So a kubeconfig may be of another
        cluster than a CA elsewhere, and what a kubeconfig embeds says nothing of other files.
        """
        if not _is_embedded(entry):
            return not _is_embedded(ca)
        if ca.facts.public_key in self._own.get(entry.path, {}):
            return True
        return not _is_embedded(ca) and ca.path.startswith(f"{folder_of(entry.path)}/")


def _others(entry: CertificateEntry, alike: list[CertificateEntry]) -> tuple[CertificateEntry, ...]:
    """Return the certificates of a CA but this one: in files first, the nearest, the longest.

    Files come before copies in kubeconfigs, which may be out of date.
    """
    others = [
        ca
        for ca in islice(alike, _MAX_ALIKE + 1)
        if ca.facts.fingerprint != entry.facts.fingerprint
    ]
    others.sort(key=lambda ca: (_is_embedded(ca), -near(entry.path, ca.path)))
    return tuple(others[:_MAX_ALIKE])


def _is_embedded(entry: CertificateEntry) -> bool:
    return entry.part != ""


def _files_last(entry: CertificateEntry) -> tuple[bool, bool, str]:
    """Sort the copies of a CA so that the one that stands for all comes last."""
    return not _is_embedded(entry), not entry.place, entry.path


def _longest_first(ca: CertificateEntry) -> tuple[bool, float]:
    return _is_embedded(ca), -ca.facts.not_after.timestamp()
