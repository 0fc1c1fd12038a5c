"""Which CA signs which of cfssl's requests, where a directory has several CAs."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from kbuild.base.values import did_you_mean
from kbuild.pki.errors import BadPkiFile, UnknownSigner
from kbuild.pki.model import Spec
from kbuild.pki.state import held_of
from kbuild.x509.api import quiet, signed_by


def signed(
    folder: Path, leaves: list[Spec], authorities: list[Spec], given: Mapping[str, str]
) -> Iterator[Spec]:
    """Yield leaves with their CAs: the given one, or the only one, or the one that signed it.

    Raises an error of kbuild.pki.errors.
    """
    cas = {each.name: each for each in authorities}
    names = [each.name for each in leaves]
    for name, ca in given.items():
        if name not in names:
            reason = did_you_mean(name, names) or f"the requests are {', '.join(names)}"
            raise _unknown(folder, name, reason, cas)
        if ca not in cas:
            reason = did_you_mean(ca, cas) or f"{ca!r} is no CA"
            raise _unknown(folder, name, reason, cas)
    if leaves and not cas:
        raise BadPkiFile(
            path=folder,
            reason="none of the requests is that of a CA, and one must sign the others",
            hint="a CA is ca-csr.json, or a request with a table `ca` in it",
        )
    for leaf in leaves:
        name = given.get(leaf.name, "") or _signer(folder, leaf, cas)
        yield replace(leaf, issuer=name)


def _signer(folder: Path, leaf: Spec, cas: Mapping[str, Spec]) -> str:
    if len(cas) == 1:
        return next(iter(cas))
    facts = held_of(leaf).facts
    if facts is None:
        reason = "there are several CAs, and no certificate yet"
        raise _unknown(folder, leaf.name, reason, cas)
    with quiet():
        for name, each in cas.items():
            ca = held_of(each).facts
            if ca is not None and signed_by(facts, ca):
                return name
    raise _unknown(folder, leaf.name, "none of them signed the certificate that is there", cas)


def _unknown(folder: Path, name: str, reason: str, cas: Mapping[str, Spec]) -> UnknownSigner:
    return UnknownSigner(path=folder, name=name, reason=reason, known=", ".join(cas))
