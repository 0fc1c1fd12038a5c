"""Questions to a person at a terminal."""

import sys
from collections.abc import Callable
from typing import TypeVar

import typer

from kbuild.cli.console import Screen

T = TypeVar("T")


def secret(screen: Screen, what: str) -> str | None:
    """Return what a person types without an echo; see ``answer``."""
    return answer(screen, lambda: str(typer.prompt(what, hide_input=True, err=True)))


def answer(screen: Screen, ask: Callable[[], T]) -> T | None:
    """Return what a person answers, None without a terminal or at the end of standard input.

    ``ask`` is typer.prompt or typer.confirm, which raise Abort for both Ctrl-C and the end. Raises
    KeyboardInterrupt for Ctrl-C, as Ctrl-C does everywhere else.
    """
    if not (sys.stdin and sys.stdin.isatty()):
        return None
    screen.close()  # a bar must not be drawn over the question
    try:
        return ask()
    except typer.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        return None
