"""Build a release again from its provenance, and compare the bytes.

The provenance is not trusted, so it does not choose where anything is fetched from. It may name
kbuild's own default addresses; every other address must come from the user.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from kbuild.base.files import reason_of, sha256
from kbuild.base.progress import Progress
from kbuild.base.words import counted
from kbuild.base.workspace import open_workspace
from kbuild.kubeadm.model import (
    BuildRequest,
    GoRequest,
    Lifetimes,
    OutputRequest,
    PatchedTree,
    SourceRequest,
)
from kbuild.pipeline import build
from kbuild.release.api import (
    BUILD,
    MAX_BINARY,
    PROOF,
    PROVENANCE,
    AddressNotAllowed,
    BadProvenance,
    Problem,
    RebuildDiffers,
    ReleaseBroken,
    Statement,
    artifacts,
    read_provenance,
)
from kbuild.settings import GO_SITE, GOLANG, RELEASE_SITE, UPSTREAM, RebuildSettings

# These differ in each run: keys, dates and durations.
_OF_THE_RUN = (BUILD, PROOF)
_IMAGE_SETTINGS = {"image", "golang_repository"}
_DEFAULTS = {
    "source": UPSTREAM,
    "golang_repository": GOLANG,
    "go_site": GO_SITE,
    "release_site": RELEASE_SITE,
}
_GOLANG_IMAGE = re.compile(rf"{GOLANG}(:[\w.-]+)?@sha256:[0-9a-f]{{64}}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A rebuild with the same bytes: the sha256 of each file, and the tree it was made from."""

    provenance: Path
    files: dict[str, str]
    tree: PatchedTree


def rebuild(path: Path, settings: RebuildSettings, progress: Progress) -> Rebuilt:
    """Build what a provenance describes, without results of an earlier run, and compare.

    The user's ``settings`` say where the same inputs are available, for example on a mirror. Raises
    BadProvenance, ReleaseBroken or AddressNotAllowed before anything is fetched or run,
    RebuildDiffers with the inputs that differ, or the errors of a build.
    """
    path = path / PROVENANCE if os.path.isdir(path) else path  # noqa: PTH112  # any name
    before = read_provenance(path)
    _demand_subjects(path, before)
    _demand_files(path, before)
    request = _request(before, settings)
    foreign = _foreign_addresses(request, settings)
    needs_go_root = request.go.builder == "local" and request.go.root is None
    if before.asked["go_root"] is not None and needs_go_root:
        foreign["go_root"] = before.asked["go_root"]
    if foreign:
        raise AddressNotAllowed(
            path=path,
            addresses=", ".join(f"{name} {value!r}" for name, value in foreign.items()),
            flags=", ".join(f"--{name.replace('_', '-')}" for name in foreign),
        )
    with open_workspace(settings.cache_dir) as workspace:
        # In the work directory: the next run removes it if this one is killed.
        output = replace(request.output, folder=workspace.work / "release")
        [made] = build([replace(request, output=output)], workspace, progress, independent=True)
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
    return Rebuilt(provenance=path, files=subjects, tree=made.tree)


def _demand_subjects(path: Path, statement: Statement) -> None:
    """Raise BadProvenance unless the subjects are exactly the files of such a release."""
    wanted, subjects = artifacts(statement.asked), statement.subjects
    if missing := sorted(wanted - subjects.keys()):
        raise BadProvenance(path=path, reason=f"its subject {missing[0]} is missing")
    if extra := sorted(subjects.keys() - wanted):
        raise BadProvenance(path=path, reason=f"its subject {extra[0]} is no file of a release")
    for name, digests in subjects.items():
        if not _SHA256.fullmatch(digests.get("sha256", "")):
            raise BadProvenance(path=path, reason=f"its subject {name} has no sha256")


def _demand_files(path: Path, statement: Statement) -> None:
    """Raise ReleaseBroken if a file beside a provenance is not the one that it names.

    The result of a rebuild names these files, and would be taken for a statement about them.
    """
    problems = []
    for name, digests in sorted(statement.subjects.items()):
        if os.path.lexists(path.parent / name) and (
            what := _difference(path.parent / name, digests)
        ):
            problems.append(str(Problem(file=name, kind="different", what=what)))
    if problems:
        raise ReleaseBroken(
            folder=path.parent,
            count=counted(len(problems), "problem"),
            details="\n".join(problems),
        )


