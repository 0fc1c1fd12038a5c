"""Compile with a Go of this machine, in a sandbox laid out like the container."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from kbuild import sandbox
from kbuild.build.recipe import CACHE, GOROOT, OUT, TREE, GoCommand
from kbuild.model import PatchedTree
from kbuild.sandbox import Bind, Layers
from kbuild.workspace import Workspace


class LocalBuild:
    """One build in the sandbox: iterate its output lines, then read ``exit_code``."""

    def __init__(
        self, command: GoCommand, patched: PatchedTree, workspace: Workspace, out: Path
    ) -> None:
        gocache = workspace.cache / "gocache"
        gocache.mkdir(exist_ok=True)
        go_root = patched.toolchain.go_root
        assert go_root is not None
        source = patched.source
        self._process = sandbox.popen(
            ["sh", "-euc", command.script],
            root=workspace.work / "root",
            binds=[
                *sandbox.system_binds(),
                *_go_binds(go_root),
                Bind(source=gocache, target=CACHE, writable=True),
                Bind(source=out, target=OUT, writable=True),
            ],
            layers=Layers(tar=source.packed, folder=source.path, target=TREE),
            environment=command.environment,
            purpose="the local builder",
        )

    def lines(self) -> Iterator[str]:
        """Yield what the build prints, a line each, until it ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield line.decode(errors="replace").rstrip("\n")

    def exit_code(self) -> int:
        """Wait for the end."""
        return self._process.wait()

    def close(self) -> None:
        """Stop whatever still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _go_binds(folder: Path, target: PurePosixPath = GOROOT) -> list[Bind]:
    # Debian's GOROOT and its pkg/ hold links into /usr/share, which may not be at that place:
    # a link is bound as what it points at.
    entries = sorted(folder.iterdir())
    if not any(entry.is_symlink() for entry in entries):
        return [Bind(source=folder, target=target)]
    binds = []
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            binds += _go_binds(entry, target / entry.name)
        else:
            binds.append(Bind(source=entry.resolve(), target=target / entry.name))
    return binds
