"""What the cache holds: how much, how old, and removing it by age and size.

The Go caches of the docker builder are volumes of the engine, one for each image. They are shown,
cleared and kept below the limit as a whole, each by itself.

What is removed goes by one rename or unlink, so whoever is killed meanwhile leaves whole entries.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kbuild.base import engine
from kbuild.base.containers import cache_volumes, remove_volume
from kbuild.base.errors import DiskFull, KbuildError
from kbuild.base.files import BROKEN, read_file
from kbuild.base.workspace import alone, content, remove, resolved, work_folder

_BLOCK = 512  # st_blocks counts these, whatever the disk's own are
# The folders of the cache, and how deep below them stands what is removed as one.
_DEPTHS = {"git": 1, "go": 1, "gocache": 3, "built": 1, "logs": 1}
_VOLUMES = "volumes"
_MEASURED = "measured.json"  # what the last look at the sizes found
_MAX_MEASURED = 4096
_GO_NOTES_USE = 3600  # seconds: Go notes the use of an entry once an hour
_DAY = 86400
_THREADS = 8  # a disk that discards blocks takes 4 ms for a file, however small


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What is kept or removed as one: ``used`` is seconds since 1970."""

    kind: str
    name: str  # text: there may be 50,000, and a Path takes longer than to ask for its size
    size: int
    used: float

    @property
    def path(self) -> Path:
        """Return where it is."""
        return Path(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a pruning did, in bytes of disk."""

    removed: int
    freed: int
    left: int


def items(cache: Path) -> tuple[Item, ...]:
    """Return all that the cache holds for later runs.

    What cannot be read is left out, and no link is followed.
    """
    return _items(content(cache))


def prune(cache: Path, *, age: float | None, size: int | None) -> Pruned:
    """Remove what was not used for ``age`` seconds, then the oldest until ``size`` bytes are left.

    Raises CacheInUse, NotACache, UnsafeCache or NotWritable.
    """
    with alone(cache) as shared_folder:
        found = _items(shared_folder)
        oldest = time.time() - age if age is not None else 0
        old = [item for item in found if item.used < oldest]
        young = [item for item in found if item.used >= oldest]
        return _discard([*old, *_above(size, young)], found, shared_folder)


def keep_below(cache: Path, limit: int, since: float) -> Pruned | None:
    """Remove the least recently used until ``limit`` bytes are left, or what was used ``since``.

    Return None if there was nothing to measure: nothing was added to a cache below its limit.
    Raises CacheInUse, NotACache, UnsafeCache or NotWritable.
    """
    if not content(cache).is_dir():
        return None
    with alone(cache) as shared_folder:
        if (size := _measured(shared_folder)) is not None and size <= limit:
            return None
        found = _items(shared_folder)
        unused = _unused(found, shared_folder, since)
        spared = sum(item.size for item in found) - sum(item.size for item in unused)
        done = _discard(_above(limit - spared, unused), found, shared_folder)
        document = {"bytes": done.left, "folders": _folder_times(shared_folder)}
        _write(shared_folder / _MEASURED, json.dumps(document))
        return done


def _write(path: Path, text: str) -> None:
    """Write a file by a rename, so that nothing is followed that may be in its place."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.unlink(missing_ok=True)
    with made.open("x") as file:
        file.write(text)
    made.replace(path)


def keep_volumes_below(cache: Path, limit: int, since: float) -> Pruned | None:
    """Remove the least recently used of the engine's Go caches until ``limit`` bytes are left.

    Only those count that runs with this cache have used, and none in use is removed. The engine
    takes long to measure them, so it is asked once a day at most, and only if the docker builder
    was used ``since``; otherwise None is returned.

    Raises EngineFailed, or what ``engine.connect`` raises.
    """
    notes = _entries(content(cache) / _VOLUMES)
    noted = {each.name: each.stat(follow_symlinks=False).st_mtime for each in notes}
    asked = noted.pop(_MEASURED, 0)
    if max(noted.values(), default=0) < since or 0 <= time.time() - asked < _DAY:
        return None
    (content(cache) / _VOLUMES / _MEASURED).touch()
    sizes = {name: size for name, size in cache_volumes().items() if name in noted}
    total, removed, freed = sum(sizes.values()), 0, 0
    for name in sorted(sizes, key=noted.__getitem__):
        if total - freed <= limit or noted[name] >= since:
            break
        with contextlib.suppress(KbuildError):  # the engine refuses if it is in use
            remove_volume(name)
            freed, removed = freed + sizes[name], removed + 1
    return Pruned(removed=removed, freed=freed, left=total - freed)


def clear(cache: Path) -> Pruned:
    """Remove everything, the engine's volumes too if one answers.

    Raises CacheInUse, NotACache, UnsafeCache, NotWritable or EngineFailed.
    """
    if not os.path.lexists(resolved(cache)):
        return Pruned(removed=0, freed=_clear_volumes(), left=0)
    with alone(cache) as shared_folder:
        found = _items(shared_folder)
        freed = _clear_volumes()  # first: one may be in use
        _discard(found, found, shared_folder)
        for kind in (*_DEPTHS, _VOLUMES):
            # Not the folder itself: a run that waits for us has made it already.
            for path in (shared_folder / kind).iterdir():
                remove(path)
    return Pruned(removed=len(found), freed=freed + sum(item.size for item in found), left=0)


def volume_size() -> int | None:
    """Return the bytes of the engine's Go caches; None where there is no engine or no cache."""
    if engine.why_unavailable() is not None:
        return None
    volumes = cache_volumes()
    return sum(volumes.values()) if volumes else None


def _clear_volumes() -> int:
    if engine.why_unavailable() is not None:
        return 0
    volumes = cache_volumes()
    for name in volumes:
        remove_volume(name)
    return sum(volumes.values())


def _discard(chosen: Iterable[Item], found: Iterable[Item], shared_folder: Path) -> Pruned:
    """Remove items of those found; the caller is alone at the cache."""
    chosen = list(chosen)
    try:
        with work_folder(shared_folder, is_alone=True) as trash:
            _remove_all(chosen, trash)
    except DiskFull:  # there is no room for a folder to move them to
        _remove_all(chosen, None)
    freed = sum(item.size for item in chosen)
    left = sum(item.size for item in found) - freed
    return Pruned(removed=len(chosen), freed=freed, left=left)


def _remove_all(chosen: list[Item], trash: Path | None) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda item: _remove(item, trash), chosen):
            pass  # but for an error, which it raises


