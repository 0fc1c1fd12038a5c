"""``kbuild pins``: the digests of golang images that kbuild requires."""

import difflib
from typing import Annotated

import typer

from kbuild.base.errors import EngineError, ImageNotFound
from kbuild.cli.boundary import begin
from kbuild.cli.console import plain_table
from kbuild.cli.options import command_app, takes
from kbuild.kubeadm.api import Pin, PinsDrifted, images, parse_go_version
from kbuild.settings import PinsCheckSettings, PinsListSettings, PinsUpdateSettings

app = command_app("List, check and update the golang image digests.")

Versions = Annotated[
    list[str] | None, typer.Argument(metavar="GO_VERSION", help="Such as 1.21.6. Default: all.")
]


@app.callback(invoke_without_command=True)
@takes(PinsListSettings)
def _pins(ctx: typer.Context) -> None:
    """List, check and update the golang image digests."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_pins, ctx)


@app.command(name="list")
@takes(PinsListSettings)
def list_pins(
    ctx: typer.Context,
    go_versions: Versions = None,
) -> None:
    """List the image digests: those in your lock file, then the shipped ones."""
    settings, screen = begin(ctx, PinsListSettings)
    known = [*images.load_lock(settings.lock), *images.shipped_pins()]
    versions = _versions(go_versions)
    chosen = [pin for pin in known if not versions or pin.go_version in versions]
    table = plain_table("go", "repository", "digest", "origin")
    # The last column must be seen in 80 columns, too.
    table.columns[2].no_wrap, table.columns[2].overflow = False, "fold"
    for pin in chosen:
        table.add_row(pin.go_version, pin.repository, pin.digest, pin.origin)
    screen.result({"pins": [_document(pin) for pin in chosen]}, [table])


@app.command()
@takes(PinsCheckSettings)
def check(
    ctx: typer.Context,
    go_versions: Versions = None,
) -> None:
    """Compare image digests with the registry, and fail if one differs."""
    settings, screen = begin(ctx, PinsCheckSettings)
    versions = _versions(go_versions) or [pin.go_version for pin in images.shipped_pins()]
    table = plain_table("go", "pinned", "registry")
    rows, drifted = [], 0
    for done, version in enumerate(versions, start=1):
        screen.advance("ask the registry", done - 1, len(versions))
        pin = images.find_pin(version, settings.golang_repository, settings.lock)
        now = _registry(version, settings.golang_repository)
        if pin is None or now != pin.digest:
            drifted += 1
            table.add_row(version, pin.digest if pin else "no pin", now or "no such tag")
            rows.append({"go_version": version, "pinned": pin and pin.digest, "registry": now})
    document = {"checked": len(versions), "different": rows}
    if drifted:
        screen.result(document, [table])
        raise PinsDrifted(count=drifted, total=len(versions))
    screen.result(document, [f"{len(versions)} pins agree with the registry"])


@app.command()
@takes(PinsUpdateSettings)
def update(
    ctx: typer.Context,
    go_versions: Annotated[list[str], typer.Argument(metavar="GO_VERSION", help="Such as 1.21.6.")],
) -> None:
    """Print the difference, and write the registry's digests to your lock file."""
    settings, screen = begin(ctx, PinsUpdateSettings)
    versions = _versions(go_versions)
    new = []
    for done, version in enumerate(versions):
        screen.advance("ask the registry", done, len(versions))
        new.append(_pin(version, settings.golang_repository))
    with images.locked(settings.lock):
        old = list(images.load_lock(settings.lock))
        before, after = images.lock_text(old) if old else "", images.lock_text([*old, *new])
        diff = list(
            difflib.unified_diff(
                before.splitlines(), after.splitlines(), "before", "after", lineterm=""
            )
        )
        document = {"pins": [_document(pin) for pin in new], "changed": bool(diff)}
        screen.result(document, diff or ["nothing differs"])
        if diff and not settings.dry_run:
            images.write_lock(settings.lock, [*old, *new])
            screen.say(f"written to {settings.lock}")


def _pin(version: str, repository: str) -> Pin:
    try:
        return images.resolve(version, repository)
    except EngineError as error:
        raise error.without_builder() from error.__cause__


def _registry(version: str, repository: str) -> str | None:
    try:
        return _pin(version, repository).digest
    except ImageNotFound:
        return None


def _versions(given: list[str] | None) -> list[str]:
    return [parse_go_version(text) for text in given or []]


def _document(pin: Pin) -> dict[str, str]:
    return {
        "go_version": pin.go_version,
        "repository": pin.repository,
        "digest": pin.digest,
        "origin": pin.origin,
    }
