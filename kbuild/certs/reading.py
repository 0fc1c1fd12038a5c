"""Read everything below paths: certificates, private keys and kubeconfigs, each with its place."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kbuild.base.files import reason_of
from kbuild.base.progress import Progress
from kbuild.certs.model import Owner
from kbuild.certs.paths import beside
from kbuild.certs.roles import known_file
from kbuild.certs.walk import MAX_SIZE, Files, Found, Unread, Walk, is_dated, is_gone
from kbuild.x509.api import (
    BadKubeconfig,
    CertificateFacts,
    Content,
    Embedded,
    KeyFacts,
    Kubeconfig,
    has_pem,
    is_meant_as_kubeconfig,
    looks_like_kubeconfig,
    looks_like_pem,
    read_content,
    read_kubeconfig,
)

# A file with such a name should hold a certificate or a key, so one that does not is reported.
_CERTIFICATES = (".crt", ".cer", ".cert", ".der", ".pem", ".p7b", ".p7c")
_KEYS = (".key", "-key.pem")
_TELL = 1000  # files between two reports of progress
_LONG_DER = (b"\x30\x81", b"\x30\x82", b"\x30\x83")


class CertificateEntry(NamedTuple):
    """A certificate, and where it stands; ``place`` is as in model.Certificate.

    ``part`` is the field of a kubeconfig, or empty; ``number`` counts what stands there, from 1 on.
    """

    path: str
    place: str
    part: str
    number: int
    owner: Owner
    facts: CertificateFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """A private key, and where it stands."""

    path: str
    place: str
    owner: Owner
    facts: KeyFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeconfigEntry:
    """A kubeconfig, and where it stands."""

    path: str
    owner: Owner
    kubeconfig: Kubeconfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A file, or a place in it, that cannot be read; ``kind`` is that of its finding."""

    path: str
    place: str
    kind: str
    reason: str


