"""The object store of a source: only the files of kubeadm's import closure are fetched.

The store is a bare repository in the cache that all runs share. A shallow fetch without files (a
partial clone) brings the commit and the trees of a tag. The files of the import closure follow in a
few batches. Everything that was fetched stays, so a second run fetches nothing, and a second tag
only its difference. The closure of each minor version is kept beside the objects, so the next tag
of that minor version needs one batch.

The settings of a partial clone (``_PARTIAL``) are given only to fetches, and are in no file:
otherwise local commands would fetch each missing file by themselves, one request for each.

Git checks the ids of objects that it receives, but not of those that it reads from its store.
kbuild does: from the commit down to each file, every object must have the id by which the object
above refers to it. A damaged store is fetched again.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from kbuild.base.addresses import shown
from kbuild.base.disk import make_then_move, remove
from kbuild.base.errors import BrokenSource, DiskFull, NotKubernetes
from kbuild.base.files import read_file
from kbuild.base.git import address, ask, run
from kbuild.base.progress import Progress
from kbuild.base.workspace import Workspace, key, shared
from kbuild.kubeadm.model import SourceFile, SourceTree, Tag
from kbuild.kubeadm.source import closure
from kbuild.kubeadm.source.errors import IncompleteBundle
from kbuild.kubeadm.source.tree import write_tree

_ROOM = 16 << 20  # bytes; with less, there may have been no room for a file
_PARTIAL = ("remote.kbuild.promisor=true", "remote.kbuild.partialCloneFilter=blob:none")
# Without the user's template: its attributes would change the tree.
_INIT = ("init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--")
_FOLDER, _SUBMODULE, _OID_BYTES = 0o40000, 0o160000, 20
_MOST = 1_000_000  # entries of a tree; v1.20.2 has 22,700
_MOST_FOLDERS = 1 << 20  # bytes of the names of a closure's directories; v1.20.2 has 30,000
_REFUSAL = "unadvertised object"
# Without deltas and other threads, the same objects make the same pack.
_REPEATABLE = ("core.compression=6", "pack.compression=6", "pack.threads=1", "pack.window=0")


class Entry(NamedTuple):
    """An entry of a git tree, a file or link: its mode, and the object id of its content."""

    mode: int
    oid: str


Choose = Callable[[Mapping[str, Entry]], Collection[str]]
_Got = TypeVar("_Got")


def object_id(content: bytes, kind: str = "blob") -> str:
    """Return the id that git gives an object (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""
    header = f"{kind} {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def fetch_tag(
    source: str,
    tag: Tag,
    target: Path,
    workspace: Workspace,
    progress: Progress,
    whole: Path | None = None,
) -> SourceTree:
    """Return the files of kubeadm's closure; those that kbuild reads are written to ``target``.

    ``whole`` is a store of this run that has all of them. Raises SourceUnreachable, BrokenSource,
    NotKubernetes, IncompleteBundle or DiskFull.
    """
    path = whole or _path(source, workspace)
    store = _Store(path.absolute(), source, tag, progress, is_whole=whole is not None)
    with contextlib.nullcontext() if whole else shared(workspace, f"git-{path.stem}"):
        files = store.obtain(store.files)
    if not store.has_fetched:
        progress.say(f"{tag.name} is in the {'bundle' if whole else 'cache already'}")
    try:
        return write_tree(files, tag, target, shown(source), "git-object")
    except ValueError as error:
        raise BrokenSource(tag=tag.name, source=shown(source), details=str(error)) from error


def pack_tags(
    source: str, tags: Sequence[Tag], target: Path, workspace: Workspace, progress: Progress
) -> None:
    """Write a git pack with the objects that builds of these tags read, and no others.

    The same tags make the same bytes, with the same git. Raises as ``fetch_tag`` does.
    """
    path = _path(source, workspace).absolute()
    read: set[str] = set()
    with shared(workspace, f"git-{path.stem}"):
        for tag in tags:
            store = _Store(path, source, tag, progress)
            store.obtain(store.files)
            # Once more, without a guess which files are needed: it is another one in each cache.
            whole = _Store(path, source, tag, progress, is_whole=True)
            whole.files()
            read |= whole.read_ids
        settings = [word for setting in _REPEATABLE for word in ("-c", setting)]
        words = ["--git-dir", str(path), *settings, "pack-objects", "--no-reuse-object", "--stdout"]
        what = ", ".join(tag.name for tag in tags)
        target.write_bytes(run([*words, "-q"], source, what, "\n".join(sorted(read))))


def unpack_tags(pack: Path, store: Path, source: str) -> None:
    """Make a store of a pack, which is moved into it; raises BrokenSource or DiskFull."""
    run([*_INIT, str(store)], source, "the bundle")
    packed = pack.rename(store / "objects/pack/pack-bundle.pack")
    words = ["--git-dir", str(store), "index-pack", "--threads=1", str(packed)]
    run(words, source, "the bundle", is_limited=True)


