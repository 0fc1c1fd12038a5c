"""``kbuild check``: is a release whole, and does all in it agree."""

from pathlib import Path
from typing import Annotated

import typer

from kbuild.cli import options
from kbuild.cli.boundary import begin, command_app
from kbuild.errors import BadSetting, ReleaseBroken
from kbuild.release.check import Checked, check_release, releases_in

app = command_app()


@app.command()
def check(
    ctx: typer.Context,
    folder: options.ReleaseFolder,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="It must be signed with this public key."),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option("--identity", metavar="WHO", help="It must be signed keyless by this one."),
    ] = None,
    issuer: Annotated[
        str | None,
        typer.Option("--issuer", metavar="URL", help="The OIDC issuer of that identity."),
    ] = None,
    trust_config: options.TrustConfig = None,
    json: options.Json = None,
    quiet: options.Quiet = None,
    config: options.Config = None,
) -> None:
    """Check that a release is whole, and that all in it agrees."""
    _, screen = begin(ctx, {"json": json, "quiet": quiet}, config)
    if key is not None and identity is not None:
        raise BadSetting(
            name="key", value=str(key), reason="a release is signed one way", hint="leave one out"
        )
    checked = [
        check_release(release, key, identity, issuer, trust_config)
        for release in releases_in(folder)
    ]
    for release in checked:
        if release.problems:
            raise ReleaseBroken(
                folder=release.folder,
                count=_count(len(release.problems)),
                details="\n".join(map(str, release.problems)),
            )
    for release in checked:
        screen.say(_signed(release))
    lines = [f"{release.folder}: {len(release.files)} files, as published" for release in checked]
    documents = [_document(release) for release in checked]
    screen.result(documents[0] if len(documents) == 1 else {"releases": documents}, lines)


def _count(problems: int) -> str:
    return "1 problem" if problems == 1 else f"{problems} problems"


def _signed(release: Checked) -> str:
    signer = release.signer
    if signer is None:
        return f"{release.folder}: not signed, so who made it is not known"
    if not signer.trusted:
        return (
            f"{release.folder}: signed with {signer.name}, a key that lies beside it;"
            " tell which it must be with --key"
        )
    return f"{release.folder}: signed by {signer.name}"


def _document(release: Checked) -> dict[str, object]:
    signer = release.signer
    return {
        "folder": str(release.folder),
        "files": list(release.files),
        "signer": signer and {"kind": signer.kind, "name": signer.name, "trusted": signer.trusted},
    }