def _remove(item: Item, trash: Path | None) -> None:
    path = item.path
    if trash is None:
        remove(path)
        return
    try:
        if path.is_dir() and not path.is_symlink():
            path.rename(trash / f"{item.kind}-{path.name}")
        else:
            path.unlink(missing_ok=True)
    except OSError:  # on another file system, or in a folder without rights
        remove(path)


def _above(size: int | None, found: Iterable[Item]) -> Iterator[Item]:
    """Yield the least recently used until what is left has ``size`` bytes."""
    oldest_first = sorted(found, key=lambda item: item.used)
    left = sum(item.size for item in oldest_first)
    for item in oldest_first:
        if size is None or left <= size:
            return
        yield item
        left -= item.size


def _unused(found: Iterable[Item], shared_folder: Path, since: float) -> list[Item]:
    gocaches = _entries(shared_folder / "gocache")
    used = tuple(
        f"{each.path}/"
        for each in gocaches
        if each.stat(follow_symlinks=False).st_mtime >= since and _is_folder(each)
    )

    now = time.time()

    def was_used(item: Item) -> bool:
        began = since - _GO_NOTES_USE if item.name.startswith(used) else since
        return began <= item.used <= now + _GO_NOTES_USE  # not by a clock that was wrong

    return [item for item in found if not was_used(item)]


def _measured(shared_folder: Path) -> int | None:
    """Return the bytes at the last look; None if a run has added something since."""
    try:
        document = json.loads(read_file(shared_folder / _MEASURED, _MAX_MEASURED))
        is_same = document["folders"] == _folder_times(shared_folder)
        return int(document["bytes"]) if is_same else None
    except (OSError, *BROKEN):
        return None


def _folder_times(shared_folder: Path) -> dict[str, int]:
    # Each compile makes a log, and each download of Go or of a new source a folder.
    return {kind: (shared_folder / kind).lstat().st_mtime_ns for kind in _DEPTHS}


def _items(shared_folder: Path) -> tuple[Item, ...]:
    kinds = {entry.name: entry for entry in _entries(shared_folder)}
    return tuple(
        item
        for kind in _DEPTHS
        if kind in kinds and not shared_folder.is_symlink() and _is_folder(kinds[kind])
        for item in _items_of(kinds[kind].path, kind)
    )


def _items_of(top: str, kind: str) -> Iterator[Item]:
    level = [top]
    for depth in range(1, _DEPTHS[kind] + 1):
        entries = [entry for folder in level for entry in _entries(folder)]
        is_last = depth == _DEPTHS[kind]
        level = [entry.path for entry in entries if not is_last and _is_folder(entry)]
        for entry in entries:
            if (is_last or not _is_folder(entry)) and (item := _item(kind, entry)) is not None:
                yield item


def _item(kind: str, top: "os.DirEntry[str]") -> Item | None:
    """Return what is known of an item; None if it is gone."""
    size, used = 0, None
    device = Path(top.path).parent.lstat().st_dev
    entries = [top]
    while entries:  # whoever may write to a folder can nest folders deeper than a function can call
        entry = entries.pop()
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:  # removed by another run, or nested too deep for a path
            continue
        if status.st_dev != device:
            return None  # somebody has mounted something there, which is not the cache's
        size += status.st_blocks * _BLOCK
        if kind == "git" or entry is top:
            used = max(used or 0, status.st_mtime)
        if _is_folder(entry):
            entries += _entries(entry.path)
    return None if used is None else Item(kind=kind, name=top.path, size=size, used=used)


def _entries(folder: str | Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    return entry.is_dir(follow_symlinks=False)
