"""``kbuild export``: snippets for tools that install kubeadm on nodes."""

import re
from typing import Annotated, Any

import typer

from kbuild.base.addresses import shown
from kbuild.base.errors import BadSetting
from kbuild.cli.boundary import begin
from kbuild.cli.check import demand_whole
from kbuild.cli.options import Command, ReleaseFolder, command_app, completion, takes
from kbuild.release.api import TOOLS, NotARelease, check_folder, snippet
from kbuild.settings import ExportSettings

app = command_app()


class _Export(Command):
    """A command that reports all missing parameters at once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  # Typer's own
        if ctx.resilient_parsing or not {"-h", "--help"}.isdisjoint(args):
            return super().parse_args(ctx, args)
        given, _, _ = self.make_parser(ctx).parse_args(args=[*args])
        if given.get("tool") is not None:
            _demand_tool(given["tool"])
        missing = [
            param.metavar
            for param in self.get_params(ctx)
            if param.required and given.get(param.name) is None
        ]
        ctx.params = given
        if missing and begin(ctx, ExportSettings)[0].base_url is None:
            missing.append("--base-url")
        if len(missing) > 1:
            ctx.fail(f"Missing: {', '.join(map(str, missing))}")
        return super().parse_args(ctx, args)


def _demand_tool(name: str) -> None:
    if name not in TOOLS:
        reason = f"it must be one of {', '.join(TOOLS)}"
        raise BadSetting(name="TOOL", value=name, reason=reason, hint="see --help")


def _demand_address(name: str, base_url: str) -> None:
    if not re.fullmatch(r"https?://[\w.~:%@+\[\]-]+(/[\w.~:/%@+\[\]-]*)?", base_url, re.ASCII):
        reason = "it must be an http or https URL without special characters"
        hint = "write other characters as % escapes"
        raise BadSetting(name=name, value=base_url, reason=reason, hint=hint)
    if shown(base_url) != base_url:  # the snippet would have another address
        reason = "it has, or seems to have, a user or a password, which no snippet contains"
        hint = "leave out what is before the @, and write another @ as %40"
        raise BadSetting(name=name, value=base_url, reason=reason, hint=hint)


@app.command(cls=_Export)
@takes(ExportSettings)
def export(
    ctx: typer.Context,
    tool: Annotated[
        str,
        typer.Argument(
            metavar="TOOL",
            help=f"One of {', '.join(TOOLS)}.",
            autocompletion=completion(tuple(TOOLS)),
        ),
    ],
    folder: ReleaseFolder,
) -> None:
    """Print what a tool needs to install this kubeadm on nodes."""
    settings, screen = begin(ctx, ExportSettings)
    [base_url] = settings.required("base_url")
    _demand_address(settings.origin("base_url"), base_url)
    releases = check_folder(folder)
    for release in releases:
        demand_whole(release)  # a snippet must not contain the checksum of a damaged file
    if len(releases) > 1:
        raise NotARelease(path=folder, reason="it holds several releases; name one")
    statement = releases[0].statement
    assert statement is not None
    text = snippet(tool, statement, base_url)
    screen.result({"tool": tool, "snippet": text}, text.rstrip("\n").split("\n"))
