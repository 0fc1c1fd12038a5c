"""Keep binaries for later runs, by a key of all their inputs except the build date.

The same inputs give the same bytes, so a binary with the same inputs is not compiled again. It is
still proven each time.

    built/<key>/kubeadm     the binary
    built/<key>/built.json  its sha256, build date, inputs and compile time, and the sha256 of these

The key is a digest of the inputs, and built.json repeats them in full: a binary is used only for
exactly its inputs. Both files are in the cache, so this does not protect against somebody who can
write to the cache. Only the user and root can (see kbuild.base.workspace), and
`kbuild rebuild` uses no kept binary.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kbuild import __version__
from kbuild.base.disk import DISK_FULL, make_then_move, remove
from kbuild.base.files import BROKEN, open_file, read_file, sha256
from kbuild.base.progress import Progress
from kbuild.base.workspace import Workspace, key, shared
from kbuild.kubeadm.compile.recipe import go_command
from kbuild.kubeadm.model import Binary, BuildRequest, PatchedTree, Stamp, TreeState
from kbuild.kubeadm.toolchain.archives import digest_of

_MAX_DOCUMENT = 16 << 20  # bytes; it contains the patch
_ANY_DATE = datetime.fromtimestamp(0, UTC)


def find_built(
    patched: PatchedTree, request: BuildRequest, workspace: Workspace, progress: Progress
) -> tuple[Binary, ...] | None:
    """Return the binaries of all requested architectures, or None.

    They have the same build date, which is that of the request if it has one.
    """
    found = []
    for arch in request.arches:
        binary = _find(patched, arch, request.tree_state, workspace, progress)
        if binary is None:
            return None
        found.append(binary)
    dates = {binary.stamp.build_date for binary in found}
    if len(dates) != 1 or request.build_date not in (None, *dates):
        return None
    return tuple(found)


def keep_built(
    binaries: tuple[Binary, ...], compiled: tuple[datetime, datetime], workspace: Workspace
) -> None:
    """Keep binaries for later runs; ``compiled`` is when the compile began and ended."""
    for binary in binaries:
        inputs = _inputs(binary.tree, binary.arch, binary.stamp.tree_state)
        folder = _folder(inputs, workspace)
        about = {
            "sha256": binary.sha256,
            "build_date": binary.stamp.build_date.isoformat(),
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
    tree_state: TreeState,
    workspace: Workspace,
    progress: Progress,
) -> Binary | None:
    inputs = _inputs(patched, arch, tree_state)
    folder = _folder(inputs, workspace)
    path = workspace.work / f"built-{arch}"
    with shared(workspace, f"built-{folder.name}"):
        if not os.path.lexists(folder):
            return None
        try:
            about = _read_document(folder / "built.json", inputs)
            stamp = Stamp(
                build_date=datetime.fromisoformat(about["build_date"]), tree_state=tree_state
            )
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
        os.utime(folder)  # the time of its last use
    return Binary(
        path=path,
        arch=arch,
        sha256=about["sha256"],
        tree=patched,
        stamp=stamp,
        command=("go", *go_command(patched, arch, stamp).arguments),
        compiled=(began, ended),
    )


def _read_document(path: Path, inputs: Mapping[str, object]) -> dict[str, Any]:
    """Return the record of a binary; raises OSError or ValueError if it is damaged."""
    document = json.loads(read_file(path, _MAX_DOCUMENT))
    about: dict[str, Any] = document["binary"]
    if document["sha256"] != _digest(about) or about["inputs"] != inputs:
        raise ValueError
    return about


def _digest(about: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _inputs(patched: PatchedTree, arch: str, tree_state: TreeState) -> dict[str, object]:
    """Return all inputs of a binary except its build date, as JSON values."""
    command = go_command(patched, arch, Stamp(build_date=_ANY_DATE, tree_state=tree_state))
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
    # Not a link: the program that wrote the source could change the same file later.
    shutil.copyfile(source, target)
    target.chmod(0o755)
