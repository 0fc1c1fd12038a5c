"""From paths to an inventory: read, tell what each is, follow the chains, judge."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path

from kbuild.base.progress import Progress
from kbuild.certs.chains import Chains, Issuer
from kbuild.certs.commands import quote
from kbuild.certs.copies import Copies, Copy
from kbuild.certs.errors import NothingToRead
from kbuild.certs.findings import cluster, dates, keys
from kbuild.certs.findings.seen import Scene, Seen
from kbuild.certs.findings.seen import scene as make_scene
from kbuild.certs.model import (
    Certificate,
    Chain,
    Finding,
    Inventory,
    Owner,
    PrivateKey,
    first_to_expire,
    worst_first,
)
from kbuild.certs.pairs import Keys
from kbuild.certs.paths import absolute, absolute_pattern
from kbuild.certs.reading import CertificateEntry, Problem, Tree, current_of, read_tree
from kbuild.certs.roles import role_of, usual_places
from kbuild.certs.walk import Files, Walk
from kbuild.x509.api import CertificateFacts, quiet

_JUDGES: tuple[Callable[[Scene], Iterator[Finding]], ...] = (
    *(dates.expiring, dates.outliving, dates.differing),
    *(keys.unfitting, keys.external_cas, keys.readable, keys.unread, keys.weak),
    *(cluster.chains, cluster.kubelets, cluster.embedded, cluster.trusted),
)
# What leaves certificates out that may be about to expire.
UNREAD = (
    *("unreadable", "not-a-certificate", "too-large", "too-many-files"),
    "kubeconfig-file-missing",
)


def places_to_read(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the paths given, or the usual places that exist; raises NothingToRead.

    A path that is missing among others is kept: it becomes a finding.
    """
    given = tuple(paths)
    looked_at = given or usual_places()
    existing = tuple(path for path in looked_at if not _is_missing(path))
    if not existing:
        which = "no such file or directory" if given else "none of the usual places exists here"
        raise NothingToRead(which=which, places=", ".join(map(str, looked_at)))
    return given or existing


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # reading it will tell
        return False
    return False


def take_inventory(
    paths: Iterable[Path], now: datetime, progress: Progress, exclude: tuple[str, ...] = ()
) -> Inventory:
    """Return what is below paths, judged by the moment ``now``, which is UTC.

    What cannot be read becomes a finding. ``exclude`` is as in walk.Walk. All paths become
    absolute: folders tell what a file is, kubeadm takes no other --cert-dir, and commands may be
    typed elsewhere.
    """
    walk = Walk(exclude=tuple(map(absolute_pattern, exclude)))
    return _judged(tuple(Path(absolute(str(path))) for path in paths), now, progress, walk)


def inventory_of(
    copies: Iterable[Copy], paths: Iterable[Path], now: datetime, progress: Progress
) -> Inventory:
    """Return what copies of another machine's files hold, as ``take_inventory`` would there.

    ``paths`` are those from which they were copied. No file of this machine is read.
    """
    return _judged(tuple(paths), now, progress, Copies(copies))


def _judged(asked: tuple[Path, ...], now: datetime, progress: Progress, files: Files) -> Inventory:
    with quiet():
        tree = read_tree(asked, progress, files)
        scene = make_scene(now, tree, tuple(_seen(tree)))
        findings = [*_problems(tree), *(found for judge in _JUDGES for found in judge(scene))]
    return Inventory(
        read_at=now,
        paths=tuple(map(str, asked)),
        certificates=tuple(sorted((one.shown for one in scene.seen), key=first_to_expire)),
        findings=tuple(sorted(findings, key=worst_first)),
    )


def _seen(tree: Tree) -> Iterator[Seen]:
    chains, pairs = Chains(tree.certificates), Keys(tree)
    for entry in tree.certificates:
        issuer = chains.issuer_of(entry)
        is_superseded = tree.is_superseded(entry.path)
        shown = _shown(entry, issuer, pairs.key_of(entry), is_superseded=is_superseded)
        yield Seen(entry=entry, issuer=issuer, shown=shown)


def _shown(
    entry: CertificateEntry, issuer: Issuer, key: PrivateKey | None, *, is_superseded: bool
) -> Certificate:
    facts = entry.facts
    used_as = entry.path if is_superseded else current_of(entry.path)
    return certificate_of(
        facts,
        path=entry.path,
        place=entry.place,
        role=role_of(used_as, entry.place, facts),
        chain=issuer.chain,
        issued_by=issuer.ca.path if issuer.ca else None,
        owner=entry.owner,
        private_key=key,
        is_superseded=is_superseded,
    )


def certificate_of(
    facts: CertificateFacts,
    *,
    path: str,
    place: str,
    role: str,
    chain: Chain,
    owner: Owner,
    issued_by: str | None = None,
    private_key: PrivateKey | None = None,
    is_superseded: bool = False,
) -> Certificate:
    """Return a certificate of an inventory: what it says, and what is known of where it stands."""
    return Certificate(
        path=path,
        place=place,
        role=role,
        subject=facts.subject,
        issuer=facts.issuer,
        serial=facts.serial,
        fingerprint=facts.fingerprint,
        not_before=facts.not_before,
        not_after=facts.not_after,
        is_ca=facts.is_ca,
        key=facts.key,
        names=facts.names,
        usages=facts.usages,
        chain=chain,
        issued_by=issued_by,
        owner=owner,
        private_key=private_key,
        is_superseded=is_superseded,
    )


def _problems(tree: Tree) -> Iterator[Finding]:
    for problem in tree.problems:
        yield Finding(
            severity="info" if problem.kind == "key-unreadable" else "warning",
            kind=problem.kind,
            path=problem.path,
            place=problem.place,
            reason=problem.reason,
            command=_look_at(problem),
        )


def _look_at(problem: Problem) -> str:
    if problem.kind == "not-a-certificate":
        return f"file {quote(problem.path)}"
    if problem.kind == "kubeconfig-file-missing":
        return f"kubectl config view --kubeconfig={quote(problem.path)}"
    return f"ls -ld {quote(problem.path)}"
