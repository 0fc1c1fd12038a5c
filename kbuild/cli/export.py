"""``kbuild export``: a release as the tools want it that put kubeadm on nodes."""

import re
from typing import Annotated

import typer

from kbuild.cli import options
from kbuild.cli.boundary import begin, command_app
from kbuild.cli.check import demand_whole
from kbuild.errors import BadSetting, NotARelease
from kbuild.release.check import check_folder
from kbuild.release.export import TOOLS, snippet

app = command_app()


@app.command()
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
