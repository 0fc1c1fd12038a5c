"""The one place where errors become text and exit codes."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from kbuild.addresses import shown
from kbuild.errors import InternalError, Interrupted, KbuildError

# What is loaded where it is used would slow down --help, which needs none of it.
if TYPE_CHECKING:
    from kbuild.cli.console import Screen
    from kbuild.settings import Settings

_BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells have it


@dataclass(slots=True)
class _State:
    """The screen of this call: plain until the settings say otherwise."""

    screen: "Screen"


class Boundary(TyperGroup):
    """A Typer group whose errors end as text and an exit code, never as a traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # Typer's own signature
        """Run the command that was typed."""
        from kbuild.cli.console import Screen
        from kbuild.workspace import disk_errors

        ctx.obj = _State(screen=Screen(verbose=False, quiet=False, as_json="--json" in sys.argv))
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        try:
            with disk_errors(Path()):
                return super().invoke(ctx)
        except KbuildError as error:
            ctx.obj.screen.error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            ctx.obj.screen.error(Interrupted())
            raise typer.Exit(Interrupted.exit_code) from None
        except BrokenPipeError:
            # Who read us has gone, for example `head`; nobody is left to be told.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(_BROKEN_PIPE) from None
        except Exception as error:
            if type(error).__module__.startswith(("typer", "click")):
                if isinstance(error, typer.TyperException):
                    error.message = shown(error.message)
                    ctx.obj.screen.error_document("Usage", error.exit_code, error.format_message())
                raise
            _internal(ctx.obj.screen, error)
            raise typer.Exit(InternalError.exit_code) from None


def command_app(about: str | None = None) -> typer.Typer:
    """Return the app of a command, or of a group of commands, to be loaded by ``Commands``."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=about)


def begin(
    ctx: typer.Context, flags: Mapping[str, object], config: str | None
) -> tuple["Settings", "Screen"]:
    """Resolve the settings of a command and give it its screen."""
    from kbuild.cli.console import Screen
    from kbuild.settings import read_settings

    settings = read_settings(flags, os.environ, Path(config) if config else None)
    screen = Screen(verbose=settings.verbose, quiet=settings.quiet, as_json=settings.json)
    ctx.obj.screen = screen
    return settings, screen


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _internal(screen: "Screen", error: Exception) -> None:
    import traceback

    screen.error(InternalError(kind=type(error).__name__, text=error))
    for line in traceback.format_exception(error):
        screen.detail(line.rstrip())
