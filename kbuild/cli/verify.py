"""``kbuild verify``: run the proof for any kubeadm, whoever built it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from kbuild.base.workspace import open_workspace
from kbuild.cli.boundary import begin
from kbuild.cli.kubeadm import proof_lines
from kbuild.cli.options import command_app, takes
from kbuild.cli.tags import whole_tag
from kbuild.kubeadm.api import WrongBinary, prove_file, read_arch
from kbuild.release.api import proof_document
from kbuild.settings import VerifySettings

_ONE = "a binary reports one patch release, not a minor version or several versions"

app = command_app()


@app.command()
@takes(VerifySettings)
def verify(
    ctx: typer.Context,
    binary: Annotated[
        Path, typer.Argument(metavar="BINARY", readable=False, help="A kubeadm for Linux.")
    ],
) -> None:
    """Prove what any kubeadm issues, whoever built it."""
    settings, screen = begin(ctx, VerifySettings)
    read_arch(binary)  # first, so that a wrong file is reported before a missing option
    if not os.access(binary, os.X_OK):
        raise WrongBinary(path=binary, reason="it is not executable")
    lifetimes = settings.lifetimes() if settings.ca_years or settings.leaf_years else None
    expected = whole_tag(settings.version, _ONE) if settings.version else None
    with open_workspace(settings.cache_dir) as workspace:
        proof = prove_file(binary, expected, lifetimes, settings.stored_defaults, workspace, screen)
    document = {**proof_document(proof), "file": str(binary)}
    screen.result(document, [f"{binary} sha256:{proof.sha256}", *proof_lines(proof)])
