"""Build a release again from its provenance alone, and compare the bytes."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from kbuild.addresses import is_local
from kbuild.errors import BadProvenance, MissingSetting, RebuildDiffers
from kbuild.model import MAX_YEARS, BuildRequest, Lifetimes
from kbuild.pipeline import run
from kbuild.progress import Progress
from kbuild.release.names import BUILD, PROOF, PROVENANCE
from kbuild.release.provenance import Statement, read_provenance
from kbuild.settings import Settings

# They tell of one run: its clock, its keys, its seconds.
_OF_THE_RUN = (BUILD, PROOF)
_TYPES = {
    **dict.fromkeys(("version", "source", "golang_repository", "go_site"), str),
    **dict.fromkeys(("build_date", "tree_state", "release_site", "layout"), str),
    **dict.fromkeys(("arches", "package"), list),
    "lifetimes": dict,
    "stock": bool,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A rebuild that gave the same bytes: the sha256 of each file that was compared."""

    provenance: Path
    files: dict[str, str]


def rebuild(
    path: Path, overrides: dict[str, Any], settings: Settings, progress: Progress
) -> Rebuilt:
    """Build what a provenance tells of, without a binary of an earlier run, and compare.

    ``overrides`` are fields of the request that only say where the same input is to be had:
    another mirror, another GOROOT. Raises BadProvenance, RebuildDiffers with the inputs that are
    not the same, or what a build raises; a source that has moved is one of those.
    """
    path = path / PROVENANCE if path.is_dir() else path
    before = read_provenance(path)
    if is_local(str(before.asked.get("source"))) and "source" not in overrides:
        raise MissingSetting(name="source")  # it was on the machine of the build
    try:
        request = replace(_request(before, settings), **overrides)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise BadProvenance(path=path, reason=repr(error)) from error
    with tempfile.TemporaryDirectory(prefix="kbuild-rebuild-") as folder:
        output = Path(folder) / "release"
        [made] = run([replace(request, output=output)], settings.cache_dir, progress, anew=True)
        after = read_provenance(made.folder / PROVENANCE)
    subjects = {
        name: digests["sha256"]
        for name, digests in before.subjects.items()
        if name not in _OF_THE_RUN
    }
    rebuilt = {name: digests["sha256"] for name, digests in after.subjects.items()}
    if differing := [name for name, digest in subjects.items() if rebuilt.get(name) != digest]:
        raise RebuildDiffers(
            path=path, files=", ".join(differing), details="\n".join(_inputs(before, after))
        )
    return Rebuilt(provenance=path, files=subjects)


def _request(statement: Statement, settings: Settings) -> BuildRequest:
    """Return the request that a provenance tells of; every input is demanded by its digest."""
    asked = statement.asked
    for name, kind in _TYPES.items():
        if not isinstance(asked[name], kind):
            message = f"{name} is {asked[name]!r}"
            raise TypeError(message)
    years = asked["lifetimes"].values()
    if not all(isinstance(each, int) and 1 <= each <= MAX_YEARS for each in years):
        message = f"lifetimes are {asked['lifetimes']}"
        raise ValueError(message)
    source, go = statement.dependencies["source"], statement.dependencies["go"]
    image = go["annotations"].get("image")
    return BuildRequest(
        version=asked["version"],
        lifetimes=Lifetimes(**asked["lifetimes"]),
        arches=tuple(asked["arches"]),
        source=asked["source"],
        commit=source["digest"]["gitCommit"],
        source_sha256=source["digest"].get("sha256"),
        builder="docker" if image else "local",
        image=image,
        golang_repository=asked["golang_repository"],
        go_version=go["annotations"]["version"],
        go_root=None,
        go_site=asked["go_site"],
        lock=settings.lock,
        output=None,
        build_date=datetime.fromisoformat(asked["build_date"]),
        tree_state=asked["tree_state"],
        stock=asked["stock"],
        against_stock=False,
        release_site=asked["release_site"],
        layout=asked["layout"],
        package=tuple(asked["package"]),
        force=False,
    )


def _inputs(before: Statement, after: Statement) -> Iterator[str]:
    """Yield each input that is not the same."""
    found = False
    for name in sorted(before.dependencies.keys() | after.dependencies.keys()):
        then, now = (each.dependencies.get(name, {}).get("digest") for each in (before, after))
        if then != now:
            found = True
            yield f"{name}: {_told(then)} then, {_told(now)} now"
    for arch, command in before.commands.items():
        if after.commands.get(arch) != command:
            found = True
            yield f"the Go command for {arch} is another one"
    if before.kbuild != after.kbuild:
        found = True
        yield f"kbuild: {before.kbuild} then, {after.kbuild} now"
    if not found:
        yield "every input that the provenance names is the same, so it does not name all"


def _told(digest: dict[str, str] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in digest.items()) if digest else "nothing"
