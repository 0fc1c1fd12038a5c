"""``kbuild pki components``: the flags with which components use the certificates of a plan."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from kbuild.base.words import counted
from kbuild.cli.boundary import begin
from kbuild.cli.console import plain_table
from kbuild.cli.tags import whole_tag
from kbuild.config.api import File, write_configuration
from kbuild.pki.api import Units, make_units, telling_unfinished
from kbuild.settings import PkiComponentsSettings

_ONE = "the flags are those of one release, not of a minor version or several"


def components(ctx: typer.Context) -> None:
    """Write the flags with which components use the certificates, as drop-ins for systemd."""
    settings, screen = begin(ctx, PkiComponentsSettings)
    settings.required("version")
    assert settings.version is not None
    tag = whole_tag(settings.version, _ONE)
    with telling_unfinished(settings.dir):
        made = make_units(
            settings.dir,
            tag,
            on_node=settings.on_node,
            signing_years=settings.signing_years,
            certificates=dict(settings.use),
            profiles=dict(settings.profile),
            signers=dict(settings.signer),
            ca_keys=dict(settings.ca_key),
        )
    folder = settings.output or Path("dist", f"components-{tag}")
    files = tuple(File(name=f.name, about=f.about, content=f.content) for f in made.files)
    write_configuration(folder, files, force=settings.force, command="kbuild pki components")
    screen.result(_document(tag, made, folder), _lines(made, folder))


def _lines(made: Units, folder: Path) -> Iterator[str | Table]:
    table = plain_table("component", "flags", "nodes")
    for name in dict.fromkeys(each.name for each in made.components):
        own = [each for each in made.components if each.name == name]
        nodes = counted(len(own), "node") if own[0].node else ""
        table.add_row(name, str(len(own[0].settings)), nodes)
    yield table
    yield from made.notes
    yield f"{folder}: {len(made.files)} files and SHA256SUMS. Begin with {folder / 'README.md'}."


def _document(tag: str, made: Units, folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "version": tag,
        "components": [
            {
                "name": each.name,
                "node": each.node,
                "flags": [
                    {"name": s.flag.name, "value": s.value, "why": s.flag.why}
                    for s in each.settings
                ],
                "files": [
                    {"source": str(here), "path": there} for there, here in each.files.items()
                ],
                "left_out": [{"name": flag.name, "reason": why} for flag, why in each.left_out],
            }
            for each in made.components
        ],
        "notes": list(made.notes),
        "files": [
            {"name": file.name, "about": file.about, "content": file.content} for file in made.files
        ],
    }
