"""``kbuild cache``: what the cache holds, and removing it."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer

from kbuild import cache
from kbuild.base.errors import BadSetting
from kbuild.base.workspace import why_refused
from kbuild.cache import Item, Pruned
from kbuild.cli import options
from kbuild.cli.boundary import begin, command_app
from kbuild.cli.console import plain_table
from kbuild.release import rfc3339

_ABOUT = {
    "git": "objects of each source",
    "go": "downloaded Go",
    "gocache": "Go's cache of the local builder",
    "built": "binaries of earlier runs",
    "logs": "what compilers said",
}
_VOLUME = "docker volume"
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}
_UNITS = ("B", "kB", "MB", "GB", "TB")

app = command_app("Show what the cache holds, prune it, or clear it.")


@app.callback(invoke_without_command=True)
def show(
    ctx: typer.Context,
    json: options.Json = None,
    config: options.Config = None,
    cache_dir: options.CacheDir = None,
) -> None:
    """Show what the cache holds, prune it, or clear it."""
    if ctx.invoked_subcommand is not None:
        return
    settings, screen = begin(ctx, {"json": json, "cache_dir": cache_dir}, config)
    refused = why_refused(settings.cache_dir)
    if refused is not None:
        screen.say(f"warning: no run would use this cache: {refused.happened}")
        screen.say(refused.hint)
    found = cache.items(settings.cache_dir)
    rows = [_row(kind, [item for item in found if item.kind == kind]) for kind in _ABOUT]
    here = sum(item.size for item in found)
    summary = f"{_human(here)} in {settings.cache_dir}"
    volume = cache.volume_size()
    if volume is not None:
        rows.append({"kind": _VOLUME, "items": 1, "bytes": volume, "last_used": None})
        summary += f", {_human(volume)} in the container engine"
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
        "warning": refused and refused.happened,
    }
    screen.result(document, [table, summary])


@app.command()
def prune(
    ctx: typer.Context,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Not used for so long: 12h, 30d or 8w."),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Keep at most so much: 500MB or 5GB."),
    ] = None,
    json: options.Json = None,
    config: options.Config = None,
    cache_dir: options.CacheDir = None,
) -> None:
    """Remove what is old, then the oldest until the rest is small enough. Default: 30d."""
    settings, screen = begin(ctx, {"json": json, "cache_dir": cache_dir}, config)
    if older_than is None and max_size is None:
        older_than = "30d"
    age = None if older_than is None else _seconds(older_than)
    size = None if max_size is None else _bytes(max_size)
    done = cache.prune(settings.cache_dir, age=age, size=size)
    screen.result(_document(done), [_sentence(done)])


@app.command()
def clear(
    ctx: typer.Context,
    json: options.Json = None,
    config: options.Config = None,
    cache_dir: options.CacheDir = None,
) -> None:
    """Remove everything, the engine's volume too."""
    settings, screen = begin(ctx, {"json": json, "cache_dir": cache_dir}, config)
    done = cache.clear(settings.cache_dir)
    screen.result(_document(done), [_sentence(done)])


def _row(kind: str, found: Iterable[Item]) -> dict[str, object]:
    found = list(found)
    last = max((item.used for item in found), default=None)
    return {
        "kind": kind,
        "items": len(found),
        "bytes": sum(item.size for item in found),
        "last_used": None if last is None else rfc3339(datetime.fromtimestamp(last, UTC)),
    }


def _document(done: Pruned) -> dict[str, object]:
    return {"removed_items": done.removed, "freed_bytes": done.freed, "left_bytes": done.left}


def _sentence(done: Pruned) -> str:
    return f"{done.removed} items removed, {_human(done.freed)} freed, {_human(done.left)} left"


def _human(size: float) -> str:
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:  # noqa: PLR2004  # as the units have it
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return ""


def _seconds(text: str) -> float:
    if match := re.fullmatch(r"(\d{1,6})([hdw])", text.strip(), re.ASCII):
        return float(match[1]) * _HOURS[match[2]] * 3600
    hint = "write it like 12h, 30d or 8w"
    raise BadSetting(name="older-than", value=text, reason="it must be an age", hint=hint)


def _bytes(text: str) -> int:
    units = {unit.lower(): 1000**power for power, unit in enumerate(_UNITS)}
    match = re.fullmatch(rf"(\d{{1,9}}(?:\.\d{{1,3}})?) ?({'|'.join(units)})", text.strip().lower())
    if match is not None:
        return int(float(match[1]) * units[match[2]])
    hint = "write it like 500MB or 5GB; 0B keeps nothing"
    raise BadSetting(name="max-size", value=text, reason="it must be a size", hint=hint)
