"""Compare a source with a commit in a git repository, file by file.

The commit that an archive names proves nothing: somebody who changes a file leaves the commit in
hack/lib/version.sh unchanged. Git names a file by a digest of its content, so the trees of the
commit are enough for the comparison, and hardly any file has to be fetched.

``git archive`` fills in the placeholders of the files with the attribute export-subst
(https://git-scm.com/docs/gitattributes#_creating_an_archive), so these are compared line by line.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from kbuild.base.addresses import shown
from kbuild.base.errors import BadSetting
from kbuild.base.progress import Progress
from kbuild.base.words import shortened
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import SourceFile, SourceTree, Tag
from kbuild.kubeadm.source import archive, closure, tags
from kbuild.kubeadm.source.errors import SourceDiffers
from kbuild.kubeadm.source.store import Entry, object_id, read_commit
from kbuild.kubeadm.source.versions import missing

# From upstream's .gitattributes, in all supported versions.
_EXPORT_SUBST = (
    "hack/lib/version.sh",
    "pkg/version/base.go",
    "staging/src/k8s.io/client-go/pkg/version/base.go",
    "staging/src/k8s.io/component-base/version/base.go",
)
_PLACEHOLDER = re.compile(rb"\$Format:(%[HhDd%])\$")
_REFS = rb"[\w ./,:>()+-]*"  # %D and %d: `HEAD -> release-1.8, tag: v1.8.3`
_SHORTEST = 4  # digits of the shortest abbreviated commit
_SHOWN = 5


def demand_git(source: str) -> None:
    """Raise BadSetting if the source in --verify-against is an archive."""
    if archive.is_archive(source):
        raise BadSetting(
            name="--verify-against",
            value=shown(source),
            reason="an archive proves no commit",
            hint="give a git URL or a local repository",
        )


def compare(tree: SourceTree, against: str, workspace: Workspace, progress: Progress) -> SourceTree:
    """Return the tree with a verified commit, if its files are those of the git source's tag.

    Compared are the files that a build of kubeadm needs, in either of the two. Raises
    SourceDiffers, TagNotFound and the errors of reaching a git source.
    """
    tag = tags.find_tag(against, tree.tag, progress)
    if tag is None:
        raise missing(tree.tag, tags.list_tags(against, progress), shown(against))
    if tag.commit != tree.commit:
        raise _differs(tree, against, f"the tag is commit {tag.commit} there, {tree.commit} here")
    if tree.commit_proof == "git-object":
        return tree  # the same commit, so the same files
    files = tree.files
    if differences := _differences(files, tag, against, workspace, progress):
        text = shortened(differences, _SHOWN, "; ")
        raise _differs(tree, against, text, "\n".join(differences))
    progress.say(f"{len(files)} files are identical to commit {tag.commit} of {shown(against)}")
    return replace(tree, commit_proof="compared")


def _differs(tree: SourceTree, against: str, difference: str, details: str = "") -> SourceDiffers:
    return SourceDiffers(
        source=tree.origin,
        tag=tree.tag,
        against=shown(against),
        difference=difference,
        details=details,
    )


def _differences(
    files: Mapping[str, SourceFile],
    tag: Tag,
    against: str,
    workspace: Workspace,
    progress: Progress,
) -> list[str]:
    def choose(entries: Mapping[str, Entry]) -> list[str]:
        both = [name for name in _EXPORT_SUBST if name in entries and name in files]
        return [name for name in both if not _is_same(files[name], entries[name])]

    entries, originals = read_commit(against, tag, choose, workspace, progress)
    needed = _needed(files, entries)
    found = []
    for name in sorted(files.keys() | needed):
        if name not in entries:
            found.append(f"{name} is not in the commit")
        elif name not in files:
            found.append(f"{name} is missing here")
        elif not _is_same(files[name], entries[name]) and not (
            name in originals
            and not _is_link(files[name])
            and _is_filled_in(files[name].content, originals[name], str(tag.commit))
        ):
            found.append(f"{name} differs")
    return found


def _needed(files: Mapping[str, SourceFile], entries: Mapping[str, Entry]) -> set[str]:
    """Return the files that a build of the commit needs, as far as their imports are here."""

    def read(names: Collection[str]) -> dict[str, bytes]:
        return {name: files[name].content if name in files else b"" for name in names}

    return {*closure.gather({n: entry.mode for n, entry in entries.items()}, read).contents}


def _is_same(file: SourceFile, entry: Entry) -> bool:
    is_link = entry.mode == closure.LINK
    return _is_link(file) == is_link and object_id(file.content) == entry.oid


def _is_link(file: SourceFile) -> bool:
    return file.mode == closure.LINK


def _is_filled_in(content: bytes, original: bytes, commit: str) -> bool:
    """Return whether only placeholders differ, with what git archive writes for the commit."""
    lines, originals = content.split(b"\n"), original.split(b"\n")
    return len(lines) == len(originals) and all(
        line == before or _pattern(before, commit).fullmatch(line)
        for line, before in zip(lines, originals, strict=True)
    )


def _pattern(line: bytes, commit: str) -> re.Pattern[bytes]:
    short = "|".join(commit[:end] for end in range(len(commit), _SHORTEST - 1, -1))
    filled = {
        b"%H": commit.encode(),
        b"%h": f"(?:{short})".encode(),
        b"%D": _REFS,
        b"%d": _REFS,
        b"%%": b"%",
    }
    # Text and placeholders alternate.
    parts = _PLACEHOLDER.split(line)
    return re.compile(
        b"".join(filled[part] if at % 2 else re.escape(part) for at, part in enumerate(parts))
    )
