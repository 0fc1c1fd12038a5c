"""Compile with a local Go, in a sandbox with the same paths as the container."""

import os
from collections.abc import Iterator
from pathlib import Path

from kbuild.base import sandbox
from kbuild.base.disk import remove
from kbuild.base.sandbox import Bind, Layers, Sandbox
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.compile.memory import collector_settings, free_memory, total_memory
from kbuild.kubeadm.compile.recipe import (
    CACHE,
    GOROOT,
    OUT,
    PURPOSE,
    TREE,
    GoCommand,
    compile_limits,
)
from kbuild.kubeadm.model import PatchedTree
from kbuild.kubeadm.toolchain.archives import digest_of


class LocalBuild:
    """One build in the sandbox: iterate its output lines, then read ``exit_code``."""

    def __init__(
        self,
        command: GoCommand,
        patched: PatchedTree,
        tar: Path,
        workspace: Workspace,
        out: Path,
        *,
        empty_cache: bool,
    ) -> None:
        go_root = patched.toolchain.go_root
        assert go_root is not None
        # Each Go has its own cache, because it can write any output under any key.
        shared = workspace.cache / "gocache" / digest_of(go_root)
        if shared.is_symlink() or not shared.is_dir():
            remove(shared)
        self._gocache = workspace.work / "gocache" if empty_cache else shared
        gocache = sandbox.own_writable(self._gocache)
        os.utime(gocache)  # the time of its last use
        self._out = out
        processors = os.cpu_count() or 1
        place = Sandbox(
            work=workspace.work / f"compile-{out.name}",
            binds=[
                *sandbox.system_binds(),
                *sandbox.folder_binds(go_root, GOROOT),
                Bind(source=gocache, target=CACHE, writable=True),
            ],
            layers=Layers(tar=tar, folder=patched.source.path, target=TREE),
            environment=command.environment | collector_settings(free_memory(), processors),
            limits=compile_limits(total_memory(), processors),
            purpose=PURPOSE,
            exchange=OUT,
        )
        self._process = place.start(["sh", "-euc", command.script])

    def lines(self) -> Iterator[str]:
        """Yield the lines that the build prints, until it ends."""
        return self._process.lines()

    def exit_code(self) -> int:
        """Wait for the end, and write the binaries."""
        ended = self._process.wait()
        for name, content in ended.files.items():
            if "/" not in name:
                (self._out / name).write_bytes(content)
                (self._out / name).chmod(0o755)
        return ended.code

    def close(self) -> None:
        """Stop what still runs."""
        self._process.close()

    def drop_cache(self) -> None:
        """Remove Go's build cache."""
        remove(self._gocache)
