"""From a version and a source to a Kubernetes tree with tag and commit."""

from kbuild.base.addresses import shown
from kbuild.base.errors import BadSetting
from kbuild.base.progress import Progress
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import BuildRequest, SourceTree, Tag
from kbuild.kubeadm.source import archive, tags
from kbuild.kubeadm.source.compare import compare, demand_git
from kbuild.kubeadm.source.errors import BrokenArchive, CommitMismatch, WrongArchiveVersion
from kbuild.kubeadm.source.store import fetch_tag
from kbuild.kubeadm.source.versions import full_tag, missing, newest_of, stands_for


def list_tags(source: str, workspace: Workspace, progress: Progress) -> tuple[Tag, ...]:
    """Return the tags that a source offers, oldest first; an archive offers one.

    Raises a SourceError.
    """
    if archive.is_archive(source):
        return (archive.identify(archive.obtain(source, None, workspace, progress)),)
    return tags.list_tags(source, progress)


def resolve(request: BuildRequest, workspace: Workspace, progress: Progress) -> Tag:
    """Return the tag of the requested version, with its commit.

    Raises BadVersion, UnsupportedVersion, TagNotFound, CommitMismatch, WrongArchiveVersion and
    the errors of reaching the source.
    """
    source, wanted = request.source, full_tag(request.version)
    if source.verify_against is not None:
        demand_git(source.verify_against)
    if archive.is_archive(source.address):
        tag = archive.identify(archive.obtain(source.address, source.sha256, workspace, progress))
        if not stands_for(request.version, tag):
            raise WrongArchiveVersion(
                source=shown(source.address), actual=tag.name, version=request.version
            )
        if source.commit is not None and source.verify_against is None:
            progress.say(
                "--commit is compared with what the archive claims, which verifies nothing;"
                " use --verify-against or --source-sha256"
            )
    elif source.sha256 is not None:
        raise BadSetting(
            name="source-sha256",
            value=source.sha256,
            reason="the source is not an archive",
            hint="require the commit of a git tag with --commit",
        )
    elif wanted is None:
        known = tags.list_tags(source.address, progress)
        tag = newest_of(request.version, known, shown(source.address))
    else:
        found = tags.find_tag(source.address, wanted, progress)
        if found is None:
            known = tags.list_tags(source.address, progress)
            raise missing(wanted, known, shown(source.address))
        tag = found
    if source.commit and not str(tag.commit).startswith(source.commit):
        raise CommitMismatch(tag=tag.name, actual=tag.commit or "unknown", expected=source.commit)
    return tag


def fetch(request: BuildRequest, tag: Tag, workspace: Workspace, progress: Progress) -> SourceTree:
    """Fetch the tree of a tag, and write the files that kbuild reads to the work directory.

    Raises a SourceError.
    """
    source, target = request.source, workspace.work / "tree"
    if archive.is_archive(source.address):
        demanded = source.sha256
        found = archive.obtain(source.address, demanded, workspace, progress)
        tree = archive.unpack(found, target, demanded=demanded is not None, progress=progress)
        if (tree.tag, tree.commit) != (tag.name, tag.commit):
            # Only the first of the two was compared with the request.
            reason = f"it names itself {tag.name} ({tag.commit}) and {tree.tag} ({tree.commit})"
            raise BrokenArchive(source=tree.origin, reason=reason)
    else:
        tree = fetch_tag(source.address, tag, target, workspace, progress)
    if source.verify_against is not None:
        return compare(tree, source.verify_against, workspace, progress)
    return tree
