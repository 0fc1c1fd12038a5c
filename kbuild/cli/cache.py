"""``kbuild cache``: show, prune and clear the cache."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import typer

from kbuild import cache
from kbuild.base.errors import CacheInUse, KbuildError
from kbuild.base.files import BROKEN
from kbuild.base.values import SIZE_UNITS, rfc3339
from kbuild.base.workspace import why_refused
from kbuild.cache import Item, Pruned
from kbuild.cli.boundary import begin
from kbuild.cli.console import Screen, plain_table
from kbuild.cli.options import command_app, takes
from kbuild.settings import CacheClearSettings, CachePruneSettings, CacheSettings, Limited

_ABOUT = {
    "git": "objects of each source",
    "go": "downloaded Go",
    "gocache": "Go's cache of the local builder",
    "built": "binaries of earlier runs",
    "logs": "output of compilers",
}
_VOLUME = "docker volume"
_MONTH = 30 * 24 * 3600.0
_CLOCK = 1  # seconds by which the times of files may lag behind the clock

app = command_app("Show what the cache holds, prune it, or clear it.")


@app.callback(invoke_without_command=True)
@takes(CacheSettings)
def show(ctx: typer.Context) -> None:
    """Show what the cache holds, prune it, or clear it."""
    if ctx.invoked_subcommand is not None:
        return
    settings, screen = begin(ctx, CacheSettings)
    refused = why_refused(settings.cache_dir)
    if refused is not None:
        screen.say(f"warning: no run would use this cache: {refused.happened}")
        screen.say(refused.hint)
    found = cache.items(settings.cache_dir)
    rows = [_row(kind, [item for item in found if item.kind == kind]) for kind in _ABOUT]
    here = sum(item.size for item in found)
    limit = settings.cache_limit
    summary = f"{_human(here)} in {settings.cache_dir}{_share(here, limit)}"
    volume = cache.volume_size()
    if volume is not None:
        rows.append({"kind": _VOLUME, "items": 1, "bytes": volume, "last_used": None})
        summary += f", {_human(volume)} in the container engine{_share(volume, limit)}"
    total = here + (volume or 0)
    table = plain_table("what", "size", "items", "last used", "about")
    for row in rows:
        kind = str(row["kind"])
        about = _ABOUT.get(kind, "Go's cache of the docker builder")
        size_text = _human(int(str(row["bytes"])))
        table.add_row(kind, size_text, str(row["items"]), str(row["last_used"] or "-"), about)
    document = {
        "cache_dir": str(settings.cache_dir),
        "entries": rows,
        "bytes": total,
        "cache_dir_bytes": here,
        "engine_bytes": volume,
        "limit_bytes": limit or None,
        "warning": refused and refused.happened,
    }
    screen.result(document, [table, summary])


@app.command()
@takes(CachePruneSettings)
def prune(ctx: typer.Context) -> None:
    """Remove entries that were not used for a time, then the oldest until the rest fits."""
    settings, screen = begin(ctx, CachePruneSettings)
    age, size = settings.older_than, settings.max_size
    if age is None and size is None:
        age = _MONTH
    done = cache.prune(settings.cache_dir, age=age, size=size)
    screen.result(_document(done), [_sentence(done)])


@app.command()
@takes(CacheClearSettings)
def clear(ctx: typer.Context) -> None:
    """Remove everything, including the volumes of the container engine."""
    settings, screen = begin(ctx, CacheClearSettings)
    done = cache.clear(settings.cache_dir)
    screen.result(_document(done), [_sentence(done)])


@contextlib.contextmanager
def cache_within_limit(settings: Limited, screen: Screen) -> Iterator[None]:
    """Reduce the cache to its limit after the block, also after a KbuildError."""
    began = time.time() - _CLOCK
    try:
        yield
    except KbuildError:
        _keep_below_limit(settings, screen, began)
        raise
    _keep_below_limit(settings, screen, began)


def _keep_below_limit(settings: Limited, screen: Screen, began: float) -> None:
    folder, limit = settings.cache_dir, settings.cache_limit
    if limit == 0 or why_refused(folder) is not None:
        return
    screen.advance("measure the cache", 0, None)
    for what, keep_below in (
        ("cache", cache.keep_below),
        ("container engine's Go caches", cache.keep_volumes_below),
    ):
        try:
            done = keep_below(folder, limit, began)
        except CacheInUse:
            screen.detail("cache: another run uses it, nothing was removed")
        except (KbuildError, OSError, *BROKEN) as error:
            screen.say(f"warning: {what}: not kept below {_human(limit)}: {error}")
        else:
            _say_what_was_removed(done, what, limit, screen)


def _say_what_was_removed(done: Pruned | None, what: str, limit: int, screen: Screen) -> None:
    if done is None:
        return
    if done.removed:
        entries = "1 unused entry" if done.removed == 1 else f"{done.removed} unused entries"
        freed = f"{_human(done.freed)}, to stay below {_human(limit)}"
        screen.say(f"{what}: removed {entries}, {freed}")
    if done.left > limit:
        in_use = f"{_human(done.left)} is in use and was kept"
        screen.say(f"{what}: {in_use}; the limit is {_human(limit)}")


def _row(kind: str, found: Iterable[Item]) -> dict[str, object]:
    found = list(found)
    last = max((item.used for item in found), default=None)
    return {
        "kind": kind,
        "items": len(found),
        "bytes": sum(item.size for item in found),
        "last_used": None if last is None else _moment(last),
    }


def _moment(seconds: float) -> str | None:
    try:
        return rfc3339(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):  # a file's time may be any number
        return None


def _document(done: Pruned) -> dict[str, object]:
    return {"removed_items": done.removed, "freed_bytes": done.freed, "left_bytes": done.left}


def _sentence(done: Pruned) -> str:
    return f"{done.removed} items removed, {_human(done.freed)} freed, {_human(done.left)} left"


def _human(size: float) -> str:
    for unit in SIZE_UNITS:
        if size < 1000 or unit == SIZE_UNITS[-1]:  # noqa: PLR2004  # the factor between units
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return ""


def _share(size: int, limit: int) -> str:
    return f" ({size / limit:.0%} of the limit of {_human(limit)})" if limit else ""
