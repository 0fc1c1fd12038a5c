"""``kbuild rebuild``: are these the bytes that this provenance gives."""

import os
from pathlib import Path
from typing import Annotated

import typer

from kbuild.base.errors import BadSettingsFile
from kbuild.cli import options
from kbuild.cli.boundary import begin, command_app
from kbuild.cli.cache import cache_within_limit
from kbuild.rebuild import rebuild as build_again
from kbuild.release import commit_notes, source_document
from kbuild.settings import FILE

app = command_app()


@app.command()
def rebuild(
    ctx: typer.Context,
    provenance: Annotated[
        Path,
        typer.Argument(
            metavar="PROVENANCE",
            readable=False,
            help="The provenance.json of a release, or its folder.",
        ),
    ],
    source: options.Source = None,
    verify_against: options.VerifyAgainst = None,
    builder: options.Builder = None,
    image: options.Image = None,
    golang_repository: options.GolangRepository = None,
    go_root: options.GoRoot = None,
    go_site: options.GoSite = None,
    release_site: options.ReleaseSite = None,
    stall_timeout: options.StallTimeout = None,
    json: options.Json = None,
    verbose: options.Verbose = None,
    quiet: options.Quiet = None,
    config: options.Config = None,
    cache_dir: options.CacheDir = None,
    cache_limit: options.CacheLimit = None,
) -> None:
    """Build a release again from its provenance, and compare the bytes."""
    places = {
        "source": source,
        "verify_against": verify_against,
        "builder": builder,
        "image": image,
        "golang_repository": golang_repository,
        "go_root": go_root,
        "go_site": go_site,
        "release_site": release_site,
    }
    how = {
        "stall_timeout": stall_timeout,
        "json": json,
        "verbose": verbose,
        "quiet": quiet,
        "cache_dir": cache_dir,
        "cache_limit": cache_limit,
    }
    _refuse_settings_of(provenance, config)
    settings, screen = begin(ctx, {**places, **how}, config)
    with cache_within_limit(settings, screen):
        rebuilt = build_again(provenance, settings, screen)
    document = {
        "provenance": str(rebuilt.provenance),
        "equal": True,
        "files": rebuilt.files,
        "source": source_document(rebuilt.tree),
    }
    lines = [f"equal: {name} sha256:{digest}" for name, digest in rebuilt.files.items()]
    screen.result(document, [*lines, *commit_notes(rebuilt.tree.source)])


def _refuse_settings_of(provenance: Path, config: str | None) -> None:
    """Refuse a kbuild.toml in the release: whoever made the release may have put it there."""
    if config is not None or os.environ.get("KBUILD_CONFIG"):
        return
    # Of any name, and through a loop of links, os.path gives an answer where pathlib raises.
    release = provenance if os.path.isdir(provenance) else provenance.parent  # noqa: PTH112
    if FILE.exists() and Path.cwd().is_relative_to(os.path.realpath(release)):
        reason = "it is in the release that is to be judged; if it is yours, name it with --config"
        raise BadSettingsFile(path=FILE, reason=reason)
