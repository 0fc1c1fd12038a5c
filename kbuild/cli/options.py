"""Make the options of commands from their settings, which parse the values."""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from kbuild.base.settings import CommandSettings, Option, flag, options
from kbuild.cli.app import HELP
from kbuild.settings import COMMON, PANELS

ReleaseFolder = Annotated[
    Path,
    typer.Argument(metavar="DIR", readable=False, help="A release, or a directory of releases."),
]
_CONFIG = typer.Option(
    "--config",
    metavar="FILE",
    rich_help_panel=COMMON,
    help="Settings file. Default: kbuild.toml in the current directory, if it exists.",
)


def takes(kind: type[CommandSettings]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of its settings, which ``begin`` reads, and ``--config``."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters

        @wraps(function)
        def command(*args: object, **words: object) -> None:
            function(*args, **{name: word for name, word in words.items() if name in own})

        declared = sorted(options(kind).items(), key=lambda item: PANELS.index(item[1].panel))
        flags = [_parameter(name, each, kind.needed.get(name, "")) for name, each in declared]
        shown = [*flags, _keyword("config", str, _CONFIG)]
        signature = inspect.Signature([*own.values(), *shown])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {n: p.annotation for n, p in signature.parameters.items()}
        return command

    return decorate


def _parameter(name: str, declared: Option, needed: str) -> inspect.Parameter:
    words = [flag(name), declared.short] if declared.short else [flag(name)]
    kind: Any = bool if declared.is_switch else list[str] if declared.repeatable else str
    shown = typer.Option(
        *words,
        metavar=declared.metavar,
        rich_help_panel=declared.panel,
        help=f"{declared.full_help} {needed}".strip(),
        autocompletion=completion(declared.choices) if declared.choices else None,
    )
    return _keyword(name, kind, shown)


def completion(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what offers a shell these values, also after a comma; Typer drops what differs."""

    def offer(incomplete: str) -> list[str]:
        before, comma, _ = incomplete.rpartition(",")
        return [f"{before}{comma}{each}" for each in choices if each not in before.split(",")]

    return offer


def _keyword(name: str, kind: Any, shown: Any) -> inspect.Parameter:  # noqa: ANN401  # Typer's own
    where, annotation = inspect.Parameter.KEYWORD_ONLY, Annotated[kind | None, shown]
    return inspect.Parameter(name, where, default=None, annotation=annotation)


class _Help:
    """Corrects Typer's help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  # as Typer's
        """Print the help; raises BrokenPipeError where rich would exit with 1."""
        for each in self.get_params(ctx):  # type: ignore[attr-defined]
            if each.param_type_name == "argument":  # Typer would show the type in Python
                each.display_type_rich = lambda ctx: None  # noqa: ARG005  # as Typer calls it
        try:
            super().format_help(ctx, formatter)  # type: ignore[misc]
        except SystemExit:
            raise BrokenPipeError from None

    def get_help_option(self, ctx: Any) -> Any:  # noqa: ANN401  # as Typer's
        """Return --help, for which Typer would show a value that it does not have."""
        found = super().get_help_option(ctx)  # type: ignore[misc]
        if found is not None:
            found.metavar = ""
        return found


class Command(_Help, TyperCommand):
    """A command of kbuild."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  # Typer's own
        """Refuse an empty argument: a script's variable that is not set would be the path ``.``."""
        if "" in args and not ctx.resilient_parsing:
            given, _, _ = self.make_parser(ctx).parse_args(args=[*args])
            for each in self.get_params(ctx):
                is_argument, value = each.param_type_name == "argument", given.get(str(each.name))
                if is_argument and "" in (value if isinstance(value, tuple | list) else (value,)):
                    ctx.fail(f"Invalid value for '{each.metavar}': it is empty")
        return super().parse_args(ctx, args)


class Group(_Help, TyperGroup):
    """A group of commands of kbuild."""


class _App(typer.Typer):
    def command(self, name: str | None = None, *, cls: Any = Command, **more: Any) -> Any:  # noqa: ANN401  # as Typer's
        return super().command(name, cls=cls, context_settings=HELP, **more)


def command_app(about: str | None = None) -> typer.Typer:
    """Return the app of a command or a group of commands, which ``Commands`` loads."""
    return _App(
        cls=Group,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings=HELP,
        help=about,
    )
