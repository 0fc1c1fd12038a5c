"""From a version and a source to a Kubernetes tree with tag and commit."""

from collections.abc import Iterable
from dataclasses import replace

from kbuild.base.addresses import shown
from kbuild.base.errors import BadSetting
from kbuild.base.progress import Progress
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import Bundled, SourceRequest, SourceTree, Tag, Wanted
from kbuild.kubeadm.source import archive, tags
from kbuild.kubeadm.source.compare import compare, demand_git
from kbuild.kubeadm.source.errors import (
    BrokenArchive,
    CommitMismatch,
    NotInBundle,
    WrongArchiveVersion,
)
from kbuild.kubeadm.source.store import fetch_tag
from kbuild.kubeadm.source.versions import full_tag, missing, newest_of, stands_for

_TO_VERIFY = "give --source-sha256, or --verify-against to the build"
_TO_VERIFY_BUNDLED = "give --bundle-sha256, or make the bundle from git"


def list_tags(source: str, workspace: Workspace, progress: Progress) -> tuple[Tag, ...]:
    """Return the tags that a source offers, oldest first; an archive offers one.

    Raises a SourceError.
    """
    if archive.is_archive(source):
        return (archive.identify(archive.obtain(source, None, workspace, progress)),)
    return tags.list_tags(source, progress)


def resolve(request: Wanted, workspace: Workspace, progress: Progress) -> Tag:
    """Return the tag of the requested version, with its commit.

    Raises BadVersion, UnsupportedVersion, TagNotFound, NotInBundle, CommitMismatch,
    WrongArchiveVersion and the errors of reaching the source.
    """
    source = request.source
    full_tag(request.version)  # a version that cannot be is told before anything is asked
    if source.verify_against is not None:
        demand_git(source.verify_against)
    if is_archive(source):
        tag = archive.identify(_archive(source, workspace, progress))
        if source.bundled is not None and not stands_for(request.version, tag):
            raise _not_in_bundle(request, [tag])
        if not stands_for(request.version, tag):
            raise WrongArchiveVersion(
                source=shown(source.address), actual=tag.name, version=request.version
            )
        if source.commit is not None and source.verify_against is None:
            progress.say(
                "--commit is compared with what the archive claims, which verifies nothing; "
                + (_TO_VERIFY if source.bundled is None else _TO_VERIFY_BUNDLED)
            )
    elif source.sha256 is not None:
        raise BadSetting(
            name="--source-sha256",
            value=source.sha256,
            reason="the source is not an archive",
            hint="require the commit of a git tag with --commit",
        )
    elif source.bundled is not None:
        tag = _bundled_tag(request, source.bundled)
    else:
        tag = _git_tag(request, progress)
    if source.commit and not str(tag.commit).startswith(source.commit):
        raise CommitMismatch(tag=tag.name, actual=tag.commit or "unknown", expected=source.commit)
    return tag


def is_archive(source: SourceRequest) -> bool:
    """Return whether a source is an archive, here or in a bundle."""
    if source.bundled is not None:
        return source.bundled.archive is not None
    return archive.is_archive(source.address)


def _archive(source: SourceRequest, workspace: Workspace, progress: Progress) -> archive.Archive:
    stored = source.bundled.archive if source.bundled is not None else None
    return archive.obtain(source.address, source.sha256, workspace, progress, stored)


def _git_tag(request: Wanted, progress: Progress) -> Tag:
    address, wanted = request.source.address, full_tag(request.version)
    if wanted is None:
        known = tags.list_tags(address, progress)
        return newest_of(request.version, known, shown(address))
    found = tags.find_tag(address, wanted, progress)
    if found is None:
        raise missing(wanted, tags.list_tags(address, progress), shown(address))
    return found


def _bundled_tag(request: Wanted, bundled: Bundled) -> Tag:
    found = [tag for tag in bundled.tags if stands_for(request.version, tag)]
    if not found:
        raise _not_in_bundle(request, bundled.tags)
    is_full = full_tag(request.version) is not None
    return found[0] if is_full else newest_of(request.version, found, request.source.address)


def _not_in_bundle(request: Wanted, tags: Iterable[Tag]) -> NotInBundle:
    return NotInBundle(
        source=shown(request.source.address),
        version=request.version,
        tags=", ".join(tag.name for tag in tags),
    )


def fetch(request: Wanted, tag: Tag, workspace: Workspace, progress: Progress) -> SourceTree:
    """Fetch the tree of a tag, and write the files that kbuild reads to the work directory.

    Raises a SourceError.
    """
    source, target = request.source, workspace.work / "tree"
    if is_archive(source):
        demanded = source.sha256
        found = _archive(source, workspace, progress)
        tree = archive.unpack(found, target, demanded=demanded is not None, progress=progress)
        if (tree.tag, tree.commit) != (tag.name, tag.commit):
            # Only the first of the two was compared with the request.
            reason = f"it names itself {tag.name} ({tag.commit}) and {tree.tag} ({tree.commit})"
            raise BrokenArchive(source=tree.origin, reason=reason)
    else:
        whole = source.bundled.store if source.bundled is not None else None
        tree = fetch_tag(source.address, tag, target, workspace, progress, whole)
    if source.bundled is not None:
        tree = replace(
            tree,
            bundle=source.bundled.sha256,
            bundle_demanded=source.bundled.demanded,
            commit_demanded=source.commit is not None,
        )
    if source.verify_against is not None:
        return compare(tree, source.verify_against, workspace, progress)
    return tree
