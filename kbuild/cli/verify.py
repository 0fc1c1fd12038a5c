"""``kbuild verify``: run the proof for any kubeadm, whoever built it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from kbuild.base.errors import BadSetting
from kbuild.base.workspace import open_workspace
from kbuild.cli.boundary import begin
from kbuild.cli.kubeadm import proof_lines
from kbuild.cli.options import command_app, takes
from kbuild.kubeadm.api import WrongBinary, full_tag, prove_file, read_arch
from kbuild.release.api import proof_document
from kbuild.settings import VerifySettings

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
    lifetimes = settings.lifetimes()
    expected = _whole(settings.version) if settings.version else None
    with open_workspace(settings.cache_dir) as workspace:
        proof = prove_file(binary, expected, lifetimes, settings.stored_defaults, workspace, screen)
    document = {**proof_document(proof), "file": str(binary)}
    screen.result(document, [f"{binary} sha256:{proof.sha256}", *proof_lines(proof)])


def _whole(versions: tuple[str, ...]) -> str:
    tag = full_tag(versions[0]) if len(versions) == 1 else None
    if tag is None:
        reason = "a binary reports one patch release, not a minor version or several versions"
        hint = "write it like v1.23.0"
        raise BadSetting(name="version", value=",".join(versions), reason=reason, hint=hint)
    return tag
