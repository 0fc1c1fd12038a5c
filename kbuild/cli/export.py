"""``kbuild export``: a release as the tools want it that put kubeadm on nodes."""

import re
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from kbuild.base.errors import BadSetting, NotARelease
from kbuild.cli import options
from kbuild.cli.boundary import begin, command_app
from kbuild.cli.check import demand_whole
from kbuild.release import TOOLS, check_folder, snippet

app = command_app()


class _Export(TyperCommand):
    """A command that names all that is missing, not only the first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  # Typer's own
        if ctx.resilient_parsing or not {"--help"}.isdisjoint(args):
            return super().parse_args(ctx, args)
        given, _, _ = self.make_parser(ctx).parse_args(args=[*args])
        missing = [
            param.metavar if param.param_type_name == "argument" else param.opts[0]
            for param in self.get_params(ctx)
            if param.required and given.get(param.name) is None
        ]
        if len(missing) > 1:
            ctx.fail(f"Missing: {', '.join(map(str, missing))}")
        return super().parse_args(ctx, args)


@app.command(cls=_Export)
def export(
    ctx: typer.Context,
    tool: Annotated[str, typer.Argument(metavar="TOOL", help=f"One of {', '.join(TOOLS)}.")],
    folder: options.ReleaseFolder,
    base_url: Annotated[
        str,
        typer.Option(
            "--base-url",
            metavar="URL",
            help="Where the release is; of the layout tree, what is above it.",
        ),
    ],
    json: options.Json = None,
    config: options.Config = None,
) -> None:
    """Print what a tool needs to put this kubeadm on nodes."""
    _, screen = begin(ctx, {"json": json}, config)
    if tool not in TOOLS:
        reason = f"it must be one of {', '.join(TOOLS)}"
        raise BadSetting(name="TOOL", value=tool, reason=reason, hint="see --help")
    if not re.fullmatch(r"https?://[\w.~:/%@+\[\]-]+", base_url, re.ASCII):
        reason = "it must be an http or https address of plain characters"
        raise BadSetting(name="base-url", value=base_url, reason=reason, hint="quote the rest as %")
    releases = check_folder(folder)
    for release in releases:
        demand_whole(release)  # a checksum of something damaged would spread it
    if len(releases) > 1:
        raise NotARelease(path=folder, reason="it holds several; name one")
    statement = releases[0].statement
    assert statement is not None
    text = snippet(tool, statement, base_url)
    screen.result({"tool": tool, "snippet": text}, text.rstrip("\n").split("\n"))
