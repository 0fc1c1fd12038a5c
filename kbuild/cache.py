"""What the cache holds: how much, how old, and removing it by age and size.

The Go caches of the docker builder are volumes of the engine, one for each image. They are shown
and cleared, but not pruned: only Go reads them, and Go removes what it has not used for five days.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kbuild.base import engine
from kbuild.base.workspace import alone, content, remove
from kbuild.kubeadm import CACHE_VOLUME

_BLOCK = 512  # st_blocks counts these, whatever the disk's own are
# The folders of the cache, and how deep below them stands what is removed as one.
_DEPTHS = {"git": 1, "go": 1, "gocache": 3, "built": 1, "logs": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What is kept or removed as one: ``used`` is seconds since 1970."""

    kind: str
    path: Path
    size: int
    used: float


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
        found = sorted(_items(shared_folder), key=lambda item: item.used)
        left = sum(item.size for item in found)
        oldest = time.time() - age if age is not None else 0
        freed = removed = 0
        for item in found:
            if item.used < oldest or (size is not None and left - freed > size):
                remove(item.path)
                freed, removed = freed + item.size, removed + 1
        return Pruned(removed=removed, freed=freed, left=left - freed)


def clear(cache: Path) -> Pruned:
    """Remove everything, the engine's volume too if one answers.

    Raises CacheInUse, NotACache, UnsafeCache, NotWritable or EngineFailed.
    """
    with alone(cache) as shared_folder:
        found = _items(shared_folder)
        volume = _on_volume(lambda found: found.remove())  # first: it may be in use
        for kind in _DEPTHS:
            # Not the folder itself: a run that waits for us has made it already.
            for path in (shared_folder / kind).iterdir():
                remove(path)
        freed = sum(item.size for item in found) + (volume or 0)
    return Pruned(removed=len(found), freed=freed, left=0)


def volume_size() -> int | None:
    """Return the bytes of the engine's Go cache; None where there is no engine or no cache."""
    return _on_volume(lambda _found: None)


def _on_volume(do: "Callable[[engine.Volume], object]") -> int | None:
    if engine.why_unavailable() is not None:
        return None
    with contextlib.closing(engine.connect()) as client, engine.translate(CACHE_VOLUME):
        ours = [
            about
            for about in client.df()["Volumes"] or []
            if str(about["Name"]).startswith(CACHE_VOLUME)
        ]
        for about in ours:
            do(client.volumes.get(about["Name"]))
    return sum(int(about["UsageData"]["Size"]) for about in ours) if ours else None


def _items(shared_folder: Path) -> tuple[Item, ...]:
    return tuple(item for kind in _DEPTHS for item in _items_of(shared_folder, kind))


def _items_of(shared_folder: Path, kind: str) -> Iterator[Item]:
    top = shared_folder / kind
    if not (_is_folder(shared_folder) and _is_folder(top)):
        return
    level = [top]
    for depth in range(1, _DEPTHS[kind] + 1):
        entries = [entry for folder in level for entry in _entries(folder)]
        level = [entry for entry in entries if depth < _DEPTHS[kind] and _is_folder(entry)]
        for path in {*entries} - {*level}:
            if (item := _item(kind, path)) is not None:
                yield item


def _item(kind: str, path: Path) -> Item | None:
    """Return what is known of an item; None if it is gone."""
    sizes, times = [], []
    paths = [path]
    while paths:  # not rglob: whoever may write to a folder can nest folders deeper than it follows
        each = paths.pop()
        try:
            size, used = _size(each), _used(each)
        except OSError:  # removed by another run, or nested too deep for a path
            continue
        sizes.append(size)
        if kind == "git" or each == path:
            times.append(used)
        if _is_folder(each):
            paths += _entries(each)
    return Item(kind=kind, path=path, size=sum(sizes), used=max(times)) if times else None


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _size(path: Path) -> int:
    return path.lstat().st_blocks * _BLOCK


def _used(path: Path) -> float:
    # Linking a file sets its ctime, writing to it both.
    status = os.lstat(path)
    return max(status.st_mtime, status.st_ctime)
