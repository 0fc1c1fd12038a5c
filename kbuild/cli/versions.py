"""``kbuild versions``: the tags that the source offers, and how each would be patched."""

from typing import Annotated

import typer

from kbuild.base.workspace import open_workspace
from kbuild.cli import options
from kbuild.cli.boundary import begin, command_app
from kbuild.cli.console import plain_table
from kbuild.kubeadm import (
    full_tag,
    list_tags,
    newest_of_each_minor,
    patches_folder,
    read_index,
    series_for,
)
from kbuild.kubeadm import since as from_on

app = command_app()


@app.command()
def versions(
    ctx: typer.Context,
    source: options.Source = None,
    pre_releases: Annotated[
        bool, typer.Option("--pre-releases", help="List alphas, betas and release candidates too.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="V", help="Only this version and those after it."),
    ] = None,
    newest: Annotated[
        bool, typer.Option("--newest", help="Only the newest tag of each minor.")
    ] = False,
    stall_timeout: options.StallTimeout = None,
    json: options.Json = None,
    verbose: options.Verbose = None,
    quiet: options.Quiet = None,
    config: options.Config = None,
    cache_dir: options.CacheDir = None,
) -> None:
    """List the tags of the source, and how each would be patched."""
    flags = {
        "source": source,
        "stall_timeout": stall_timeout,
        "json": json,
        "verbose": verbose,
        "quiet": quiet,
        "cache_dir": cache_dir,
    }
    settings, screen = begin(ctx, flags, config)
    oldest = read_index(patches_folder()).oldest
    if since is not None:
        full_tag(since)  # what is wrong with it shows before anything is asked for
    with open_workspace(settings.cache_dir) as workspace:
        offered = list_tags(settings.source, workspace, screen)
    tags = [
        tag
        for tag in offered
        if tag.version >= oldest and (pre_releases or not tag.version.is_prerelease)
    ]
    if since is not None:
        tags = from_on(since, tags)
    if newest:
        tags = newest_of_each_minor(tags)
    if not tags:
        screen.say("no tag of it is a Kubernetes version that kbuild patches")
    table = plain_table("tag", "commit", "series", "what is patched")
    entries = []
    for tag in tags:
        series = series_for(tag.version)
        names = [one.name for one in series]
        about = " or: ".join(one.about for one in series)
        table.add_row(tag.name, (tag.commit or "")[:12], " or ".join(names), about)
        entries.append({"tag": tag.name, "commit": tag.commit, "series": names})
    screen.result({"source": settings.source, "versions": entries}, [table])