def _difference(file: Path, digests: Mapping[str, str]) -> str | None:
    try:
        if file.stat().st_size > MAX_BINARY:
            return f"it is larger than {MAX_BINARY} bytes"
        actual = sha256(file)
    except OSError as error:
        return f"it cannot be read: {reason_of(error)}"
    if actual == digests["sha256"]:
        return None
    return f"its sha256 is {actual}, but {PROVENANCE} says {digests['sha256']}"


def _foreign_addresses(request: BuildRequest, settings: RebuildSettings) -> dict[str, str]:
    """Return by name the addresses that neither the user nor kbuild's defaults contain."""
    addresses = {
        "source": request.source.address,
        "golang_repository": request.go.repository,
        "go_site": request.go.site,
        "release_site": request.release_site,
    }
    foreign = {
        name: address
        for name, address in addresses.items()
        if name not in settings.given and address != _DEFAULTS[name]
    }
    image, image_given = request.go.image, not settings.given.keys().isdisjoint(_IMAGE_SETTINGS)
    if image and not image_given and not _GOLANG_IMAGE.fullmatch(image):
        foreign["image"] = image
    return foreign


def _request(statement: Statement, settings: RebuildSettings) -> BuildRequest:
    """Return the request that a provenance describes, with the digest of every input.

    The user's addresses replace those in the provenance.
    """
    asked, source = statement.asked, statement.dependencies["source"]
    return BuildRequest(
        version=asked["version"],
        lifetimes=Lifetimes(**asked["lifetimes"]),
        arches=tuple(asked["arches"]),
        source=SourceRequest(
            address=_given_or(settings, "source", asked),
            commit=statement.commit,
            sha256=source["digest"].get("sha256"),
            verify_against=settings.verify_against,
        ),
        go=_go_request(statement, settings),
        output=OutputRequest(
            folder=None, layout=asked["layout"], packages=tuple(asked["package"]), force=False
        ),
        build_date=datetime.fromisoformat(asked["build_date"]),
        tree_state=asked["tree_state"],
        # A provenance without it is of a kbuild that left stored defaults alone.
        stored_defaults=asked.get("stored_defaults", "keep"),
        stock=asked["stock"],
        against_stock=False,
        independent=False,
        require_proof=False,
        release_site=_given_or(settings, "release_site", asked),
    )


def _given_or(settings: RebuildSettings, name: str, recorded: Mapping[str, Any]) -> Any:  # noqa: ANN401
    return getattr(settings, name) if name in settings.given else recorded.get(name)


def _go_request(statement: Statement, settings: RebuildSettings) -> GoRequest:
    asked, go = statement.asked, statement.dependencies["go"]["annotations"]
    is_local = "go_root" in settings.given or not go.get("image")
    builder = (
        settings.builder if "builder" in settings.given else ("local" if is_local else "docker")
    )
    repository = _given_or(settings, "golang_repository", asked)
    image = _given_or(settings, "image", go)
    if builder == "local":
        image = None
    elif (
        image is not None
        and "image" not in settings.given
        and "golang_repository" in settings.given
    ):
        _, _, digest = image.partition("@")
        image = f"{repository}@{digest}"
    return GoRequest(
        builder=builder,
        image=image,
        repository=repository,
        version=go["version"],
        root=_given_or(settings, "go_root", {}),
        site=_given_or(settings, "go_site", asked),
        lock=settings.lock,
    )


def _inputs(before: Statement, after: Statement) -> Iterator[str]:
    """Yield a line for each input that differs."""
    found = False
    digests_before, digests_after = _digests(before), _digests(after)
    for name in sorted(digests_before.keys() | digests_after.keys()):
        then, now = digests_before.get(name), digests_after.get(name)
        if then != now:
            found = True
            yield f"{name}: {_text(then)} then, {_text(now)} now"
    for arch, command in before.commands.items():
        if after.commands.get(arch) != command:
            found = True
            yield f"the Go command for {arch} differs"
    if before.kbuild != after.kbuild:
        found = True
        yield f"kbuild: {before.kbuild} then, {after.kbuild} now"
    if not found:
        yield "all inputs in the provenance are the same, so it does not contain all inputs"


def _digests(statement: Statement) -> dict[str, dict[str, str]]:
    """Return the digests of each input; a claimed commit counts like a verified one."""
    digests = {name: each.get("digest", {}) for name, each in statement.dependencies.items()}
    return digests | {"source": {**digests["source"], "gitCommit": statement.commit}}


def _text(digest: dict[str, str] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in digest.items()) if digest else "nothing"
