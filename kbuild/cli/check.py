"""``kbuild check``: a release is complete and consistent, and meets the user's requirements."""

from collections.abc import Iterator

import typer

from kbuild.base.words import counted, years
from kbuild.cli.boundary import begin
from kbuild.cli.console import visible
from kbuild.cli.options import ReleaseFolder, command_app, takes
from kbuild.release.api import (
    Checked,
    Demands,
    ReleaseBroken,
    RequirementsNotMet,
    Statement,
    check_folder,
)
from kbuild.settings import CheckSettings

# A hostile release must not flood the terminal; a damaged one has fewer problems.
_SHOWN, _WIDE = 1000, 1000

app = command_app()


@app.command()
@takes(CheckSettings)
def check(ctx: typer.Context, folder: ReleaseFolder) -> None:
    """Check that a release is intact and meets your requirements."""
    settings, screen = begin(ctx, CheckSettings)
    demands = Demands(
        key=settings.key,
        identity=settings.identity,
        issuer=settings.issuer,
        trust_config=settings.trust_config,
        version=settings.version,
        arches=settings.arch,
        ca_years=settings.ca_years,
        leaf_years=settings.leaf_years,
    )
    checked = check_folder(folder, demands)
    for release in checked:
        demand_whole(release)
    lines = [line for release in checked for line in _lines(release)]
    documents = [_document(release) for release in checked]
    screen.result(documents[0] if len(documents) == 1 else {"releases": documents}, lines)


def demand_whole(release: Checked) -> None:
    """Raise ReleaseBroken or RequirementsNotMet with all problems of a release, if it has any."""
    if problems := release.problems:
        # A file name may contain a line break, which would start a new line of details.
        lines = [visible(str(problem))[:_WIDE] for problem in problems[:_SHOWN]]
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        details = "\n".join(lines + more)
        if set(problems) == set(release.unmet):
            count = counted(len(problems), "requirement")
            raise RequirementsNotMet(folder=release.folder, count=count, details=details)
        raise ReleaseBroken(
            folder=release.folder, count=counted(len(problems), "problem"), details=details
        )


def _lines(release: Checked) -> Iterator[str]:
    assert release.statement is not None
    asked = release.statement.asked
    yield f"{release.folder}: {len(release.files)} files, all consistent"
    yield f"  version        {asked['version']}"
    yield f"  architectures  {', '.join(asked['arches'])}"
    ca, leaf = (years(asked["lifetimes"][name]) for name in ("ca_years", "leaf_years"))
    yield f"  lifetimes      CA {ca}, others {leaf}"
    for arch, count in release.proven.items():
        seen = f"{count} certificates issued and checked" if count else "not run, so not proven"
        yield f"  proof          {arch}: {seen}"
    yield f"  commit         {release.statement.commit} ({_commit_proof(release.statement)})"
    if release.statement.bundle is not None:
        yield "  source         from a bundle, which claims its address; nobody was asked"
    yield f"  signature      {_signed(release)}"


def _commit_proof(statement: Statement) -> str:
    match statement.commit_proof:
        case "git-object":
            return "verified: the files were read from git"
        case "compared":
            return f"verified: compared with {statement.asked['verify_against']}"
        case _:
            return "only claimed by the source archive"


def _signed(release: Checked) -> str:
    signer = release.signer
    if signer is None:
        return "none: anybody could have made this release"
    if not signer.trusted:
        return (
            f"made with the cosign.pub in the release ({signer.name}), which proves nothing;"
            " name the key that you trust with --key"
        )
    return f"by {signer.name}, as required"


def _document(release: Checked) -> dict[str, object]:
    assert release.statement is not None
    signer, asked = release.signer, release.statement.asked
    return {
        "folder": str(release.folder),
        "files": list(release.files),
        "version": asked["version"],
        "arches": asked["arches"],
        "commit": release.statement.commit,
        "commit_proof": release.statement.commit_proof,
        "certificates": dict(release.proven),
        "lifetimes": {name: asked["lifetimes"][name] for name in ("ca_years", "leaf_years")},
        "signer": signer and {"kind": signer.kind, "name": signer.name, "trusted": signer.trusted},
    }
