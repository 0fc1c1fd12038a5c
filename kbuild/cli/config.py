"""``kbuild config``: the files that make lifetimes hold for a whole cluster."""

from collections.abc import Iterator
from pathlib import Path

import typer
from rich.table import Table

from kbuild.cli.boundary import begin
from kbuild.cli.console import plain_table
from kbuild.cli.options import command_app, takes
from kbuild.cli.tags import whole_tag
from kbuild.config.api import Configuration, Request, make_configuration, write_configuration
from kbuild.settings import ConfigSettings

_ONE = "a configuration is for one release, not a minor version or several"

app = command_app()


@app.command()
@takes(ConfigSettings)
def config(ctx: typer.Context) -> None:
    """Write Kubernetes configuration that makes lifetimes hold."""
    settings, screen = begin(ctx, ConfigSettings)
    settings.required("version", "ca_years", "leaf_years")
    settings.check_stored()
    assert settings.version is not None
    request = Request(
        tag=whole_tag(settings.version, _ONE),
        lifetimes=settings.lifetimes(),
        purpose=settings.for_,
        kubeadm_config=settings.kubeadm_config,
        kubelet_config=settings.kubelet_config,
    )
    made = make_configuration(request)
    folder = settings.output or Path("dist", f"config-{request.tag}")
    write_configuration(folder, made.files, force=settings.force)
    screen.result(_document(request, made, folder), _lines(made, folder))


def _lines(made: Configuration, folder: Path) -> Iterator[str | Table]:
    yield from made.notes
    table = plain_table("file", "what it is for")
    for column in table.columns:
        column.no_wrap, column.overflow = False, "fold"
    for file in made.files:
        table.add_row(file.name, file.about)
    yield table
    yield f"{folder}: {len(made.files)} files and SHA256SUMS. Begin with {folder / 'README.md'}."


def _document(request: Request, made: Configuration, folder: Path) -> dict[str, object]:
    return {
        "folder": str(folder),
        "version": request.tag,
        "for": request.purpose,
        "needs_build": made.needs_build,
        "notes": list(made.notes),
        "files": [
            {"name": file.name, "about": file.about, "content": file.content} for file in made.files
        ],
    }
