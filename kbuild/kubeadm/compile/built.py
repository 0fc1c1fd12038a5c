"""Binaries of earlier runs, each by all that went into it but its date.

The same inputs give the same bytes, so a binary whose inputs are the same need not be compiled
again. It is proven again each time all the same.

    built/<key>/kubeadm     the binary
    built/<key>/built.json  its sha256, its BuildDate, its inputs, and when it was compiled; and
                            the sha256 of all that

The key is a digest of the inputs, and built.json repeats them in full: a binary counts only for the
inputs that it was kept for. Both files are in the cache, so this does not protect against somebody
who can write to the cache. Only the user and root can (see kbuild.base.workspace), and
`kbuild rebuild` uses no kept binary.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kbuild import __version__
from kbuild.base.files import BROKEN, open_file, read_file
from kbuild.base.progress import Progress
from kbuild.base.workspace import DISK_FULL, Workspace, key, make_then_move, remove, sha256, shared
from kbuild.kubeadm.compile.recipe import go_command
from kbuild.kubeadm.model import Binary, BuildRequest, PatchedTree
from kbuild.kubeadm.toolchain.archives import digest_of

_MAX_DOCUMENT = 16 << 20  # bytes; it holds the patch
_ANY_DATE = datetime.fromtimestamp(0, UTC)


def find_built(
    patched: PatchedTree, request: BuildRequest, workspace: Workspace, progress: Progress
) -> tuple[datetime, tuple[Binary, ...]] | None:
    """Return the binaries of all architectures asked for, with the date that they share, or None.

    A date that the request gives must be theirs.
    """
    found = [_find(patched, arch, request, workspace, progress) for arch in request.arches]
    dates = {each[0] for each in found if each is not None}
    if None in found or len(dates) != 1 or request.build_date not in (None, *dates):
        return None
    return dates.pop(), tuple(each[1] for each in found if each is not None)


def keep_built(
    binaries: tuple[Binary, ...],
    request: BuildRequest,
    compiled: tuple[datetime, datetime],
    workspace: Workspace,
) -> None:
    """Keep binaries for later runs; ``request`` has the date that they were built with.

    ``compiled`` is when the compile began and ended.
    """
    assert request.build_date is not None
    for binary in binaries:
        inputs = _inputs(binary.tree, binary.arch, request)
        folder = _folder(inputs, workspace)
        about = {
            "sha256": binary.sha256,
            "build_date": request.build_date.isoformat(),
            "compiled": [moment.isoformat() for moment in compiled],
            "inputs": inputs,
        }
        with shared(workspace, f"built-{folder.name}"), make_then_move(folder) as made:
            _copy(binary.path, made / "kubeadm")
            document = {"binary": about, "sha256": _digest(about)}
            (made / "built.json").write_text(json.dumps(document))


def _find(
    patched: PatchedTree,
    arch: str,
    request: BuildRequest,
    workspace: Workspace,
    progress: Progress,
) -> tuple[datetime, Binary] | None:
    inputs = _inputs(patched, arch, request)
    folder = _folder(inputs, workspace)
    path = workspace.work / f"built-{arch}"
    with shared(workspace, f"built-{folder.name}"):
        if not os.path.lexists(folder):
            return None
        try:
            about = _read_document(folder / "built.json", inputs)
            date = datetime.fromisoformat(about["build_date"])
            began, ended = map(datetime.fromisoformat, about["compiled"])
            with open_file(folder / "kubeadm") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
            path.chmod(0o755)
            if sha256(path) != about["sha256"]:
                raise ValueError
        except (OSError, *BROKEN) as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            progress.say(f"the kept binary for {arch} is damaged, compiling it again")
            remove(folder)
            return None
        os.utime(folder)  # tells when it was last of use
    command = go_command(patched, arch, replace(request, build_date=date))
    return date, Binary(
        path=path,
        arch=arch,
        sha256=about["sha256"],
        tree=patched,
        command=("go", *command.arguments),
        compiled=(began, ended),
    )


def _read_document(path: Path, inputs: Mapping[str, object]) -> dict[str, Any]:
    """Return what was recorded of a binary; raises OSError or ValueError if that is damaged."""
    document = json.loads(read_file(path, _MAX_DOCUMENT))
    about: dict[str, Any] = document["binary"]
    if document["sha256"] != _digest(about) or about["inputs"] != inputs:
        raise ValueError
    return about


def _digest(about: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _inputs(patched: PatchedTree, arch: str, request: BuildRequest) -> dict[str, object]:
    """Return all that a binary is made from but its date, as JSON has it."""
    command = go_command(patched, arch, replace(request, build_date=_ANY_DATE))
    source, toolchain = patched.source, patched.toolchain
    go_root = toolchain.go_root
    return {
        "kbuild": __version__,
        "arguments": list(command.arguments),
        "environment": dict(sorted(command.environment.items())),
        "tag": source.tag,
        "commit": source.commit,
        "source_sha256": source.sha256,
        "diff": patched.diff,
        "go_version": toolchain.go_version,
        "image": toolchain.image,
        "go_digest": digest_of(go_root) if go_root is not None else None,
    }


def _folder(inputs: dict[str, object], workspace: Workspace) -> Path:
    return workspace.cache / "built" / key(json.dumps(inputs))


def _copy(source: Path, target: Path) -> None:
    # Not a link: whoever made the source could write to the same file later.
    shutil.copyfile(source, target)
    target.chmod(0o755)
