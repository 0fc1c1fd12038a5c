"""Compile in a container without network, root and capabilities; only the cache is writable.

Each image has its own Go build cache, because a compiler can write anything into its cache.
"""

import contextlib
import io
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from kbuild.base import engine
from kbuild.base.containers import (
    Container,
    EngineRun,
    Holder,
    cache_volume,
    empty_folders,
    engine_run,
    remove_volume,
)
from kbuild.base.disk import remove
from kbuild.base.errors import SandboxLimit
from kbuild.base.sandbox import SANDBOX_ID, Limits
from kbuild.base.unpack import unpack_all
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.compile.memory import collector_settings, free_memory, total_memory
from kbuild.kubeadm.compile.recipe import (
    CACHE,
    GOPATH,
    OUT,
    PURPOSE,
    TREE,
    GoCommand,
    compile_limits,
)
from kbuild.kubeadm.model import PatchedTree, SourceTree, Toolchain

_CHUNK = 1 << 20


class DockerBuild:
    """One build in a container: iterate its output lines, then read ``exit_code``."""

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
        image, here = _names(patched.toolchain)
        self._image, self._out = image, out
        with contextlib.ExitStack() as stack:
            run = stack.enter_context(engine_run(workspace, image))
            source, made = (stack.enter_context(run.volume()) for _ in range(2))
            cache = (
                stack.enter_context(run.volume()) if empty_cache else _cache_of(image, workspace)
            )
            self._gocache = cache
            volumes = {source: GOPATH, made: OUT.parent, cache: CACHE.parent}
            self._limits, environment = _resources(run)
            # The holder exists until the container does, so the volumes are always in use.
            with run.holder(here, volumes) as holder:
                _load(holder, patched.source, tar)
                self._container = stack.enter_context(
                    run.container(
                        here,
                        ("sh", "-euc", command.script),
                        volumes,
                        self._limits,
                        PURPOSE,
                        read_only=GOPATH,
                        environment=command.environment | environment,
                        tmp="exec,",
                        init=True,
                    )
                )
            self._container.start()
            self._stack = stack.pop_all()

    def lines(self) -> Iterator[str]:
        """Yield the lines that the build prints, until it ends."""
        rest = b""
        with engine.translate(self._image):
            for chunk in self._container.output():
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")

    def exit_code(self) -> int:
        """Wait for the end, and copy the binaries if the build succeeded."""
        with engine.translate(self._image):
            code = self._container.exit_code()
            if code == 0:
                unpack(self._container, OUT, self._out, self._limits)
        return code

    def close(self) -> None:
        """Remove the container and the volumes of this run."""
        self._stack.close()

    def drop_cache(self) -> None:
        """Remove the volume of Go's build cache."""
        remove_volume(self._gocache, force=True)


def _names(toolchain: Toolchain) -> tuple[str, str]:
    """Return the image by its digest, and by the name that the engine has for it."""
    assert toolchain.image is not None
    return toolchain.image, toolchain.image_id or toolchain.image


def _cache_of(image: str, workspace: Workspace) -> str:
    """Return the volume with the Go build cache of an image, and note that it was used now."""
    name = cache_volume(image)
    # The engine does not record when a volume was last used.
    (workspace.cache / "volumes" / name).touch()
    return name


def _resources(run: EngineRun) -> tuple[Limits, dict[str, str]]:
    """Return the limits of a compile in this engine, and the settings of Go's garbage collector."""
    memory, processors = run.resources
    # An engine does not report free memory. If it has as much as this machine, it runs here.
    free = free_memory() if memory == total_memory() else memory // 2
    return compile_limits(memory, processors), collector_settings(free, processors)


def _load(holder: Holder, source: SourceTree, tar: Path) -> None:
    # Patched files replace the others.
    patched = pack(source.path, TREE.relative_to(GOPATH))
    holder.load(GOPATH, empty_folders(TREE.relative_to(GOPATH)))
    with tar.open("rb") as stream:
        holder.load(TREE, stream)
    holder.load(GOPATH, patched)
    for folder in (OUT, CACHE):
        holder.load(folder.parent, empty_folders(PurePosixPath(folder.name), owner=SANDBOX_ID))


def pack(folder: Path, prefix: PurePosixPath) -> Iterator[bytes]:
    """Yield a tar stream of a directory below ``prefix``, owned by root and readable by all."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for path in (folder, *sorted(folder.rglob("*"))):
            member = tar.gettarinfo(path, str(prefix / path.relative_to(folder)))
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode |= 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            if member.isreg():
                with path.open("rb") as file:
                    tar.addfile(member, file)
            else:
                tar.addfile(member)
            if buffer.tell() >= _CHUNK:
                yield buffer.getvalue()
                buffer.seek(0)
                buffer.truncate()
    yield buffer.getvalue()


def unpack(container: Container, source: PurePosixPath, target: Path, limits: Limits) -> None:
    """Make ``target`` a copy of a container's directory; raises SandboxLimit if it is too large."""
    fresh = target.with_name(f"{target.name}-new")
    fresh.mkdir()
    with tempfile.TemporaryFile(dir=fresh) as file:
        for chunk in container.read(source):
            file.write(chunk)
            if file.tell() > limits.disk:
                raise SandboxLimit(purpose=PURPOSE, limit=f"{limits.disk >> 20} MiB of files")
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            unpack_all(tar, fresh)
    remove(target)
    (fresh / source.name).rename(target)
    fresh.rmdir()
