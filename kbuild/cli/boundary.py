"""The one place that turns errors into text and exit codes."""

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

from kbuild.base.errors import (
    BadSetting,
    InternalError,
    Interrupted,
    KbuildError,
    NotEnoughMemory,
    Usage,
)
from kbuild.cli.main import SIGNALS

# Other imports are where they are used: they would slow down --help, which does not need them.
if TYPE_CHECKING:
    from kbuild.cli.console import Screen
    from kbuild.settings import C

_BROKEN_PIPE = 141  # 128 + SIGPIPE, as in shells
_STOPPING = (
    "already stopping; if that takes too long: kill -9 {pid},"
    " and the next run removes what this one leaves\n"
)


@dataclass(slots=True)
class _State:
    """The screen of this call, without the settings of a command until ``begin`` reads them."""

    screen: "Screen"


class Boundary(TyperGroup):
    """A Typer group that turns every error into text and an exit code, never a traceback."""

    def make_context(self, *words: Any, **more: Any) -> Any:  # noqa: ANN401  # Typer's own signature
        """Parse the options of kbuild itself, and print --help and --version."""
        try:
            return super().make_context(*words, **more)
        except BrokenPipeError:
            raise typer.Exit(_BROKEN_PIPE) from None
        except typer.TyperException as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # its text is the help
                raise
            _plain_screen().error(_usage(error))
            raise typer.Exit(Usage.exit_code) from None

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # Typer's own signature
        """Run the command that was typed."""
        from kbuild.base.disk import disk_errors

        ctx.obj = _State(screen=_plain_screen())
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
            # The reader of our output has ended, for example `head`.
            raise typer.Exit(_BROKEN_PIPE) from None
        except typer.TyperException as error:
            ctx.obj.screen.error(_usage(error))
            raise typer.Exit(Usage.exit_code) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if (reason := _shortage(error)) is not None:
                ctx.obj.screen.error(NotEnoughMemory(reason=reason))
                raise typer.Exit(NotEnoughMemory.exit_code) from None
            _internal(ctx.obj.screen, error)
            raise typer.Exit(InternalError.exit_code) from None
        finally:
            ctx.obj.screen.close()


def _plain_screen() -> "Screen":
    from kbuild.cli.console import Screen

    return Screen(verbose=False, quiet=False, as_json="--json" in sys.argv)


def _usage(error: typer.TyperException) -> Usage:
    """Return an error of Typer's parser in the form of all errors."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "kbuild"
    return Usage(text=error.format_message(), command=command)


def begin(ctx: typer.Context, kind: type["C"]) -> tuple["C", "Screen"]:
    """Return the resolved settings of a command, and its screen."""
    from kbuild.cli.console import Screen
    from kbuild.settings import Networked, read_settings

    flags = _flags(ctx)
    config = flags.pop("config", None)
    if config == "":  # a script's variable that is not set
        reason, hint = "it is empty", "leave it out, or give the name of a file"
        raise BadSetting(name="--config", value=config, reason=reason, hint=hint)
    settings = read_settings(kind, flags, os.environ, Path(config) if config else None)
    screen = Screen(verbose=settings.verbose, quiet=settings.quiet, as_json=settings.json)
    ctx.obj.screen.close()
    ctx.obj.screen = screen
    screen.wait_for(settings.command)
    if isinstance(settings, Networked):
        from kbuild.base import network

        network.stall_timeout = settings.stall_timeout  # so that not every function passes it on
    return settings, screen


def _flags(ctx: Any) -> dict[str, Any]:  # noqa: ANN401  # Typer's own
    """Return the flags of a command and its group, without those of kbuild itself."""
    if ctx.parent is None:
        return {}
    given = {name: value for name, value in ctx.params.items() if value not in (None, ())}
    return {**_flags(ctx.parent), **given}


def _raise() -> bool:
    raise KeyboardInterrupt


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End the command, but never interrupt its cleanup, even after many signals."""
    # Many commands never load it, and a signal may come while one does; then there is no cleanup.
    workspace = sys.modules.get("kbuild.base.workspace")
    interrupt = getattr(workspace, "interrupt", _raise)
    error = sys.exception()
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if error is None and interrupt():
        return
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.write(2, _STOPPING.format(pid=os.getpid()).encode())


def _shortage(error: Exception) -> str | None:
    """Return which resource the system refused, or None for another kind of error."""
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
