"""A release of two architectures, made of small binaries, for the tests of what reads releases."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kbuild.base.addresses import shown
from kbuild.base.files import sha256
from kbuild.kubeadm.model import (
    AppliedPatch,
    Binary,
    BuildRequest,
    CertificateKind,
    GoPin,
    IssuedCertificate,
    Lifetimes,
    PatchedTree,
    Proof,
    ProvenBinary,
    ProvenBuild,
    SourceTree,
    Stamp,
    Tag,
    Toolchain,
)
from kbuild.release.names import SIGNATURES, SUMS
from kbuild.release.sums import digest, digests_of, write_sums
from kbuild.release.writer import list_files, publish
from kbuild.settings import Settings
from tests.support.goelf import MODULES, write_go_elf
from tests.support.recorder import Recorder

LIFETIMES = Lifetimes(ca_years=100, leaf_years=10)
TAG = Tag(name="v1.20.2", commit="f" * 40)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
GIT = "https://somebody:secret@example.invalid/kubernetes.git"


def make_request(**changes: Any) -> BuildRequest:
    """Return a request; ``changes`` are to the settings that it comes from."""
    given: dict[str, Any] = {"version": ("1.20",), "build_date": NOON, "source": GIT}
    given |= {"arch": ("amd64", "arm64"), **changes}
    if not given.get("stock"):
        given = {"ca_years": 100, "leaf_years": 10, **given}
    return Settings(**given).requests({})[0]


# What a tree that came as an archive has beside what one from git has.
ARCHIVE: Mapping[str, Any] = {"commit_proof": "archive-claim", "sha256": "a" * 64}


def make_binaries(
    folder: Path,
    modules: str = MODULES,
    tree_changes: Mapping[str, Any] | None = None,
    origin: str = "https://example.invalid/kubernetes.git",
    go_root: Path | None = None,
) -> tuple[Binary, ...]:
    source = SourceTree(
        path=folder,
        tag="v1.20.2",
        commit="f" * 40,
        origin=shown(origin),
        commit_proof="git-object",
    )
    source = replace(source, **tree_changes or {})
    toolchain = Toolchain(
        builder="local" if go_root else "docker",
        pin=GoPin(version="1.15.5", files=("build/dependencies.yaml",)),
        go_version="1.15.15",
        image=None if go_root else "golang@sha256:" + "0" * 64,
        go_root=go_root,
    )
    tree = PatchedTree(
        source=source,
        toolchain=toolchain,
        lifetimes=LIFETIMES,
        patches=(AppliedPatch(name="one.patch", sha256="1" * 64),),
        diff="--- a/x\n+++ b/x\n",
    )
    made = []
    for arch in ("amd64", "arm64"):
        path = write_go_elf(folder / f"made-{arch}", arch=arch, modules=modules)
        binary = Binary(
            path=path,
            arch=arch,
            sha256=sha256(path),
            tree=tree,
            stamp=Stamp(build_date=NOON, tree_state="dirty"),
            command=("go", arch),
        )
        made.append(binary)
    return tuple(made)


def make_proven(binaries: tuple[Binary, ...], *, unchanged: bool = False) -> ProvenBuild:
    kinds: tuple[tuple[CertificateKind, int], ...] = (("ca", 100), ("leaf", 10))
    certificates = [
        IssuedCertificate(
            case="fresh-ca",
            moment="issued",
            kind=kind,
            path=f"pki/{kind}.crt",
            subject=f"CN={kind}",
            not_before=NOON,
            not_after=NOON + timedelta(days=365 * years),
            years=years,
        )
        for kind, years in kinds
    ]
    proofs = [
        Proof(
            path=b.path,
            arch=b.arch,
            sha256=b.sha256,
            ran="native",
            where="sandbox",
            version={
                "gitVersion": "v1.20.2",
                "gitCommit": "f" * 40,
                "gitTreeState": "dirty",
                "buildDate": "2026-01-02T12:00:00Z",
                "goVersion": "go1.15.15",
                "platform": f"linux/{b.arch}",
            },
            certificates=tuple(certificates),
        )
        for b in binaries
    ]
    proven = [ProvenBinary(binary=b, proof=p) for b, p in zip(binaries, proofs, strict=True)]
    return ProvenBuild(binaries=tuple(proven), unchanged=unchanged)


def make_release(
    work: Path,
    folder: Path,
    modules: str = MODULES,
    tree_changes: Mapping[str, Any] | None = None,
    origin: str = "https://example.invalid/kubernetes.git",
    **changes: Any,
) -> Path:
    """Publish a release into ``folder``; ``changes`` are to the request."""
    work.mkdir(parents=True, exist_ok=True)
    go_root = changes.get("go_root")
    assert go_root is None or isinstance(go_root, Path)
    binaries = make_binaries(work, modules, tree_changes, origin, go_root)
    publish(make_proven(binaries), make_request(**changes), folder, {"build": 1.23456}, Recorder())
    return folder


def documents(folder: Path) -> dict[str, bytes]:
    """Return what is signed of a release, and the signatures that are there."""
    names = ("SHA256SUMS", "provenance.json", *SIGNATURES)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def forge(folder: Path) -> None:
    """Make the sums and the provenance's subjects fit what is in the folder now."""
    for name in list_files(folder):
        if name.endswith(".sha256"):
            (folder / name).unlink()
    artifacts = [n for n in list_files(folder) if n not in (*SUMS.values(), "provenance.json")]
    path = folder / "provenance.json"
    document = json.loads(path.read_text())
    document["subject"] = [
        {"name": name, "digest": {kind: digest(folder / name, kind) for kind in SUMS}}
        for name in artifacts
    ]
    path.write_text(json.dumps(document))
    write_sums(folder, digests_of(folder, [*artifacts, "provenance.json"]))


def forge_sums(folder: Path) -> None:
    """Make the sums fit what is in the folder now."""
    names = [n for n in list_files(folder) if not n.endswith((".sha256", "SUMS"))]
    write_sums(folder, digests_of(folder, names))
