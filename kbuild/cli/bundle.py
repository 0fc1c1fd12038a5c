"""``kbuild bundle``: everything that builds need on a machine without a network, in one file."""

import os
from dataclasses import asdict

import typer

from kbuild.base.workspace import open_workspace
from kbuild.cli.boundary import begin
from kbuild.cli.cache import cache_within_limit
from kbuild.cli.options import command_app, takes
from kbuild.kubeadm.api import make_bundle
from kbuild.release.api import claim_note
from kbuild.settings import BundleSettings

app = command_app()


@app.command()
@takes(BundleSettings)
def bundle(ctx: typer.Context) -> None:
    """Put everything that builds need without a network into one file."""
    settings, screen = begin(ctx, BundleSettings)
    request = settings.request(os.environ)
    with cache_within_limit(settings, screen):
        with open_workspace(settings.cache_dir) as workspace:
            made = make_bundle(request, workspace, screen)
        notes = [note for tree in made.trees if (note := claim_note(tree))]
        document = {
            "bundle": str(made.path),
            "sha256": made.sha256,
            "size": made.size,
            "source": made.document.source,
            "tags": {tag.name: tag.commit for tag in made.document.tags},
            "go": [{"version": go.version, "arch": go.arch} for go in made.document.go],
            "wheels": made.wheels,
            "images": [asdict(image) for image in made.document.images],
            "notes": notes,
        }
        lines = [
            *(f"{tag.name} commit {tag.commit}" for tag in made.document.tags),
            *(f"Note: {note}" for note in notes),
            *(f"Go {go.version} for {go.arch} from {go.origin}" for go in made.document.go),
            *(
                f"Go {image.go_version} for {image.arch} in {image.image}"
                for image in made.document.images
            ),
            *([f"kbuild: {len(made.wheels)} wheels for {made.wheels_for}"] if made.wheels else []),
            f"{made.sha256}  {made.path}",  # what `sha256sum --check` reads
        ]
        screen.result(document, lines)
