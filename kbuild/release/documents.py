"""The JSON documents of a release: the proof, and the inputs of the build."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from packaging.version import Version

from kbuild import __version__
from kbuild.base.addresses import recorded, shown
from kbuild.base.values import rfc3339
from kbuild.kubeadm.model import Binary, BuildRequest, PatchedTree, Proof, SourceTree
from kbuild.release.names import binary_name
from kbuild.settings import UPSTREAM


def proof_document(proof: Proof, layout: str = "flat") -> dict[str, object]:
    """Return the part of one binary in proof.json."""
    document: dict[str, object] = {
        "file": binary_name(proof.arch, layout),
        "arch": proof.arch,
        "sha256": proof.sha256,
        "ran": proof.ran,
        "where": proof.where,
        "version": proof.version,
        "certificates": [plain(dataclasses.asdict(c)) for c in proof.certificates],
        "stored_defaults": proof.stored_defaults,
    }
    for name in ("against_stock", "published"):
        if (found := getattr(proof, name)) is not None:
            document[name] = plain(dataclasses.asdict(found))
    return document


def build_document(
    binaries: Sequence[Binary], request: BuildRequest, times: Mapping[str, float]
) -> dict[str, object]:
    """Return build.json: all inputs of the binaries."""
    tree = binaries[0].tree
    return {
        "kbuild": __version__,
        "request": request_document(request, binaries[0].stamp.build_date),
        "source": source_document(tree),
        "go": go_document(tree),
        "patches": [dataclasses.asdict(patch) for patch in tree.patches],
        "binaries": [
            {
                "file": binary_name(binary.arch, request.output.layout),
                "arch": binary.arch,
                "sha256": binary.sha256,
                "command": list(binary.command),
            }
            for binary in binaries
        ],
        "seconds": {stage: round(seconds, 3) for stage, seconds in times.items()},
    }


def request_document(request: BuildRequest, build_date: datetime | None) -> dict[str, object]:
    """Return the request without credentials and without paths of this machine.

    A local Go is recorded as ``local``; its digest is in the toolchain. The output directory and
    the options of the terminal are not inputs.
    """
    source, go, output = request.source, request.go, request.output
    asked = {
        "version": request.version,
        "lifetimes": dataclasses.asdict(request.lifetimes),
        "arches": request.arches,
        "source": recorded(source.address),
        "commit": source.commit,
        "source_sha256": source.sha256,
        "verify_against": source.verify_against,
        "builder": go.builder,
        "image": go.image,
        "golang_repository": go.repository,
        "go_version": go.version,
        "go_root": None if go.root is None else "local",
        "go_site": go.site,
        "build_date": build_date,
        "tree_state": request.tree_state,
        "stored_defaults": request.stored_defaults,
        "stock": request.stock,
        "against_stock": request.against_stock,
        "independent": request.independent,
        "release_site": request.release_site,
        "layout": output.layout,
        "package": output.packages,
    }
    return {name: plain(value) for name, value in asked.items()}


def source_document(tree: PatchedTree) -> dict[str, object]:
    """Return where the source came from."""
    source = tree.source
    return {
        "origin": recorded(source.origin),
        "tag": source.tag,
        "commit": source.commit,
        "commit_proof": source.commit_proof,
        "sha256": source.sha256,
        "sha256_demanded": source.sha256_demanded,
    }


def claim_note(source: SourceTree) -> str:
    """Return a note for users if only an archive claims the commit, else empty text."""
    if source.commit_verified:
        return ""
    return f"the archive claims to be commit {source.commit}; this is not verified."


def commit_notes(source: SourceTree) -> Iterator[str]:
    """Yield notes for users about what only an archive or a bundle claims."""
    if source.bundle is not None:
        yield from _bundle_notes(source)
    elif not source.commit_verified:
        compare = f"To compare each file with git, give --verify-against {UPSTREAM}"
        yield f"{claim_note(source)} {compare}"
    if not source.commit_verified and source.sha256_demanded:
        yield f"the archive has the required sha256, {source.sha256}"


def _bundle_notes(source: SourceTree) -> Iterator[str]:
    origin = recorded(source.origin)
    claim = f"that the source is from {origin} is what the bundle claims; nobody was asked."
    todo = " To require the bundle that you know, give --bundle-sha256"
    if source.commit_verified:
        todo += "; to require a commit of git, give --commit"
        demanded = source.bundle_demanded or source.commit_demanded
    else:
        yield claim_note(source)
        todo += "; for a commit that is verified, make the bundle from git"
        demanded = source.bundle_demanded or source.sha256_demanded
    yield claim if demanded else claim + todo
    if source.bundle_demanded:
        yield f"the bundle has the required sha256, {source.bundle}"


def go_document(tree: PatchedTree) -> dict[str, object]:
    """Return the Go that was used, and why."""
    toolchain = tree.toolchain
    return {
        "version": toolchain.go_version,
        "pin": toolchain.pin.version,
        "pin_files": list(toolchain.pin.files),
        "overridden": toolchain.overridden,
        "builder": toolchain.builder,
        "image": toolchain.image,
    }


def plain(value: object) -> object:
    """Return a value as JSON: tuples become lists; times, paths and versions become text.

    Credentials in addresses are removed.
    """
    match value:
        case str():
            return shown(value)
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case tuple() | list():
            return [plain(item) for item in value]
        case datetime():
            return rfc3339(value)
        case Path() | Version():
            return str(value)
        case _:
            return value
