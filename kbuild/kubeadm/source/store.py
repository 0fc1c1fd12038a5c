"""The object store of a source: only what kubeadm's import closure needs is ever fetched.

The store is a bare repository in the cache that all runs share. A tag's commit and trees come
first, by a shallow fetch that leaves the files out (a partial clone), then the files of the import
closure, in a few batches. All that was ever fetched stays, so a second run fetches nothing and a
second tag only its difference. Beside the objects stands the closure of each minor, which tells
for the next tag of it what to ask for at once.

To git the store is a partial clone only while it fetches (``_PARTIAL``), and is told so in no file:
else a local command would fetch each file that is missing, by itself, one request a file.

Git checks the ids of the objects that it receives, but not of those that it reads from its store.
kbuild does: from the id of the commit down to each file, every object must have the id by which the
one above it names it. A store that was tampered with is fetched anew.
"""

import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from kbuild.kubeadm.source.tree import write_tree

_ROOM = 16 << 20  # bytes; with less left, a file may not have fitted
_PARTIAL = ("remote.kbuild.promisor=true", "remote.kbuild.partialCloneFilter=blob:none")
_FOLDER, _SUBMODULE, _OID_BYTES = 0o40000, 0o160000, 20
_MOST = 1_000_000  # entries of a tree; v1.20.2 has 22,700
_MOST_FOLDERS = 1 << 20  # bytes of the names of a closure's folders; v1.20.2 has 30,000
_REFUSAL = "unadvertised object"


class Entry(NamedTuple):
    """A file or link as a git tree has it: its mode, and the object id of its content."""

    mode: int
    oid: str


Choose = Callable[[Mapping[str, Entry]], Collection[str]]
_Got = TypeVar("_Got")


def object_id(content: bytes, kind: str = "blob") -> str:
    """Return the id that git gives an object (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""
    header = f"{kind} {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def fetch_tag(
    source: str, tag: Tag, target: Path, workspace: Workspace, progress: Progress
) -> SourceTree:
    """Have the files of a tag that kubeadm is built from, and what kbuild reads in ``target``.

    Raises SourceUnreachable, BrokenSource, NotKubernetes or DiskFull.
    """
    path = workspace.cache / "git" / f"{key(address(source))}.git"
    store = _Store(path.absolute(), source, tag, progress)
    with shared(workspace, f"git-{path.stem}"):
        files = store.obtain(store.files)
    if not store.has_fetched:
        progress.say(f"{tag.name} is in the cache already")
    try:
        return write_tree(files, tag, target, shown(source), "git-object")
    except ValueError as error:
        raise BrokenSource(tag=tag.name, source=shown(source), details=str(error)) from error


def read_commit(
    source: str, tag: Tag, choose: Choose, workspace: Workspace, progress: Progress
) -> tuple[Mapping[str, Entry], Mapping[str, bytes]]:
    """Return all entries of a tag's commit by name, and the files that ``choose`` picks of them.

    Raises SourceUnreachable, BrokenSource or DiskFull.
    """
    path = workspace.cache / "git" / f"{key(address(source))}.git"
    store = _Store(path.absolute(), source, tag, progress)

    def read() -> tuple[Mapping[str, Entry], Mapping[str, bytes]]:
        entries = store.entries()
        return entries, store.read({name: entries[name].oid for name in choose(entries)})

    with shared(workspace, f"git-{path.stem}"):
        obtained = store.obtain(read)
        os.utime(path)  # tells when it was last of use
        return obtained


@dataclass(slots=True)
class _Store:
    path: Path
    source: str
    tag: Tag
    progress: Progress
    has_fetched: bool = False

    def obtain(self, get: Callable[[], _Got]) -> _Got:
        """Return what ``get`` reads of the store, once the trees of the tag are there.

        What is not there is fetched; the caller holds the lock.

        What git says of damage differs much, so whatever it is, it is tried once more, anew.
        """
        is_new = not (self.path / "HEAD").exists()
        try:
            return self._obtain(get)
        except BrokenSource as error:
            _check_room(self.path)
            # Servers and proxies refuse in many words; the trees came, so the source is right.
            refused = _REFUSAL in error.details or (is_new and self._has_trees())
            if is_new and not refused:
                raise
            if refused:
                self.progress.say("the source gives no single files, fetching the whole tree")
                self.progress.detail(error.details)
            else:
                details = error.details
                self.progress.say(f"the cached clone is damaged ({details}), fetching anew")
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
        # Not as the user's settings have it: a template may hold attributes, which change the tree.
        words = ["init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--"]
        remove(self.path)
        with make_then_move(self.path) as made:
            run([*words, str(made)], self.source, self.tag.name)

    def _fetch(self, option: str, *refs: str, settings: Sequence[str] = (), text: str = "") -> None:
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
        """Return all that the commit holds by name, but for folders and submodules."""
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
                        raise self._broken(path, "would leave its folder")
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
            # No negotiation: what else is here has nothing to do with what is asked for.
            settings = (*_PARTIAL, "fetch.negotiationAlgorithm=noop")
            text = "".join(f"{oid}\n" for oid in {*missing.values()})
            self._fetch("--stdin", settings=settings, text=text)
            contents |= self._contents(missing)
        if lost := oids.keys() - contents.keys():
            raise self._broken(min(lost), "is missing")
        return contents

    def _contents(self, oids: Mapping[str, str], kind: str = "blob") -> dict[str, bytes]:
        """Return the objects that are there; git itself does not check them when it reads them."""
        words = ["--git-dir", str(self.path), "cat-file", "--batch", "--buffer"]
        answer = io.BytesIO(run(words, self.source, self.tag.name, "\n".join(oids.values())))
        contents = {}
        for name, oid in oids.items():
            header = answer.readline().split()
            if len(header) == 3:  # noqa: PLR2004  # oid, type, size; else oid, "missing"
                contents[name] = answer.read(int(header[2]))
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
        """Return the folders of this minor's closure as it was last time, or a good guess."""
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
    # Git does not say why it could not write a file of the tree.
    if shutil.disk_usage(store.parent).free < _ROOM:
        raise DiskFull(path=store.parent)


def _clean(store: Path) -> None:
    # What a killed git leaves behind; nobody else is at it, for the store's lock is held.
    for pattern in ("*.lock", "refs/tags/*.lock", "objects/pack/tmp_*", "objects/??/tmp_obj_*"):
        for left in store.glob(pattern):
            remove(left)
