"""Ask a git source for its tags."""

from kbuild.base import git
from kbuild.base.progress import Progress
from kbuild.kubeadm.model import Tag
from kbuild.kubeadm.source.versions import is_tag

_MOST = 64 << 20  # bytes that git may read; the tags of Kubernetes have 200 kB


def list_tags(source: str, progress: Progress, *patterns: str) -> tuple[Tag, ...]:
    """Return the tags of a source that name Kubernetes versions, oldest first.

    With ``patterns``, only these refs are requested. Raises SourceUnreachable or BrokenSource.
    """
    words = ["ls-remote", "--tags", "--", git.address(source), *patterns]
    lines = git.ask(words, source, "its tags", progress, most=_MOST)
    commits = {}
    for line in lines.splitlines():
        commit, _, ref = line.partition("\t")
        name = ref.removeprefix("refs/tags/")
        # The peeled line of an annotated tag follows that of the tag object, so it wins.
        if is_tag(name.removesuffix("^{}")):
            commits[name.removesuffix("^{}")] = commit
    tags = [Tag(name=name, commit=commit) for name, commit in commits.items()]
    return tuple(sorted(tags, key=lambda tag: tag.version))


def find_tag(source: str, name: str, progress: Progress) -> Tag | None:
    """Return one tag with its commit, or None."""
    refs = (f"refs/tags/{name}", f"refs/tags/{name}^{{}}")
    return next(iter(list_tags(source, progress, *refs)), None)