def _path(source: str, workspace: Workspace) -> Path:
    return workspace.cache / "git" / f"{key(address(source))}.git"


def read_commit(
    source: str, tag: Tag, choose: Choose, workspace: Workspace, progress: Progress
) -> tuple[Mapping[str, Entry], Mapping[str, bytes]]:
    """Return all entries of a tag's commit by name, and the content of those that ``choose`` picks.

    Raises SourceUnreachable, BrokenSource or DiskFull.
    """
    path = _path(source, workspace)
    store = _Store(path.absolute(), source, tag, progress)

    def read() -> tuple[Mapping[str, Entry], Mapping[str, bytes]]:
        entries = store.entries()
        return entries, store.read({name: entries[name].oid for name in choose(entries)})

    with shared(workspace, f"git-{path.stem}"):
        obtained = store.obtain(read)
        os.utime(path)  # the time of its last use
        return obtained


@dataclass(slots=True)
class _Store:
    path: Path
    source: str
    tag: Tag
    progress: Progress
    is_whole: bool = False
    has_fetched: bool = False
    read_ids: set[str] = field(default_factory=set)

    def obtain(self, get: Callable[[], _Got]) -> _Got:
        """Return what ``get`` reads from the store, after fetching the trees of the tag.

        The caller holds the lock. Git reports damage in many ways, so after any error the store is
        made again, once.
        """
        is_new = not (self.path / "HEAD").exists()
        try:
            return self._obtain(get)
        except BrokenSource as error:
            _check_room(self.path)
            # Servers and proxies refuse in many ways. If the trees arrived, the source is right.
            refused = _REFUSAL in error.details or (is_new and self._has_trees())
            if is_new and not refused:
                raise
            if refused:
                self.progress.say("the source does not serve single files, fetching the whole tree")
                self.progress.detail(error.details)
            else:
                details = error.details
                self.progress.say(f"the cached clone is damaged ({details}), fetching it again")
            remove(self.path)
        return self._obtain(get, partial=not refused)

    def _obtain(self, get: Callable[[], _Got], *, partial: bool = True) -> _Got:
        if not (self.path / "HEAD").exists():
            self._make()
        _clean(self.path)
        if self._has_trees():
            self.progress.detail(f"the trees of {self.tag.name} are in the cache already")
        elif partial:
            self._fetch("--depth=1", f"+{self.tag.commit}:{self._ref}", settings=_PARTIAL)
        else:
            self._fetch("--depth=1", f"+{self._ref}:{self._ref}")
        return get()

    def files(self) -> dict[str, SourceFile]:
        """Return the files of the closure."""
        entries = self.entries()
        if not any(name.startswith("cmd/kubeadm/") for name in entries):
            reason = f"{self.tag.name} has no cmd/kubeadm"
            raise NotKubernetes(source=shown(self.source), reason=reason)

        def read(names: Collection[str]) -> Mapping[str, bytes]:
            return self.read({name: entries[name].oid for name in names})

        modes = {name: entry.mode for name, entry in entries.items()}
        found = closure.gather(modes, read, self._likely())
        self._remember(found.folders)
        return {n: SourceFile(modes[n], content) for n, content in found.contents.items()}

    def _make(self) -> None:
        remove(self.path)
        with make_then_move(self.path) as made:
            run([*_INIT, str(made)], self.source, self.tag.name)

    def _fetch(self, option: str, *refs: str, settings: Sequence[str] = (), text: str = "") -> None:
        if self.is_whole:
            raise IncompleteBundle(source=shown(self.source), tag=self.tag.name)
        all_settings = (f"remote.kbuild.url={address(self.source)}", *settings)
        words = [
            *("--git-dir", str(self.path)),
            *(word for setting in all_settings for word in ("-c", setting)),
            *("fetch", "--progress", "--no-tags", "--no-write-fetch-head"),
            *("--recurse-submodules=no", option, "kbuild", *refs),
        ]
        ask(words, self.source, self.tag.name, self.progress, text)
        self.has_fetched = True

    def entries(self) -> dict[str, Entry]:
        """Return all files and links of the commit by name."""
        entries: dict[str, Entry] = {}
        level = {"": self._root()}
        while level:
            if len(entries) + len(level) > _MOST:
                raise self._broken(file="the tree", how=f"has more than {_MOST} entries")
            trees, level = self._demand(level, "tree"), {}
            for folder, content in trees.items():
                for mode, name, oid in self._parse(content):
                    path = f"{folder}{name}"
                    if "/" in name or not {"", ".", "..", ".git"}.isdisjoint(path.split("/")):
                        raise self._broken(path, "would leave its directory")
                    if mode == _FOLDER:
                        level[f"{path}/"] = oid
                    elif mode != _SUBMODULE:
                        entries[path] = Entry(mode, oid)
        return entries

    def _root(self) -> str:
        commit = self._demand({"": str(self.tag.commit)}, "commit")[""]
        if (found := re.match(rb"tree ([0-9a-f]{40})\n", commit)) is None:
            raise self._broken(file="the commit", how="names no tree")
        return found[1].decode()

    def _parse(self, content: bytes) -> list[tuple[int, str, str]]:
        try:
            return list(_tree_entries(content))
        except ValueError as error:
            raise self._broken(file="a tree", how="is damaged") from error

    def _demand(self, oids: Mapping[str, str], kind: str) -> dict[str, bytes]:
        contents = self._contents(oids, kind)
        if lost := oids.keys() - contents.keys():
            file = f"{kind} {oids[min(lost)]}"
            raise self._broken(file, "is missing")
        return contents

    def read(self, oids: Mapping[str, str]) -> dict[str, bytes]:
        contents = self._contents(oids)
        if missing := _without(oids, contents):
            # No negotiation: the other objects in the store do not matter for these.
            settings = (*_PARTIAL, "fetch.negotiationAlgorithm=noop")
            text = "".join(f"{oid}\n" for oid in {*missing.values()})
            self._fetch("--stdin", settings=settings, text=text)
            contents |= self._contents(missing)
        if lost := oids.keys() - contents.keys():
            raise self._broken(min(lost), "is missing")
        return contents

    def _contents(self, oids: Mapping[str, str], kind: str = "blob") -> dict[str, bytes]:
        """Return the objects that are in the store, and check their ids, which git does not do."""
        words = ["--git-dir", str(self.path), "cat-file", "--batch", "--buffer"]
        answer = io.BytesIO(run(words, self.source, self.tag.name, "\n".join(oids.values())))
        contents = {}
        for name, oid in oids.items():
            header = answer.readline().split()
            if len(header) == 3:  # noqa: PLR2004  # oid, type, size; else oid, "missing"
                contents[name] = answer.read(int(header[2]))
                self.read_ids.add(oid)
                answer.read(1)
                if object_id(contents[name], kind) != oid:
                    raise self._broken(name or kind, f"is not the {kind} {oid}")
        return contents

    def _has_trees(self) -> bool:
        commit = str(self.tag.commit)
        try:
            run(["--git-dir", str(self.path), "cat-file", "-e", f"{commit}^{{tree}}"], "", commit)
        except BrokenSource:
            return False
        return True

    def _likely(self) -> set[str]:
        """Return the directories of this minor version's last closure, or the shipped list.

        A store that is whole has only what is needed, so there is no guess.
        """
        if self.is_whole:
            return set()
        try:
            content = read_file(self._closure_file(), _MOST_FOLDERS)
        except OSError:
            return closure.shipped()
        return set(content.decode(errors="replace").splitlines())

    def _remember(self, folders: Collection[str]) -> None:
        file = self._closure_file()
        if not file.parent.is_dir():
            remove(file.parent)
            file.parent.mkdir()
        new = file.with_suffix(".new")
        for path in (new, file):
            remove(path)
        new.write_text("".join(f"{folder}\n" for folder in sorted(folders)), errors="replace")
        new.replace(file)

    def _closure_file(self) -> Path:
        version = self.tag.version
        return self.path / "closures" / f"{version.major}.{version.minor}.txt"

    @property
    def _ref(self) -> str:
        return f"refs/tags/{self.tag.name}"

    def _broken(self, file: str, how: str) -> BrokenSource:
        return BrokenSource(tag=self.tag.name, source=shown(self.source), details=f"{file} {how}")


def _tree_entries(content: bytes) -> Iterator[tuple[int, str, str]]:
    """Yield mode, name and object id of each entry of a git tree object."""
    start = 0
    while start < len(content):
        end = content.index(b"\0", start)
        mode, _, name = content[start:end].partition(b" ")
        start = end + 1 + _OID_BYTES
        oid = content[end + 1 : start].hex()
        yield int(mode, 8), name.decode(errors="surrogateescape"), oid


def _without(oids: Mapping[str, str], contents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: oid for name, oid in oids.items() if name not in contents}


def _check_room(store: Path) -> None:
    # Git does not report why it could not write a file.
    if shutil.disk_usage(store.parent).free < _ROOM:
        raise DiskFull(path=store.parent)


def _clean(store: Path) -> None:
    # What a killed git left. No other run uses the store: its lock is held.
    for pattern in ("*.lock", "refs/tags/*.lock", "objects/pack/tmp_*", "objects/??/tmp_obj_*"):
        for left in store.glob(pattern):
            remove(left)
