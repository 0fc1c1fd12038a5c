"""``kbuild sign``: sign a release's sums and provenance as sigstore does."""

from pathlib import Path
from typing import Annotated

import typer

from kbuild.cli import options
from kbuild.cli.boundary import begin, command_app
from kbuild.cli.check import demand_whole
from kbuild.release import check_folder, sign_keyless, sign_with_key

app = command_app()


@app.command()
def sign(
    ctx: typer.Context,
    folder: options.ReleaseFolder,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            readable=False,
            help="A private key, PEM or cosign's own; its password is in COSIGN_PASSWORD.",
        ),
    ] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Sign with the OIDC identity of this CI job.")
    ] = False,
    trust_config: options.TrustConfig = None,
    stall_timeout: options.StallTimeout = None,
    json: options.Json = None,
    quiet: options.Quiet = None,
    config: options.Config = None,
) -> None:
    """Sign a release's sums and its provenance, as sigstore does."""
    _, screen = begin(ctx, {"stall_timeout": stall_timeout, "json": json, "quiet": quiet}, config)
    if (key is not None) == keyless:
        ctx.fail("give either --key FILE or --keyless")
    checked = check_folder(folder, signatures=False)
    for release in checked:
        demand_whole(release)  # what is signed is vouched for
    signed = []
    for release in checked:
        signer = (
            sign_with_key(release.folder, release.documents, key)
            if key
            else sign_keyless(release.folder, release.documents, trust_config)
        )
        signed.append({"folder": str(release.folder), "kind": signer.kind, "name": signer.name})
    lines = [f"{one['folder']}: signed by {one['name']}" for one in signed]
    screen.result(signed[0] if len(signed) == 1 else {"releases": signed}, lines)
