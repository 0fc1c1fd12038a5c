"""``kbuild check``: is a release whole, does all in it agree, and is it what you demand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from kbuild.base.errors import BadSetting, ReleaseBroken
from kbuild.cli import options
from kbuild.cli.boundary import begin, command_app
from kbuild.cli.console import visible
from kbuild.release import Checked, Demands, Problem, Statement, check_folder

# A hostile release must not flood the terminal; an honest one that is damaged stays below.
_SHOWN, _WIDE = 1000, 1000

app = command_app()


@app.command()
def check(
    ctx: typer.Context,
    folder: options.ReleaseFolder,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            readable=False,
            help="It must be signed with this public key, which is not in DIR.",
        ),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            "--identity", metavar="WHO", help="It must be signed keyless by this identity."
        ),
    ] = None,
    issuer: Annotated[
        str | None,
        typer.Option("--issuer", metavar="URL", help="The OIDC issuer of that identity."),
    ] = None,
    trust_config: options.TrustConfig = None,
    version: Annotated[
        str | None, typer.Option("--version", metavar="V", help="It must be of this version.")
    ] = None,
    arch: Annotated[
        list[str] | None,
        typer.Option("--arch", metavar="ARCH", help="It must hold this architecture; repeatable."),
    ] = None,
    ca_years: Annotated[
        str | None,
        typer.Option("--ca-years", metavar="N", help="Its CAs must live for exactly N years."),
    ] = None,
    leaf_years: Annotated[
        str | None,
        typer.Option("--leaf-years", metavar="N", help="All others must live for exactly N years."),
    ] = None,
    stall_timeout: options.StallTimeout = None,
    json: options.Json = None,
    quiet: options.Quiet = None,
    config: options.Config = None,
) -> None:
    """Check that a release is whole, agrees with itself, and is what you demand."""
    asked = {"version": version, "arch": arch, "ca_years": ca_years, "leaf_years": leaf_years}
    how = {"stall_timeout": stall_timeout, "json": json, "quiet": quiet}
    settings, screen = begin(ctx, {**asked, **how}, config)
    # The environment and kbuild.toml say how to build. What they do not say here is never missed,
    # and a release of another version is no fault because the next build has another one.
    given = {name: getattr(settings, name) for name, flag in asked.items() if flag is not None}
    if len(given.get("version", ())) > 1:
        reason = "a release is of one version"
        raise BadSetting(name="version", value=version, reason=reason, hint="give one")
    demands = Demands(
        key=key,
        identity=identity,
        issuer=issuer,
        trust_config=trust_config,
        version=given.get("version", (None,))[0],
        arches=given.get("arch", ()),
        ca_years=given.get("ca_years"),
        leaf_years=given.get("leaf_years"),
    )
    checked = check_folder(folder, demands)
    for release in checked:
        demand_whole(release)
    lines = [line for release in checked for line in _lines(release)]
    documents = [_document(release) for release in checked]
    screen.result(documents[0] if len(documents) == 1 else {"releases": documents}, lines)


def demand_whole(release: Checked) -> None:
    """Raise ReleaseBroken with each problem of a release, if there is any."""
    if problems := release.problems:
        # A file name may hold a line end, which would begin a line of its own here.
        lines = [visible(str(problem))[:_WIDE] for problem in problems[:_SHOWN]]
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        details = "\n".join(lines + more)
        raise ReleaseBroken(folder=release.folder, count=_count(problems), details=details)


def _count(problems: tuple[Problem, ...]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def _lines(release: Checked) -> Iterator[str]:
    assert release.statement is not None
    asked = release.statement.asked
    years = asked["lifetimes"]
    yield f"{release.folder}: {len(release.files)} files, which agree with one another"
    yield f"  version        {asked['version']}"
    yield f"  architectures  {', '.join(asked['arches'])}"
    yield f"  lifetimes      CA {years['ca_years']} years, all others {years['leaf_years']} years"
    for arch, count in release.proven.items():
        seen = f"{count} certificates issued and read back" if count else "not run, so not proven"
        yield f"  proof          {arch}: {seen}"
    yield f"  commit         {release.statement.commit} ({_commit_proof(release.statement)})"
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
        return "none: anybody can have made this release"
    if not signer.trusted:
        return (
            f"fits cosign.pub beside it ({signer.name}), which anybody can have put there;"
            " name the key that you trust with --key"
        )
    return f"by {signer.name}, as demanded"


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
