"""``kbuild sign``: sign the checksums and the provenance of a release with sigstore."""

import typer

from kbuild.cli.boundary import begin
from kbuild.cli.check import demand_whole
from kbuild.cli.options import ReleaseFolder, command_app, takes
from kbuild.release.api import check_folder, sign_keyless, sign_with_key
from kbuild.settings import SignSettings

app = command_app()


@app.command()
@takes(SignSettings)
def sign(ctx: typer.Context, folder: ReleaseFolder) -> None:
    """Sign the checksums and provenance of a release with sigstore."""
    settings, screen = begin(ctx, SignSettings)
    key = settings.key
    if (key is not None) == settings.keyless:
        ctx.fail("give either --key FILE or --keyless")
    checked = check_folder(folder, signatures=False)
    for release in checked:
        demand_whole(release)  # a signature vouches for all of it
    signed = []
    for release in checked:
        signer = (
            sign_with_key(release.folder, release.documents, key, force=settings.force)
            if key
            else sign_keyless(
                release.folder, release.documents, settings.trust_config, force=settings.force
            )
        )
        signed.append({"folder": str(release.folder), "kind": signer.kind, "name": signer.name})
    lines = [f"{one['folder']}: signed by {one['name']}" for one in signed]
    screen.result(signed[0] if len(signed) == 1 else {"releases": signed}, lines)
