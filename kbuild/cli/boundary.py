"""The one place where errors become text and exit codes."""

import contextlib
import errno
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from kbuild.base.errors import BadSetting, InternalError, Interrupted, KbuildError, NotEnoughMemory
from kbuild.cli import SIGNALS

# What is loaded where it is used would slow down --help, which needs none of it.
if TYPE_CHECKING:
    from kbuild.cli.console import Screen
    from kbuild.settings import C

_BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells have it
_STOPPING = (
    "already stopping; if that takes too long: kill -9 {pid},"
    " and the next run removes what this one leaves\n"
)


@dataclass(slots=True)
class _State:
    """The screen of this call: plain until the settings say otherwise."""

    screen: "Screen"


class Boundary(TyperGroup):
    """A Typer group whose errors end as text and an exit code, never as a traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # Typer's own signature
        """Run the command that was typed."""
        from kbuild.base.workspace import disk_errors
        from kbuild.cli.console import Screen, visible

        ctx.obj = _State(screen=Screen(verbose=False, quiet=False, as_json="--json" in sys.argv))
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
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
            raise typer.Exit(_BROKEN_PIPE) from None
        except Exception as error:
            if type(error).__module__.startswith(("typer", "click")):
                if isinstance(error, typer.TyperException):
                    # `kbuild check *` passes the names that somebody else gave to files.
                    error.message = visible(error.message)
                    ctx.obj.screen.error_document("usage", error.exit_code, error.format_message())
                raise
            if (reason := _shortage(error)) is not None:
                ctx.obj.screen.error(NotEnoughMemory(reason=reason))
                raise typer.Exit(NotEnoughMemory.exit_code) from None
            _internal(ctx.obj.screen, error)
            raise typer.Exit(InternalError.exit_code) from None


def begin(ctx: typer.Context, kind: type["C"]) -> tuple["C", "Screen"]:
    """Resolve the settings of a command that takes them, and give it its screen."""
    from kbuild.base import network
    from kbuild.cli.console import Screen
    from kbuild.settings import Networked, read_settings

    flags = _flags(ctx)
    config = flags.pop("config", None)
    if config == "":  # of a variable in a script that is not set
        reason, hint = "it names no file", "leave it out, or give the name of a file"
        raise BadSetting(name="--config", value=config, reason=reason, hint=hint)
    settings = read_settings(kind, flags, os.environ, Path(config) if config else None)
    screen = Screen(verbose=settings.verbose, quiet=settings.quiet, as_json=settings.json)
    ctx.obj.screen = screen
    if isinstance(settings, Networked):  # here, or every function would pass it on
        network.stall_timeout = settings.stall_timeout
    return settings, screen


def _flags(ctx: Any) -> dict[str, Any]:  # noqa: ANN401  # Typer's own
    """Return the flags of a command and of the group that it is in, but not those of kbuild."""
    if ctx.parent is None:
        return {}
    given = {name: value for name, value in ctx.params.items() if value not in (None, ())}
    return {**_flags(ctx.parent), **given}


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End the command, but do not cut off the cleanup that follows, however often we are told."""
    from kbuild.base.workspace import is_cleaning_up  # loaded before the handler is installed

    error = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if error is None and not is_cleaning_up():
        raise KeyboardInterrupt
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.write(2, _STOPPING.format(pid=os.getpid()).encode())


def _shortage(error: Exception) -> str | None:
    """Return what the system refused us, or None if the error is of another kind."""
    text = str(error)
    match error:
        case MemoryError():
            return text or "out of memory"
        case RecursionError():
            return text
        case OSError(errno=errno.ENOMEM | errno.EAGAIN | errno.EMFILE | errno.ENFILE):
            return error.strerror
        case RuntimeError() if "can't start new thread" in text:
            return text
        case ImportError() if "failed to map" in text or "annot allocate memory" in text:
            return text
    return None


def _internal(screen: "Screen", error: Exception) -> None:
    import traceback

    screen.error(InternalError(exception=type(error).__name__, text=str(error)))
    for line in traceback.format_exception(error):
        screen.detail(line.rstrip())