@dataclass(slots=True)
class Tree:
    """All that was found below the paths; ``files`` knows each file by its name.

    ``referenced`` are the files, by their names, that kubeconfigs refer to. ``der`` are the paths
    of those that are DER, not PEM, and ``pkcs7`` of those whose certificates are in PKCS#7.
    """

    certificates: list[CertificateEntry] = field(default_factory=list)
    keys: list[KeyEntry] = field(default_factory=list)
    kubeconfigs: list[KubeconfigEntry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: Files = field(default_factory=Walk)
    referenced: set[str] = field(default_factory=set)
    der: set[str] = field(default_factory=set)
    pkcs7: set[str] = field(default_factory=set)

    def name_of(self, path: str) -> str:
        """Return the name by which a file is shown, which may be another link to it."""
        return self.files.name_at(path) or path

    def is_superseded(self, path: str) -> bool:
        """Tell whether kubelet has replaced a certificate by one that was read too.

        A dated file without such a later one, or one that a kubeconfig refers to, may be in use.
        """
        if not is_dated(path) or path in self.referenced:
            return False
        later = self.files.name_at(current_of(path))
        return later is not None and later != path


def read_tree(paths: Iterable[Path], progress: Progress, files: Files) -> Tree:
    """Read the files below paths, and those that the kubeconfigs among them refer to."""
    tree = Tree(files=files)
    for number, found in enumerate(files.below(paths), 1):
        _take(found, tree)
        if number % _TELL == 0:
            progress.advance("files read", number, None)
    for entry in list(tree.kubeconfigs):
        for where, embedded in parts(entry.kubeconfig):
            if embedded.file:
                _read_referenced(entry, where, resolved(entry, embedded), tree)
    return tree


def parts(kubeconfig: Kubeconfig) -> list[tuple[str, Embedded]]:
    """Return all that a kubeconfig embeds or refers to, each with its place."""
    found = []
    for user in kubeconfig.users:
        found.append((f"users[{user.name}].client-certificate", user.certificate))
        found.append((f"users[{user.name}].client-key", user.key))
    found += [(f"clusters[{c.name}].certificate-authority", c.ca) for c in kubeconfig.clusters]
    return found


def resolved(entry: KubeconfigEntry, embedded: Embedded) -> str:
    """Return the path of a file that a kubeconfig refers to, relative to its folder."""
    return beside(entry.path, embedded.file)


def _read_referenced(entry: KubeconfigEntry, place: str, path: str, tree: Tree) -> None:
    for found in tree.files.file_at(path):
        if isinstance(found, Unread):
            reason = f"it refers to {path}, which cannot be read: {found.reason}"
            tree.problems.append(
                Problem(path=entry.path, place=place, kind="kubeconfig-file-missing", reason=reason)
            )
        else:
            _take(found, tree)
    tree.referenced.add(tree.name_of(path))


def current_of(path: str) -> str:
    """Return the path of the certificate that replaces a dated one; of others, their own."""
    file = known_file(path)
    return beside(path, file.current) if file and file.current else path


def _take(found: Found | Unread, tree: Tree) -> None:
    is_key, is_expected = _expected(found.path)
    if isinstance(found, Unread):
        if found.named or is_expected or found.kind != "unreadable":
            kind = "key-unreadable" if is_key else found.kind
            _report(tree, found.path, kind, found.reason)
        return
    is_expected = is_expected or found.named
    if found.status.st_size > MAX_SIZE:
        if is_expected:
            reason = f"it has {found.status.st_size} bytes, and at most {MAX_SIZE} are read"
            _report(tree, found.path, "too-large", reason)
        return
    if found.status.st_size == 0 and not is_expected:
        return
    try:
        content = tree.files.read(found)
    except OSError as error:
        _unreadable(found, tree, error, is_key=is_key, is_expected=is_expected)
        return
    _take_content(found, content, tree, is_key=is_key, is_expected=is_expected)


def _unreadable(
    found: Found, tree: Tree, error: OSError, *, is_key: bool, is_expected: bool
) -> None:
    if is_key:
        facts = KeyFacts(public_key=b"", problem=reason_of(error))
        owner = tree.files.owner(found)
        tree.keys.append(KeyEntry(path=found.path, place="", owner=owner, facts=facts))
    elif is_expected or not is_gone(error):
        _report(tree, found.path, "unreadable", reason_of(error))


def _take_content(
    found: Found, content: bytes, tree: Tree, *, is_key: bool, is_expected: bool
) -> None:
    owner = tree.files.owner(found)
    taken = Content()
    if looks_like_pem(content) or content.startswith(_LONG_DER):
        taken = read_content(content)
        if taken.is_der:
            tree.der.add(found.path)
        if taken.is_pkcs7:
            tree.pkcs7.add(found.path)
        _add(found.path, "", owner, taken, tree)
    # A comment in a kubeconfig may look like PEM.
    is_kubeconfig = looks_like_kubeconfig(content) and _take_kubeconfig(
        found, owner, content, tree, is_other=bool(taken)
    )
    if taken or is_kubeconfig:
        return
    if is_expected and (found.named or not has_pem(content)):
        what = "private key" if is_key else "certificate"
        reason = f"it holds no {what}" if content else "it is empty"
        _report(tree, found.path, "not-a-certificate", reason)


def _take_kubeconfig(
    found: Found, owner: Owner, content: bytes, tree: Tree, *, is_other: bool
) -> bool:
    """Take what a kubeconfig holds; tell whether it was anything, or was reported.

    A script or a page about kubeconfigs is passed over, unless its name is that of a kubeconfig or
    the user asked for it.
    """
    path = found.path
    try:
        kubeconfig = read_kubeconfig(content)
    except BadKubeconfig as error:
        is_expected = found.named or known_file(path) is not None
        if is_other or not (is_expected or is_meant_as_kubeconfig(content)):
            return False
        _report(tree, path, "unreadable", f"it is no kubeconfig that can be read: {error}")
        return True
    tree.kubeconfigs.append(KubeconfigEntry(path=path, owner=owner, kubeconfig=kubeconfig))
    for place, embedded in parts(kubeconfig):
        if embedded.problem:
            _report(tree, path, "unreadable", embedded.problem, f"{place}-data")
        elif embedded.data:
            taken = read_content(embedded.data)
            _add(path, f"{place}-data", owner, taken, tree)
            if not taken:
                _report(tree, path, "not-a-certificate", "it is not PEM", f"{place}-data")
    return any(each != Embedded() for _, each in parts(kubeconfig))


def _add(path: str, place: str, owner: Owner, taken: Content, tree: Tree) -> None:
    for number, facts in enumerate(taken.certificates, 1):
        which = place if number == 1 else f"{place} certificate {number}".strip()
        tree.certificates.append(
            CertificateEntry(
                path=path, place=which, part=place, number=number, owner=owner, facts=facts
            )
        )
    tree.keys += [KeyEntry(path=path, place=place, owner=owner, facts=key) for key in taken.keys]
    for problem in taken.problems:
        _report(tree, path, "unreadable", problem, place)


def _report(tree: Tree, path: str, kind: str, reason: str, place: str = "") -> None:
    tree.problems.append(Problem(path=path, place=place, kind=kind, reason=reason))


def _expected(path: str) -> tuple[bool, bool]:
    """Tell whether a name is that of a private key, and whether of a key or a certificate."""
    is_key = path.endswith(_KEYS)
    return is_key, is_key or path.endswith(_CERTIFICATES) or known_file(path) is not None
