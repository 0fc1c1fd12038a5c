"""From a version and a source to a whole Kubernetes tree whose tag and commit are known."""

from kbuild.base.addresses import shown
from kbuild.base.errors import BadSetting
from kbuild.base.progress import Progress
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import BuildRequest, SourceTree, Tag
from kbuild.kubeadm.source import archive, git
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
    return git.list_tags(source, progress)


def resolve(request: BuildRequest, workspace: Workspace, progress: Progress) -> Tag:
    """Return the tag that the version asked for stands for, with its commit.

    Raises BadVersion, UnsupportedVersion, TagNotFound, CommitMismatch, WrongArchiveVersion and
    the errors of reaching the source.
    """
    wanted = full_tag(request.version)
    if request.verify_against is not None:
        demand_git(request.verify_against)
    if archive.is_archive(request.source):
        tag = archive.identify(
            archive.obtain(request.source, request.source_sha256, workspace, progress)
        )
        if not stands_for(request.version, tag):
            raise WrongArchiveVersion(
                source=shown(request.source), actual=tag.name, version=request.version
            )
        if request.commit is not None and request.verify_against is None:
            progress.say(
                "--commit is compared with what the archive says of itself, which verifies nothing;"
                " use --verify-against or --source-sha256"
            )
    elif request.source_sha256 is not None:
        raise BadSetting(
            name="source-sha256",
            value=request.source_sha256,
            reason="the source is no archive",
            hint="demand the commit of a git tag with --commit",
        )
    elif wanted is None:
        tags = git.list_tags(request.source, progress)
        tag = newest_of(request.version, tags, shown(request.source))
    else:
        found = git.find_tag(request.source, wanted, progress)
        if found is None:
            tags = git.list_tags(request.source, progress)
            raise missing(wanted, tags, shown(request.source))
        tag = found
    if request.commit and not str(tag.commit).startswith(request.commit):
        raise CommitMismatch(tag=tag.name, actual=tag.commit or "unknown", expected=request.commit)
    return tag


def fetch(request: BuildRequest, tag: Tag, workspace: Workspace, progress: Progress) -> SourceTree:
    """Get the tree of a tag; what kbuild itself reads of it is put into the work folder.

    Raises a SourceError.
    """
    target = workspace.work / "tree"
    if archive.is_archive(request.source):
        demanded = request.source_sha256
        found = archive.obtain(request.source, demanded, workspace, progress)
        tree = archive.unpack(found, target, demanded=demanded is not None, progress=progress)
        if (tree.tag, tree.commit) != (tag.name, tag.commit):
            # Only the first was held against what was asked for.
            reason = f"it names itself {tag.name} ({tag.commit}) and {tree.tag} ({tree.commit})"
            raise BrokenArchive(source=tree.origin, reason=reason)
    else:
        tree = fetch_tag(request.source, tag, target, workspace, progress)
    if request.verify_against is not None:
        return compare(tree, request.verify_against, workspace, progress)
    return tree
