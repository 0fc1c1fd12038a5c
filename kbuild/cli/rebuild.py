"""``kbuild rebuild``: build a release again and compare the bytes."""

import os
from pathlib import Path
from typing import Annotated

import typer

from kbuild.base.errors import BadSettingsFile
from kbuild.base.settings import CONFIG, FILE
from kbuild.cli.boundary import begin
from kbuild.cli.cache import cache_within_limit
from kbuild.cli.options import command_app, takes
from kbuild.rebuild import rebuild as build_again
from kbuild.release.api import commit_notes, source_document
from kbuild.settings import RebuildSettings

app = command_app()


@app.command()
@takes(RebuildSettings)
def rebuild(
    ctx: typer.Context,
    provenance: Annotated[
        Path,
        typer.Argument(
            metavar="PROVENANCE",
            readable=False,
            help="The provenance.json of a release, or its directory.",
        ),
    ],
) -> None:
    """Rebuild a release from its provenance and compare the bytes."""
    _refuse_settings_of(provenance, ctx.params["config"])
    settings, screen = begin(ctx, RebuildSettings)
    with cache_within_limit(settings, screen):
        rebuilt = build_again(provenance, settings, screen)
        document = {
            "provenance": str(rebuilt.provenance),
            "equal": True,
            "files": rebuilt.files,
            "source": source_document(rebuilt.tree),
        }
        lines = [f"equal: {name} sha256:{digest}" for name, digest in rebuilt.files.items()]
        # Before the cache is measured, which may take long.
        screen.result(document, [*lines, *commit_notes(rebuilt.tree.source)])


def _refuse_settings_of(provenance: Path, config: str | None) -> None:
    """Refuse a kbuild.toml in the release: whoever made the release may have put it there."""
    if config is not None or os.environ.get(CONFIG):
        return
    # os.path has an answer for any name and for a loop of links, where pathlib raises.
    release = provenance if os.path.isdir(provenance) else provenance.parent  # noqa: PTH112
    if FILE.exists() and Path.cwd().is_relative_to(os.path.realpath(release)):
        reason = "it is in the release to be rebuilt; if it is yours, name it with --config"
        raise BadSettingsFile(path=FILE, reason=reason)
