"""The object store of a source: one shallow fetch a tag, and the files of a tag written out.

The store is a bare repository in the cache that all runs share. It holds every tag that was ever
asked for, so a second run fetches nothing, and a second tag only what is new in it.
"""

import io
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from kbuild.errors import BrokenSource, DiskFull, NotKubernetes
from kbuild.model import SourceTree, Tag
from kbuild.progress import Progress
from kbuild.source.closure import is_for_linux, needed_files
from kbuild.source.git import address, ask, feed, run, shown
from kbuild.workspace import Workspace, key, make_then_move, remove, shared

_LINK = "120000"
_ROOM = 16 << 20  # bytes; with less left, a file may not have fitted


class _Entry(NamedTuple):
    mode: str
    oid: str


def fetch_tag(
    source: str, tag: Tag, target: Path, workspace: Workspace, progress: Progress
) -> SourceTree:
    """Put the tree of a tag into ``target``.

    Raises SourceUnreachable, BrokenSource, NotKubernetes or DiskFull.
    """
    name = key(address(source))
    # Git takes a path that is not absolute to begin in the work tree.
    store, target = (workspace.cache / "git" / f"{name}.git").absolute(), target.absolute()
    assert tag.commit is not None
    with shared(workspace, f"git-{name}"):
        is_new = not (store / "HEAD").exists()
        try:
            _obtain(source, tag, store, target, progress)
        except BrokenSource as error:
            _check_room(store)
            if is_new:
                raise
            # Damage shows in many ways, some of them at the fetch already; a new store has none.
            progress.say(f"the cached clone is damaged ({error.details}), fetching anew")
            remove(store)
            remove(target)
            _obtain(source, tag, store, target, progress)
    return SourceTree(path=target, tag=tag.name, commit=tag.commit, origin=shown(source))


def _obtain(source: str, tag: Tag, store: Path, target: Path, progress: Progress) -> None:
    if not (store / "HEAD").exists():
        _make_store(store, source, tag)
    _clean(store)
    if _has(store, str(tag.commit)):
        progress.say(f"{tag.name} is in the cache already")
    else:
        _fetch(source, tag, store, progress)
    _check_out(store, tag, target, source)


def _make_store(store: Path, source: str, tag: Tag) -> None:
    # Not as the user's settings have it: a template may hold attributes, which change the tree.
    words = ["init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--"]
    remove(store)
    with make_then_move(store) as made:
        run([*words, str(made)], source, tag.name)


def _check_room(store: Path) -> None:
    # Git does not say why it could not write a file of the tree.
    if shutil.disk_usage(store.parent).free < _ROOM:
        raise DiskFull(path=store.parent)


def _fetch(source: str, tag: Tag, store: Path, progress: Progress) -> None:
    ref = f"refs/tags/{tag.name}"
    words = [
        *("--git-dir", str(store), "fetch", "--progress", "--depth=1", "--no-tags"),
        *("--no-write-fetch-head", "--", address(source), f"+{ref}:{ref}"),
    ]
    ask(words, source, tag.name, progress)


def _check_out(store: Path, tag: Tag, target: Path, source: str) -> None:
    entries = _entries(store, tag, source)
    if not any(name.startswith("cmd/kubeadm/") for name in entries):
        raise NotKubernetes(source=shown(source), reason=f"{tag.name} has no cmd/kubeadm")

    def read(names: Collection[str]) -> dict[str, bytes]:
        return _contents(store, {name: entries[name].oid for name in names}, tag, source)

    links = [name for name, entry in entries.items() if entry.mode == _LINK]
    needed = needed_files(entries, links, read)
    # An index of its own: the store is shared, and has no work tree.
    target.mkdir(parents=True)
    index = target.parent / "index"
    lines = (f"{entries[n].mode} {entries[n].oid}\t{n}\0" for n in needed)
    here = ("--git-dir", str(store), "--work-tree", str(target))
    where = {"GIT_INDEX_FILE": str(index)}
    feed([*here, "update-index", "-z", "--index-info"], "".join(lines), tag, source, where)
    feed([*here, "checkout-index", "--all", "--force"], "", tag, source, where)
    index.unlink()


def _entries(store: Path, tag: Tag, source: str) -> dict[str, _Entry]:
    words = ["--git-dir", str(store), "ls-tree", "-r", "-z", str(tag.commit)]
    listed = feed(words, "", tag, source).decode(errors="surrogateescape")
    entries = {}
    for line in filter(None, listed.split("\0")):
        about, _, name = line.partition("\t")
        mode, kind, oid = about.split(" ")
        if kind == "blob" and is_for_linux(name):
            entries[name] = _Entry(mode, oid)
    return entries


def _contents(store: Path, oids: Mapping[str, str], tag: Tag, source: str) -> dict[str, bytes]:
    words = ["--git-dir", str(store), "cat-file", "--batch"]
    answer = io.BytesIO(feed(words, "\n".join(oids.values()), tag, source))
    contents = {}
    for name in oids:
        header = answer.readline().split()
        if len(header) != 3:  # noqa: PLR2004  # oid, type, size; or oid, "missing"
            raise BrokenSource(tag=tag.name, source=shown(source), details=f"{name} is missing")
        contents[name] = answer.read(int(header[2]))
        answer.read(1)
    return contents


def _has(store: Path, commit: str) -> bool:
    try:
        run(["--git-dir", str(store), "cat-file", "-e", f"{commit}^{{tree}}"], "", commit)
    except BrokenSource:
        return False
    return True


def _clean(store: Path) -> None:
    # What a killed git leaves behind; nobody else is at it, for the store's lock is held.
    for pattern in ("*.lock", "refs/tags/*.lock", "objects/pack/tmp_*", "objects/??/tmp_obj_*"):
        for left in store.glob(pattern):
            remove(left)
