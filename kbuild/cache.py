"""Measure what the cache holds, and remove entries by age and size.

The docker builder keeps its Go build caches in volumes of the engine, one for each image. A volume
is measured and removed as a whole.

An entry is removed by one rename or unlink, so a run that is killed leaves complete entries.
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
from kbuild.base.disk import remove, resolved
from kbuild.base.errors import DiskFull, KbuildError
from kbuild.base.files import BROKEN, read_file
from kbuild.base.workspace import alone, content, work_folder

_BLOCK = 512  # bytes; the unit of st_blocks on every disk
# The directories of the cache, and the depth of their entries.
_DEPTHS = {"git": 1, "go": 1, "gocache": 3, "built": 1, "logs": 1}
_VOLUMES = "volumes"
_MEASURED = "measured.json"  # the result of the last measurement
_MAX_MEASURED = 4096
_GO_NOTES_USE = 3600  # seconds; Go records the use of an entry once an hour
_DAY = 86400
_THREADS = 8  # a disk that discards blocks takes 4 ms for each file


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An entry of the cache, kept or removed as a whole; ``used`` is in seconds since 1970."""

    kind: str
    name: str  # not a Path: making 50,000 of them takes longer than measuring their files
    size: int
    used: float

    @property
    def path(self) -> Path:
        """Return the path of the entry."""
        return Path(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """The result of removing entries; ``freed`` and ``left`` are bytes of disk."""

    removed: int
    freed: int
    left: int


def items(cache: Path) -> tuple[Item, ...]:
    """Return the entries of a cache.

    Unreadable files are left out, and no link is followed.
    """
    return _items(content(cache))


def prune(cache: Path, *, age: float | None, size: int | None) -> Pruned:
    """Remove what was not used for ``age`` seconds, then the oldest until ``size`` bytes are left.

    A cache that does not exist is not created. Raises CacheInUse, NotACache, UnsafeCache or
    NotWritable.
    """
    if not os.path.lexists(resolved(cache)):
        return Pruned(removed=0, freed=0, left=0)
    with alone(cache) as content_directory:
        found = _items(content_directory)
        oldest = time.time() - age if age is not None else 0
        old = [item for item in found if item.used < oldest]
        young = [item for item in found if item.used >= oldest]
        return _discard([*old, *_above(size, young)], found, content_directory)


def keep_below(cache: Path, limit: int, since: float) -> Pruned | None:
    """Remove the least recently used entries until ``limit`` bytes are left.

    Entries that were used ``since`` stay. Return None if nothing was added since the cache was last
    measured below its limit.
    Raises CacheInUse, NotACache, UnsafeCache or NotWritable.
    """
    if not content(cache).is_dir():
        return None
    with alone(cache) as content_directory:
        if (size := _measured(content_directory)) is not None and size <= limit:
            return None
        found = _items(content_directory)
        unused = _unused(found, content_directory, since)
        spared = sum(item.size for item in found) - sum(item.size for item in unused)
        done = _discard(_above(limit - spared, unused), found, content_directory)
        document = {"bytes": done.left, "folders": _folder_times(content_directory)}
        _write(content_directory / _MEASURED, json.dumps(document))
        return done


def _write(path: Path, text: str) -> None:
    """Write a file by a rename, so that a link in its place is not followed."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.unlink(missing_ok=True)
    with made.open("x") as file:
        file.write(text)
    made.replace(path)


def keep_volumes_below(cache: Path, limit: int, since: float) -> Pruned | None:
    """Remove the least recently used of the engine's Go caches until ``limit`` bytes are left.

    Only volumes that runs with this cache have used count, and volumes in use stay. The engine is
    slow to measure them, so it is asked at most once a day, and only if the docker builder was used
    ``since``. Otherwise the result is None.

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
    """Remove everything, including the volumes of the engine if one answers.

    Raises CacheInUse, NotACache, UnsafeCache, NotWritable or EngineFailed.
    """
    if not os.path.lexists(resolved(cache)):
        return Pruned(removed=0, freed=_clear_volumes(), left=0)
    with alone(cache) as content_directory:
        found = _items(content_directory)
        freed = _clear_volumes()  # first: one may be in use
        _discard(found, found, content_directory)
        for kind in (*_DEPTHS, _VOLUMES):
            # Not the directory itself: a run that waits for the lock has already made it.
            for path in (content_directory / kind).iterdir():
                remove(path)
    return Pruned(removed=len(found), freed=freed + sum(item.size for item in found), left=0)


def volume_size() -> int | None:
    """Return the bytes of the engine's Go caches; None without an engine or a cache."""
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


def _discard(chosen: Iterable[Item], found: Iterable[Item], content_directory: Path) -> Pruned:
    """Remove the chosen entries; the caller uses the cache exclusively."""
    chosen = list(chosen)
    try:
        with work_folder(content_directory, is_alone=True) as trash:
            _remove_all(chosen, trash)
    except DiskFull:  # a directory to move them to cannot be made
        _remove_all(chosen, None)
    freed = sum(item.size for item in chosen)
    left = sum(item.size for item in found) - freed
    return Pruned(removed=len(chosen), freed=freed, left=left)


def _remove_all(chosen: list[Item], trash: Path | None) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda item: _remove(item, trash), chosen):
            pass  # raises the error of a thread


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
    except OSError:  # on another file system, or without permission
        remove(path)


def _above(size: int | None, found: Iterable[Item]) -> Iterator[Item]:
    """Yield the least recently used entries until the rest has at most ``size`` bytes."""
    oldest_first = sorted(found, key=lambda item: item.used)
    left = sum(item.size for item in oldest_first)
    for item in oldest_first:
        if size is None or left <= size:
            return
        yield item
        left -= item.size


def _unused(found: Iterable[Item], content_directory: Path, since: float) -> list[Item]:
    gocaches = _entries(content_directory / "gocache")
    used = tuple(
        f"{each.path}/"
        for each in gocaches
        if each.stat(follow_symlinks=False).st_mtime >= since and _is_folder(each)
    )

    now = time.time()

    def was_used(item: Item) -> bool:
        began = since - _GO_NOTES_USE if item.name.startswith(used) else since
        return began <= item.used <= now + _GO_NOTES_USE  # later times are from a wrong clock

    return [item for item in found if not was_used(item)]


def _measured(content_directory: Path) -> int | None:
    """Return the bytes at the last measurement; None if a run has added something since."""
    try:
        document = json.loads(read_file(content_directory / _MEASURED, _MAX_MEASURED))
        is_same = document["folders"] == _folder_times(content_directory)
        return int(document["bytes"]) if is_same else None
    except (OSError, *BROKEN):
        return None


def _folder_times(content_directory: Path) -> dict[str, int]:
    # Each compile makes a log. Each download of Go, and each new source, makes a directory.
    return {kind: (content_directory / kind).lstat().st_mtime_ns for kind in _DEPTHS}


def _items(content_directory: Path) -> tuple[Item, ...]:
    kinds = {entry.name: entry for entry in _entries(content_directory)}
    return tuple(
        item
        for kind in _DEPTHS
        if kind in kinds and not content_directory.is_symlink() and _is_folder(kinds[kind])
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
    """Return an entry with its size and age; None if it no longer exists."""
    size, used = 0, None
    device = Path(top.path).parent.lstat().st_dev
    entries = [top]
    while entries:  # not recursive: directories may be nested deeper than Python's call stack
        entry = entries.pop()
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:  # removed by another run, or nested too deep for a path
            continue
        if status.st_dev != device:
            return None  # a mounted file system does not belong to the cache
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
