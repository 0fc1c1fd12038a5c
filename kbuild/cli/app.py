"""The Typer app and its commands."""

from typing import Annotated

import typer

from kbuild import __version__
from kbuild.cli.boundary import Boundary
from kbuild.cli.kubeadm import kubeadm
from kbuild.cli.pins import pins
from kbuild.cli.verify import verify
from kbuild.cli.versions import versions

app = typer.Typer(
    cls=Boundary,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Build kubeadm with the certificate lifetimes you ask for, and prove what it issues.",
)
app.command()(kubeadm)
app.command()(verify)
app.command()(versions)
app.add_typer(pins, name="pins")


@app.callback(invoke_without_command=True)
def _kbuild(
    version: Annotated[
        bool, typer.Option("--version", help="Print kbuild's own version.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"kbuild {__version__}")
        raise typer.Exit
