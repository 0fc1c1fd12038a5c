"""Download the official kubeadm of a tag, and compare a stock build with it.

The site is laid out as upstream's: ``<site>/<tag>/bin/linux/<arch>/kubeadm`` and beside it
``kubeadm.sha256``, 64 hex digits and nothing else (kubernetes/release, pkg/release/release.go).
Since v1.26 there are also ``kubeadm.sig`` and ``kubeadm.cert``; see kbuild.kubeadm.prove.signature.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from packaging.version import Version

from kbuild.base.files import sha256
from kbuild.base.network import DownloadFailed, download
from kbuild.base.progress import Progress
from kbuild.base.words import shortened
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import BuildRequest, Proof, ProvenBinary, Published, Tag
from kbuild.kubeadm.prove import signature
from kbuild.kubeadm.prove.binary import read_version
from kbuild.kubeadm.prove.errors import (
    CannotRun,
    KubeadmFailed,
    NotAsPublished,
    PublisherFailed,
    WrongBinary,
)
from kbuild.kubeadm.prove.stock import MOST_SHOWN, differing_functions

_SIGNED_SINCE = Version("1.26.0")
_MOST = 1 << 16  # bytes of a checksum, a signature or a certificate
_MOST_OF_BINARY = 256 << 20


def find_published(
    tag: Tag, request: BuildRequest, workspace: Workspace, progress: Progress
) -> Published:
    """Download the official binary, and read its version if it can run here.

    Before it runs, its signature is verified, if upstream signs this release and the extra
    ``keyless`` is installed. Raises PublisherFailed, or the errors of proving a binary.
    """
    (arch,) = request.arches
    url = f"{request.release_site.rstrip('/')}/{tag.name}/bin/linux/{arch}/kubeadm"
    binary = _binary(workspace)
    binary.parent.mkdir()
    _fetch(url, binary, progress, _MOST_OF_BINARY)
    _fetch(f"{url}.sha256", binary.with_name("kubeadm.sha256"), progress)
    text = binary.with_name("kubeadm.sha256").read_text(errors="replace")
    digest = re.match(r"[0-9a-f]{64}(?=\s|$)", text)
    if digest is None or digest[0] != sha256(binary):
        reason = "it is not a sha256" if digest is None else f"kubeadm has sha256 {sha256(binary)}"
        raise PublisherFailed(url=f"{url}.sha256", reason=reason)
    signer = _verified_signer(tag, url, digest[0], workspace, progress)
    binary.chmod(0o755)
    try:
        version = read_version(binary, workspace)
    except (KubeadmFailed, WrongBinary, ValueError) as error:
        raise PublisherFailed(url=url, reason=str(error)) from error
    return Published(url=url, sha256=digest[0], version=version or {}, signer=signer)


def _fetch(url: str, target: Path, progress: Progress, limit: int = _MOST) -> None:
    try:
        download(url, target, f"download the official {target.name}", progress, limit)
    except DownloadFailed as error:
        raise PublisherFailed(url=url, reason=str(error)) from error


def _verified_signer(
    tag: Tag, url: str, digest: str, workspace: Workspace, progress: Progress
) -> str | None:
    """Return the signer of the official binary, or None if its signature cannot be verified."""
    same_site = "the checksum of the official binary comes from the same site"
    if tag.version < _SIGNED_SINCE:
        progress.say(f"{same_site}; upstream has signed only since v{_SIGNED_SINCE}")
        return None
    if not signature.can_verify():
        progress.say(f"{same_site}; to verify its signature: pip install '.[keyless]'")
        return None
    files = [_binary(workspace).with_name(f"kubeadm{suffix}") for suffix in (".sig", ".cert")]
    for file in files:
        _fetch(f"{url}{file.suffix}", file, progress)
    try:
        signature.verify(digest, *(file.read_bytes() for file in files))
    except signature.BadSignature as error:
        raise PublisherFailed(url=f"{url}.sig", reason=str(error)) from error
    progress.say(f"the official binary is signed by {signature.SIGNER}")
    return signature.SIGNER


def build_date_of(published: Published) -> datetime:
    """Return the build date of the official binary; raises CannotRun if it is unknown."""
    try:
        return datetime.fromisoformat(published.version["buildDate"]).astimezone(UTC)
    except (KeyError, ValueError, OverflowError) as error:
        reason = "so its build date is unknown; give it with --build-date"
        raise CannotRun(path=published.url, reason=reason) from error


def as_published(proven: ProvenBinary, published: Published, workspace: Workspace) -> ProvenBinary:
    """Return the binary with the official one in its proof.

    Raises NotAsPublished unless they are identical.
    """
    proof = proven.proof
    if proof.sha256 != published.sha256:
        raise NotAsPublished(
            actual=proof.sha256,
            url=published.url,
            expected=published.sha256,
            details="\n".join(_differences(proof, published, workspace)),
        )
    return replace(proven, proof=replace(proof, published=published))


def _differences(proof: Proof, published: Published, workspace: Workspace) -> Iterator[str]:
    for name in sorted(proof.version.keys() | published.version.keys()):
        here, there = proof.version.get(name), published.version.get(name)
        if here != there:
            yield f"{name}: {here} here, {there} there"
    try:
        functions = differing_functions(proof.path, _binary(workspace), proof.arch)
    except WrongBinary as error:
        yield error.happened
        return
    if functions:
        yield f"{len(functions)} functions differ: {shortened(functions, MOST_SHOWN)}"
    else:
        yield "every function has the same code, ignoring addresses: compiled at another path?"


def _binary(workspace: Workspace) -> Path:
    return workspace.work / "published" / "kubeadm"
