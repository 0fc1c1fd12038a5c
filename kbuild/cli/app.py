"""The commands. Each is imported when it is called, because most of them are slow to import."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from kbuild import __version__
from kbuild.cli.boundary import Boundary

HELP = {"help_option_names": ["-h", "--help"]}
# The help of each command; `module_of` names the module with its `app`.
COMMANDS = {
    "kubeadm": "Build kubeadm with other certificate lifetimes, and prove it.",
    "bundle": "Put everything that builds need without a network into one file.",
    "verify": "Prove what any kubeadm issues, whoever built it.",
    "check": "Check that a release is intact and meets your requirements.",
    "sign": "Sign the checksums and provenance of a release with sigstore.",
    "rebuild": "Rebuild a release from its provenance and compare the bytes.",
    "export": "Print what a tool needs to install this kubeadm on nodes.",
    "certs": "List certificates, when each expires, and what is wrong with them.",
    "advise": "Tell what expires in a cluster of a version, and what to do in which order.",
    "nodes": "Install kubeadm on nodes, renew their certificates, and take both back.",
    "pki": "Issue and renew the certificates of a cluster without kubeadm.",
    "versions": "List the tags of the source and how each would be patched.",
    "pins": "List, check and update the golang image digests.",
    "cache": "Show what the cache holds, prune it, or clear it.",
    "config": "Write Kubernetes configuration that makes lifetimes hold.",
    "config-file": "Print an example kbuild.toml with every setting.",
}


def module_of(command: str) -> str:
    """Return the module of a command."""
    return f"kbuild.cli.{command.replace('-', '_')}"


class Commands(Boundary):
    """A group that imports a command when it is called; --help does not need it."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401  # Typer's own signature
        stubs = {
            name: TyperCommand(name, help=about, short_help=about)
            for name, about in COMMANDS.items()
        }
        super().__init__(**{**settings, "commands": stubs})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401  # as above
        """Import the command that is called."""
        name, _, rest = super().resolve_command(ctx, args)
        command = typer.main.get_command(import_module(module_of(str(name))).app)
        command.name = name
        return name, command, rest


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kbuild {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    context_settings=HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich is slower to import than everything else in --help
    help="Build kubeadm with the certificate lifetimes that you choose, and prove what it issues.",
)


@app.callback()
def _kbuild(
    version: Annotated[  # noqa: ARG001  # its callback does it
        bool,
        typer.Option(
            "--version",
            help="Print kbuild's own version.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    return
