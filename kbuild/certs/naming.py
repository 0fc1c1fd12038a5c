"""How certificates are named where there is little room, and how bad each one is."""

import os.path
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kbuild.base.printable import printable
from kbuild.certs.model import SEVERITIES, Certificate, Inventory, Severity

_EMBEDDED = re.compile(r"(cluster|user)s\[(.*)\]\.[a-z-]+(?: .*)?", re.DOTALL)
# RFC 4514 section 3: an attribute, and what stands for a character in its value.
_ATTRIBUTE = re.compile(r"(?:^|[,+]) *([^=,+]+)=((?:\\.|[^,+\\])*)", re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:([0-9A-Fa-f]{2})|(.))", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Where in a kubeconfig a certificate is: of a ``cluster`` or a ``user``, and its name."""

    kind: str
    key: str


def embedded(certificate: Certificate) -> Embedded | None:
    """Return where in a kubeconfig a certificate is, None if it is in another file."""
    found = _EMBEDDED.fullmatch(certificate.place)
    return None if found is None else Embedded(kind=found[1], key=found[2])


def short_names(certificates: Sequence[Certificate]) -> list[str]:
    """Return a name for each certificate that tells it from the others: printable, one line.

    That is its path below ``common_folder``, and its place in the file.
    """
    folder = common_folder(certificates)
    return [printable(_short_name(each, folder)) for each in certificates]


def common_name(name: str) -> str:
    """Return the common name of a distinguished name in RFC 4514's form; empty if it has none."""
    pairs = (match.groups() for match in _ATTRIBUTE.finditer(name))
    return next((_unescaped(value) for kind, value in pairs if kind == "CN"), "")


def _unescaped(value: str) -> str:
    octets = _ESCAPE.sub(
        lambda m: bytes.fromhex(m[1].decode()) if m[1] else m[2],
        value.encode(errors="surrogateescape"),
    )
    return octets.decode(errors="surrogateescape")


def columns(text: str) -> int:
    """Return how many columns of a terminal a printable text takes."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def common_folder(certificates: Sequence[Certificate]) -> str:
    """Return the folder that all paths begin with, with a slash at its end, or an empty text."""
    folders = {each.path.rpartition("/")[0] for each in certificates}
    if not folders or len({folder.startswith("/") for folder in folders}) > 1:
        return ""
    folder = os.path.commonpath(folders)
    is_of_all = folder not in ("", "/") and all(
        each.path.startswith(f"{folder}/") for each in certificates
    )
    return f"{folder}/" if is_of_all else ""


def _short_name(certificate: Certificate, folder: str) -> str:
    path = certificate.path.removeprefix(folder)
    inside = embedded(certificate)
    place = certificate.place if inside is None else f"{inside.kind} {inside.key}"
    return f"{path}, {place}" if place else path


def without_copies(certificates: Sequence[Certificate]) -> list[Certificate]:
    """Return the certificates without those of CAs in kubeconfigs that are in another file too."""
    copies = {c.fingerprint for c in certificates if c.is_ca and not c.place}
    return [c for c in certificates if not (c.place and c.fingerprint in copies)]


def worst(inventory: Inventory) -> Mapping[tuple[str, str], Severity]:
    """Return the worst severity of the findings on each certificate, by its path and place."""
    found: dict[tuple[str, str], Severity] = {}
    for finding in sorted(inventory.findings, key=lambda f: SEVERITIES.index(f.severity)):
        found.setdefault((finding.path, finding.place), finding.severity)
    return found
