"""Compile in a container: no network, not root, no capabilities, all but the cache read-only.

Each image has a Go cache of its own: a compiler can write what it likes into its cache.

Files go in and out through volumes instead of bind mounts, so any engine that answers will do:
this machine's, one on another host, or one that this job itself runs in.
"""

import contextlib
import io
import secrets
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kbuild.base import engine
from kbuild.base.errors import SandboxLimit
from kbuild.base.sandbox import SANDBOX_ID, Limits
from kbuild.base.unpack import unpack_all
from kbuild.base.workspace import Workspace, is_alive, key, remove
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
from kbuild.kubeadm.model import PatchedTree, SourceTree

if TYPE_CHECKING:
    from kbuild.base.engine import Client, Container

CACHE_VOLUME = "kbuild-gocache"  # with a key of the image behind it
_VOLUMES = "kbuild-run"  # .cache.run.volume
RUN_LABEL = "kbuild.run"
HOME_LABEL = "kbuild.home"
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
        image = patched.toolchain.image
        assert image is not None
        self._client, self._image, self._host_out = engine.connect(), image, out
        self._held = contextlib.ExitStack()
        with engine.translate(image), contextlib.ExitStack() as held:
            sweep(self._client, workspace.cache)
            labels = run_labels(workspace)
            source, made = (
                held.enter_context(temporary_volume(self._client, workspace)) for _ in range(2)
            )
            self._gocache = f"{CACHE_VOLUME}-{key(image)}"
            if empty_cache:
                self._gocache = held.enter_context(temporary_volume(self._client, workspace))
            else:  # an engine does not tell when a volume was last of use
                (workspace.cache / "volumes" / self._gocache).touch()
            self._volumes = {source: GOPATH, made: OUT.parent, self._gocache: CACHE.parent}
            about = self._client.info()
            memory, processors = int(about["MemTotal"]), int(about["NCPU"])
            self._limits = compile_limits(memory, processors)
            # An engine does not say what is free; if it has as much as this machine, it is here.
            free = free_memory() if memory == total_memory() else memory // 2
            self._collector = collector_settings(free, processors)
            with self._loaded(patched.source, tar, labels):  # all the while the volumes are in use
                self._container = held.enter_context(self._create(command, labels))
            self._container.start()
            self._held = held.pop_all()

    def lines(self) -> Iterator[str]:
        """Yield what the build prints, a line each, until it ends."""
        rest, printed = b"", 0
        seconds = self._limits.seconds
        with engine.translate(self._image), engine.deadline(self._container, seconds, PURPOSE):
            for chunk in self._container.logs(stream=True, follow=True):
                printed += len(chunk)
                if printed > self._limits.printed:
                    limit = f"{self._limits.printed >> 20} MiB of output"
                    raise SandboxLimit(purpose=PURPOSE, limit=limit)
                *whole, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")

    def exit_code(self) -> int:
        """Wait for the end, and bring the binaries here if it went well."""
        with engine.translate(self._image):
            code = int(self._container.wait()["StatusCode"])
            if code == 0:
                unpack(self._container, OUT, self._host_out, self._limits)
        return code

    def close(self) -> None:
        """Remove the container and the volumes of this run."""
        self._held.close()

    def drop_cache(self) -> None:
        """Remove the volume of Go's build cache."""
        with engine.translate(self._image):
            self._client.volumes.get(self._gocache).remove(force=True)

    @contextlib.contextmanager
    def _loaded(self, source: SourceTree, tar: Path, labels: dict[str, str]) -> Iterator[None]:
        # A container that never starts is enough to write into volumes.
        with removed(
            self._client.containers.create(
                self._image,
                entrypoint=["true"],
                labels=labels,
                volumes=_binds(self._volumes, read_only=None),
            )
        ) as loader:
            # What is patched goes over the rest.
            over = pack(source.path, TREE.relative_to(GOPATH))
            loader.put_archive(str(GOPATH), pack_folders(TREE.relative_to(GOPATH)))
            with tar.open("rb") as stream:
                loader.put_archive(str(TREE), stream)
            loader.put_archive(str(GOPATH), over)
            for folder in (OUT, CACHE):
                loader.put_archive(str(folder.parent), _writable_folder(folder.name))
            yield

    def _create(
        self, command: GoCommand, labels: dict[str, str]
    ) -> contextlib.AbstractContextManager["Container"]:
        return removed(
            self._client.containers.create(
                self._image,
                entrypoint=["sh", "-euc"],
                command=[command.script],
                environment=command.environment | self._collector,
                tmpfs={"/tmp": f"exec,mode=1777,size={self._limits.disk}"},
                init=True,
                labels=labels,
                volumes=_binds(self._volumes, read_only=GOPATH),
                **engine.cage(self._limits),
            )
        )


