"""The commands of kbuild, as Typer knows them."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import typer

from kbuild.cli.app import app


@cache
def commands() -> dict[str, Any]:
    """Return every command of kbuild, by what is typed to call it."""
    return dict(_walk("kbuild", typer.main.get_command(app), None))


def _walk(path: str, command: Any, parent: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    context = command.context_class(command, info_name=path, parent=parent)
    for name in getattr(command, "commands", {}):
        yield from _walk(f"{path} {name}", command.resolve_command(context, [name])[1], context)
