"""Find the certificates of a directory that ``kbuild pki import`` makes a plan for."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from kbuild.base.files import read_file, reason_of
from kbuild.pki.errors import (
    BadCertificateFile,
    BadPkiFile,
    DuplicateName,
    NotExpressible,
    UnknownCertificate,
)
from kbuild.pki.rotations import SIGNING
from kbuild.x509.api import (
    CertificateFacts,
    KeyKind,
    NotWanted,
    Wanted,
    kind_of,
    quiet,
    read_content,
    signed_by,
    wanted_of,
)

CERTIFICATE, KEY = ".pem", "-key.pem"
_OTHERS = (".crt", ".cer", ".cert")
_MAX_FILE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A certificate that is there, and what to ask for to get it again."""

    name: str
    path: Path
    facts: CertificateFacts
    wanted: Wanted
    key_kind: KeyKind

    @property
    def lifetime(self) -> timedelta:
        """Return how long it is valid."""
        return self.facts.not_after - self.facts.not_before

    @property
    def is_root(self) -> bool:
        """Tell whether it is a CA that has signed itself."""
        return self.facts.is_ca and bool(signed_by(self.facts, self.facts))


def expressed(name: str, path: Path, facts: CertificateFacts) -> Found:
    """Return a certificate with what to ask for; raises NotExpressible."""
    try:
        wanted, key_kind = wanted_of(facts), kind_of(facts)
    except NotWanted as error:
        raise NotExpressible(path=path, name=name, reason=str(error)) from error
    return Found(name=name, path=path, facts=facts, wanted=wanted, key_kind=key_kind)


def flat_files(folder: Path) -> list[Path]:
    """Return the files of a directory that have cfssl's names of certificates.

    Raises BadPkiFile if the directory cannot be read.
    """
    return [path for path in _flat_files(folder) if _rotated_from(path) is None]


def _flat_files(folder: Path) -> list[Path]:
    return [
        path
        for path in _files(folder)
        if path.name.endswith(CERTIFICATE) and not path.name.endswith(KEY)
    ]


def _rotated_from(path: Path) -> Path | None:
    """Return the CA whose signing file this is, None if it is none of a rotation.

    It may be left after the rotation, or be copied without the rotation's state.
    """
    name = path.name.removesuffix(f"{SIGNING}{CERTIFICATE}")
    ca = path.with_name(f"{name}{CERTIFICATE}")
    if name == path.name or not ca.is_file():
        return None
    mine = {each.subject for each in certificates_in(path) if each.is_ca}
    return ca if mine & {each.subject for each in certificates_in(ca) if each.is_ca} else None


def flat(folder: Path, without: Collection[str], notes: list[str]) -> list[Found]:
    """Return the certificates with cfssl's names, NAME.pem, without those that are left out.

    What is passed over, and why, is added to ``notes``. Raises an error of kbuild.pki.errors.
    """
    certificates = {path: certificates_in(path) for path in flat_files(folder)}
    names = {path.name.removesuffix(CERTIFICATE): path for path in certificates}
    for name in without:
        if name not in names:
            raise UnknownCertificate(name=name, known=", ".join(names))
    found = []
    for name, path in names.items():
        if name in without:
            continue
        if not certificates[path]:
            notes.append(f"{path.name} is passed over: there is no certificate in it.")
            continue
        if len(certificates[path]) > 1:
            notes.append(f"{path.name} has several certificates; the first one is taken.")
        found.append(expressed(name, path, certificates[path][0]))
    notes += _others(folder, {each.name for each in found})
    return found


def _others(folder: Path, names: Collection[str]) -> Iterator[str]:
    for path in _flat_files(folder):
        if ca := _rotated_from(path):
            yield f"{path.name} is passed over: a rotation of {ca.name} has left it."
    for path in _files(folder):
        if path.suffix not in _OTHERS or not certificates_in(path):
            continue
        if path.stem in names:
            where = f"{path.stem}{CERTIFICATE} and {path.name} would both be {path.stem}"
            raise DuplicateName(path=folder, name=path.stem, where=where)
        yield f"{path.name} is passed over: a plan for cfssl's files has NAME{CERTIFICATE} only."


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        hint = "name the directory of the certificates with --dir"
        raise BadPkiFile(path=folder, reason=reason_of(error), hint=hint) from error


def certificates_in(path: Path) -> list[CertificateFacts]:
    """Return the certificates of a file; raises BadCertificateFile."""
    try:
        with quiet():
            content = read_content(read_file(path, _MAX_FILE))
    except OSError as error:
        raise BadCertificateFile(path=path, reason=reason_of(error)) from error
    if content.problems:
        raise BadCertificateFile(path=path, reason=content.problems[0])
    return content.certificates