def run_labels(workspace: Workspace) -> dict[str, str]:
    """Return the labels that mark what belongs to this run, and to this cache's runs."""
    return {RUN_LABEL: workspace.run_id, HOME_LABEL: _home(workspace.cache)}


def _home(cache: Path) -> str:
    return key(str(cache.absolute()))


def sweep(client: "Client", cache: Path) -> None:
    """Remove the containers, volumes and images that killed runs of the same cache left behind."""
    ours: dict[str, str | list[str] | bool] = {"label": f"{HOME_LABEL}={_home(cache)}"}
    for container in client.containers.list(all=True, filters=ours):
        if not is_alive(cache, container.labels[RUN_LABEL]):
            container.remove(force=True, v=True)
    # By name: if a run is interrupted while the engine creates a container, the engine creates the
    # volumes of that container again, without labels.
    for volume in client.volumes.list(filters={"name": f"{_VOLUMES}.{_home(cache)}."}):
        run_id = str(volume.name).split(".")[2]
        if not is_alive(cache, run_id):
            volume.remove(force=True)
    for image in client.images.list(filters=ours):
        if not is_alive(cache, image.labels[RUN_LABEL]):
            client.images.remove(str(image.id), force=True)


@contextlib.contextmanager
def removed(container: "Container") -> Iterator["Container"]:
    """Give a container that is gone when the block ends, whatever happened."""
    try:
        yield container
    finally:
        engine.insist(lambda: container.remove(force=True, v=True))


def pack(folder: Path, prefix: PurePosixPath) -> Iterator[bytes]:
    """Yield a tar stream of a folder below ``prefix``, owned by root and readable by all."""
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


def pack_folders(path: PurePosixPath, owner: int = 0) -> bytes:
    """Return a tar of a folder and those above it, all empty."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in [*reversed(path.parents[:-1]), path]:
            member = tarfile.TarInfo(str(folder))
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            member.uid = member.gid = owner
            tar.addfile(member)
    return buffer.getvalue()


def unpack(container: "Container", source: PurePosixPath, target: Path, limits: Limits) -> None:
    """Make ``target`` a copy of a container's folder; raises SandboxLimit if it is too large."""
    fresh = target.with_name(f"{target.name}-new")
    fresh.mkdir()
    stream, _ = container.get_archive(str(source))
    with tempfile.TemporaryFile(dir=fresh) as file:
        for chunk in stream:
            file.write(chunk)
            if file.tell() > limits.disk:
                raise SandboxLimit(purpose=PURPOSE, limit=f"{limits.disk >> 20} MiB of files")
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            unpack_all(tar, fresh)
    remove(target)
    (fresh / source.name).rename(target)
    fresh.rmdir()


@contextlib.contextmanager
def temporary_volume(client: "Client", workspace: Workspace) -> Iterator[str]:
    """Give the name of a new volume that is gone when the block ends."""
    owner = f"{_VOLUMES}.{_home(workspace.cache)}.{workspace.run_id}"
    volume = client.volumes.create(f"{owner}.{secrets.token_hex(4)}")
    try:
        yield str(volume.name)
    finally:
        engine.insist(lambda: volume.remove(force=True))


def _binds(
    volumes: dict[str, PurePosixPath], *, read_only: PurePosixPath | None
) -> dict[str, dict[str, str]]:
    # nocopy: an image's own /go must not be copied into the volume.
    return {
        name: {"bind": str(target), "mode": "ro" if target == read_only else "rw,nocopy"}
        for name, target in volumes.items()
    }


def _writable_folder(name: str) -> bytes:
    return pack_folders(PurePosixPath(name), owner=SANDBOX_ID)
