"""``kbuild versions``: the tags of the source, and how each would be patched."""

import typer

from kbuild.base.workspace import open_workspace
from kbuild.cli.boundary import begin
from kbuild.cli.console import plain_table
from kbuild.cli.options import command_app, takes
from kbuild.kubeadm.api import (
    list_tags,
    newest_of_each_minor,
    patches_folder,
    read_index,
    series_for,
)
from kbuild.kubeadm.api import since as from_on
from kbuild.settings import VersionsSettings

app = command_app()


@app.command()
@takes(VersionsSettings)
def versions(ctx: typer.Context) -> None:
    """List the tags of the source and how each would be patched."""
    settings, screen = begin(ctx, VersionsSettings)
    since = settings.since
    oldest = read_index(patches_folder()).oldest
    if since is not None:
        from_on(since, [])  # first, so that a wrong version is reported before any request
    with open_workspace(settings.cache_dir) as workspace:
        offered = list_tags(settings.source, workspace, screen)
    tags = [
        tag
        for tag in offered
        if tag.version >= oldest and (settings.pre_releases or not tag.version.is_prerelease)
    ]
    if since is not None:
        tags = from_on(since, tags)
    if settings.newest:
        tags = newest_of_each_minor(tags)
    if not tags:
        screen.say("the source has no tag that kbuild can patch and that matches the options")
    table = plain_table("tag", "commit", "series", "what is patched")
    entries = []
    for tag in tags:
        series = series_for(tag.version)
        names = [one.name for one in series]
        about = " or: ".join(one.about for one in series)
        table.add_row(tag.name, (tag.commit or "")[:12], " or ".join(names), about)
        entries.append({"tag": tag.name, "commit": tag.commit, "series": names})
    screen.result({"source": settings.source, "versions": entries}, [table])
