"""Binaries of earlier runs, each by all that went into it but its date.

The same inputs give the same bytes, so a binary whose inputs are the same need not be compiled
again. It is proven again each time all the same.

    built/<key>/kubeadm     the binary
    built/<key>/built.json  its sha256 and its BuildDate
"""

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from kbuild.build.recipe import go_command
from kbuild.model import Binary, BuildRequest, PatchedTree
from kbuild.toolchain.archives import digest_of
from kbuild.workspace import Workspace, key, make_then_move, sha256, shared

_ANY_DATE = datetime.fromtimestamp(0, UTC)


def find_built(
    patched: PatchedTree, request: BuildRequest, workspace: Workspace
) -> tuple[datetime, tuple[Binary, ...]] | None:
    """Return the binaries of all architectures asked for, with the date that they share, or None.

    A date that the request gives must be theirs.
    """
    found = [_find(patched, arch, request, workspace) for arch in request.arches]
    dates = {each[0] for each in found if each is not None}
    if None in found or len(dates) != 1 or request.build_date not in (None, *dates):
        return None
    return dates.pop(), tuple(each[1] for each in found if each is not None)


def keep_built(binaries: tuple[Binary, ...], request: BuildRequest, workspace: Workspace) -> None:
    """Keep binaries for later runs; ``request`` has the date that they were built with."""
    assert request.build_date is not None
    for binary in binaries:
        folder = _folder(binary.tree, binary.arch, request, workspace)
        about = {"sha256": binary.sha256, "build_date": request.build_date.isoformat()}
        with shared(workspace, f"built-{folder.name}"), make_then_move(folder) as made:
            _link_or_copy(binary.path, made / "kubeadm")
            (made / "built.json").write_text(json.dumps(about))


def _find(
    patched: PatchedTree, arch: str, request: BuildRequest, workspace: Workspace
) -> tuple[datetime, Binary] | None:
    folder = _folder(patched, arch, request, workspace)
    path = workspace.work / f"built-{arch}"
    with shared(workspace, f"built-{folder.name}"):
        try:
            about = json.loads((folder / "built.json").read_text())
            date = datetime.fromisoformat(about["build_date"])
            _link_or_copy(folder / "kubeadm", path)
        except (OSError, ValueError, KeyError, TypeError):
            return None
    if (digest := sha256(path)) != about["sha256"]:
        return None
    os.utime(folder)  # tells when it was last of use
    command = go_command(patched, arch, replace(request, build_date=date))
    return date, Binary(
        path=path, arch=arch, sha256=digest, tree=patched, command=("go", *command.arguments)
    )


def _folder(patched: PatchedTree, arch: str, request: BuildRequest, workspace: Workspace) -> Path:
    command = go_command(patched, arch, replace(request, build_date=_ANY_DATE))
    source, toolchain = patched.source, patched.toolchain
    inputs = [
        *(command.arguments, sorted(command.environment.items())),
        *(source.tag, source.commit, source.sha256, patched.diff),
        *(toolchain.go_version, toolchain.image),
        digest_of(toolchain.go_root) if toolchain.go_root is not None else None,
    ]
    return workspace.cache / "built" / key(json.dumps(inputs))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        target.chmod(0o755)
