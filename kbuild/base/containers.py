"""The containers, volumes and images that a run creates in an engine, and removes at its end.

Files go in and out through volumes instead of bind mounts, so any engine works: on this machine, on
another host, or the one that runs this CI job. The next run with the same cache removes what a
killed run left.
"""

import contextlib
import io
import re
import secrets
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar

from kbuild.base import engine
from kbuild.base.errors import SandboxLimit
from kbuild.base.sandbox import SANDBOX_ID, Limits
from kbuild.base.workspace import Workspace, finished, is_alive, key

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container as DockerContainer

T = TypeVar("T")

_RUN_LABEL, _HOME_LABEL = "kbuild.run", "kbuild.home"
_VOLUMES = "kbuild-run"  # followed by .cache.run.volume
_IMAGES = "kbuild-proof"
CACHE_VOLUME = "kbuild-gocache"  # followed by a key of the image
_CACHE_NAME = re.compile(rf"{CACHE_VOLUME}-[0-9a-f]{{16}}")


class Holder:
    """A container that holds files and is never started."""

    def __init__(self, container: "DockerContainer") -> None:
        self._container = container

    def load(self, folder: PurePosixPath, tar: bytes | Iterable[bytes] | IO[bytes]) -> None:
        """Unpack a tar into a directory of the container; it does not have to run."""
        self._container.put_archive(str(folder), tar)


class Container(Holder):
    """A container that runs a program."""

    def __init__(self, container: "DockerContainer", limits: Limits, purpose: str) -> None:
        super().__init__(container)
        self._limits, self._purpose = limits, purpose

    def read(self, folder: PurePosixPath) -> Iterator[bytes]:
        """Yield a tar of a directory of the container; it may have ended."""
        stream, _ = self._container.get_archive(str(folder))
        return iter(stream)

    def start(self) -> None:
        """Start its program."""
        self._container.start()

    def output(self) -> Iterator[bytes]:
        """Yield its output until it ends; raises SandboxLimit for too much output or time."""
        limits, printed = self._limits, 0
        with _deadline(self._container, limits.seconds, self._purpose):
            for chunk in self._container.logs(stream=True, follow=True):
                printed += len(chunk)
                if printed <= limits.printed:
                    yield chunk
                elif printed - len(chunk) <= limits.printed:
                    self.stop()  # reading its output to the end closes the connection
        if printed > limits.printed:
            limit = f"{limits.printed >> 20} MiB of output"
            raise SandboxLimit(purpose=self._purpose, limit=limit)

    def exit_code(self) -> int:
        """Wait until it has ended, and return its exit code."""
        return int(self._container.wait()["StatusCode"])

    def run(self) -> tuple[int, bytes, bytes]:
        """Start it, and return its exit code and its standard output and error.

        Raises SandboxLimit.
        """
        self.start()
        for _ in self.output():
            pass
        container = self._container
        return self.exit_code(), container.logs(stderr=False), container.logs(stdout=False)

    def stop(self) -> None:
        """Kill it, if it still runs."""
        _kill(self._container)


class EngineRun:
    """What one run of kbuild creates in an engine; see ``engine_run``."""

    def __init__(self, client: "DockerClient", workspace: Workspace) -> None:
        self._client = client
        self._home = key(str(workspace.cache.absolute()))
        self._cache, self._run_id = workspace.cache, workspace.run_id
        self._labels = {_RUN_LABEL: workspace.run_id, _HOME_LABEL: self._home}

    @property
    def arch(self) -> str:
        """Return the engine's architecture, as Go names it."""
        return engine.arch(self._client)

    @property
    def resources(self) -> tuple[int, int]:
        """Return the bytes of memory and the number of processors of the engine's machine."""
        about = self._client.info()
        return int(about["MemTotal"]), int(about["NCPU"])

    @contextlib.contextmanager
    def volume(self) -> Iterator[str]:
        """Create a volume for the block, and yield its name."""
        name = f"{_VOLUMES}.{self._home}.{self._run_id}.{secrets.token_hex(4)}"
        with _created(lambda: self._client.volumes.create(name), lambda it: it.remove(force=True)):
            yield name

    @contextlib.contextmanager
    def holder(self, image: str, volumes: Mapping[str, PurePosixPath]) -> Iterator[Holder]:
        """Create a container that is never started, only to write files into volumes."""
        options = {"entrypoint": ["true"], "volumes": _binds(volumes, copy=False)}
        with self._container(image, options) as made:
            yield Holder(made)

    @contextlib.contextmanager
    def container(
        self,
        image: str,
        command: tuple[str, ...],
        volumes: Mapping[str, PurePosixPath],
        limits: Limits,
        purpose: str,
        *,
        read_only: PurePosixPath | None = None,
        environment: Mapping[str, str] | None = None,
        tmp: str = "",
        init: bool = False,
        copy: bool = False,
    ) -> Iterator[Container]:
        """Create a container for the block that confines its program.

        ``read_only`` is the mount point of the volume that it must not write to. ``tmp`` holds
        mount options of /tmp. With ``copy``, the engine copies what the image has at a mount point
        into an empty volume.
        """
        options = {
            "entrypoint": list(command[:1]),
            "command": list(command[1:]),
            "environment": dict(environment or {}),
            "tmpfs": {"/tmp": f"{tmp}mode=1777,size={limits.disk}"},
            "init": init,
            "volumes": _binds(volumes, read_only, copy=copy),
            **_cage(limits),
        }
        with self._container(image, options) as made:
            yield Container(made, limits, purpose)

    @contextlib.contextmanager
    def image(self, program: Path, target: PurePosixPath, folder: PurePosixPath) -> Iterator[str]:
        """Create an image for the block: a program, /tmp and an empty directory, nothing else.

        A new volume that is mounted at this directory takes over its owner.
        """
        name = f"{_IMAGES}:{self._run_id}"

        def create() -> None:
            self._client.api.import_image_from_data(
                _image_tar(program, target, folder),
                repository=_IMAGES,
                tag=self._run_id,
                changes=[f"LABEL {label}={value}" for label, value in self._labels.items()],
            )

        with _created(create, lambda _: self._client.images.remove(name, force=True)):
            yield name

    def sweep(self) -> None:
        """Remove what killed runs with the same cache left."""
        ours: dict[str, str | list[str] | bool] = {"label": f"{_HOME_LABEL}={self._home}"}
        client = self._client
        for container in client.containers.list(all=True, filters=ours):
            if not is_alive(self._cache, container.labels[_RUN_LABEL]):
                container.remove(force=True, v=True)
        # By name: if a run is killed while the engine creates a container, the engine creates
        # the volumes of that container again, without labels.
        for volume in client.volumes.list(filters={"name": f"{_VOLUMES}.{self._home}."}):
            if not is_alive(self._cache, str(volume.name).split(".")[2]):
                volume.remove(force=True)
        for image in client.images.list(filters=ours):
            if not is_alive(self._cache, image.labels[_RUN_LABEL]):
                client.images.remove(str(image.id), force=True)

    @contextlib.contextmanager
    def _container(self, image: str, options: dict[str, Any]) -> Iterator["DockerContainer"]:
        with _created(
            lambda: self._client.containers.create(image, labels=self._labels, **options),
            lambda it: it.remove(force=True, v=True),
        ) as container:
            yield container


@contextlib.contextmanager
def engine_run(workspace: Workspace, about: str) -> Iterator[EngineRun]:
    """Connect one run to the engine, after removing what killed runs left there.

    The SDK's errors are translated as in ``engine.translate(about)``.
    """
    with contextlib.closing(engine.connect()) as client, engine.translate(about):
        run = EngineRun(client, workspace)
        run.sweep()
        yield run


def cache_volume(image: str) -> str:
    """Return the name of the volume that holds the Go build cache of an image."""
    return f"{CACHE_VOLUME}-{key(image)}"


def cache_volumes() -> dict[str, int]:
    """Return the size in bytes of each volume with a Go build cache; raises the engine's errors."""
    with contextlib.closing(engine.connect()) as client, engine.translate(CACHE_VOLUME):
        usage = client.df()
    # Since API 1.52 the field is VolumeUsage; Volumes remains for older clients.
    found = usage.get("Volumes") or (usage.get("VolumeUsage") or {}).get("Items") or []
    volumes = {str(each.get("Name")): each.get("UsageData") or {} for each in found}
    return {
        name: max(0, int(data.get("Size") or 0))  # -1 or absent if the size is unknown
        for name, data in volumes.items()
        if _CACHE_NAME.fullmatch(name)
    }


def remove_volume(name: str, *, force: bool = False) -> None:
    """Remove a volume; raises the engine's errors, for example if it is in use."""
    with contextlib.closing(engine.connect()) as client, engine.translate(name):
        client.volumes.get(name).remove(force=force)


def empty_folders(path: PurePosixPath, owner: int = 0) -> bytes:
    """Return a tar of an empty directory and its parent directories."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in [*reversed(path.parents[:-1]), path]:
            tar.addfile(_folder(str(folder), owner))
    return buffer.getvalue()


def _image_tar(program: Path, target: PurePosixPath, folder: PurePosixPath) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        inside = folder.relative_to("/")
        for name in ("tmp", *map(str, reversed(inside.parents[:-1])), str(inside)):
            tar.addfile(_folder(name, SANDBOX_ID))
        member = tar.gettarinfo(program, str(target.relative_to("/")))
        member.mode = 0o755
        with program.open("rb") as file:
            tar.addfile(member, file)
    return buffer.getvalue()


def _folder(name: str, owner: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    member.uid = member.gid = owner
    return member


def _binds(
    volumes: Mapping[str, PurePosixPath], read_only: PurePosixPath | None = None, *, copy: bool
) -> dict[str, dict[str, str]]:
    writable = "rw" if copy else "rw,nocopy"
    return {
        name: {"bind": str(target), "mode": "ro" if target == read_only else writable}
        for name, target in volumes.items()
    }


@contextlib.contextmanager
def _created(create: Callable[[], T], remove: Callable[[T], None]) -> Iterator[T]:
    """Create something in the engine for the block.

    An engine finishes such a request even if kbuild no longer waits for its answer. So an interrupt
    comes after the answer, and what was created is removed.
    """
    with contextlib.ExitStack() as stack:
        with finished():
            created = create()
            stack.callback(insist, lambda: remove(created))
        yield created


def insist(remove: Callable[[], None]) -> None:
    """Remove something, again and again while the engine is still stopping it.

    Raises the engine's error if it still refuses after eight seconds.
    """
    from docker.errors import APIError, NotFound

    for wait in (0.5, 1, 2, 4, None):
        try:
            remove()
        except NotFound:
            return
        except APIError:
            if wait is None:
                raise
            time.sleep(wait)
        else:
            return


def _cage(limits: Limits) -> dict[str, Any]:
    """Return the options of a container that runs an untrusted program.

    It has no network, no root user, no capabilities, a read-only root, and limits on processes,
    memory, file size and output.
    """
    from docker.types import LogConfig, Ulimit

    return {
        "user": f"{SANDBOX_ID}:{SANDBOX_ID}",
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "pids_limit": limits.processes,
        "mem_limit": limits.memory,
        "memswap_limit": limits.memory,
        "ulimits": [
            Ulimit(name="fsize", soft=limits.disk, hard=limits.disk),
            Ulimit(name="core", soft=0, hard=0),
        ],
        "log_config": LogConfig(
            type=LogConfig.types.JSON,
            config={"max-size": str(2 * limits.printed), "max-file": "1"},
        ),
    }


@contextlib.contextmanager
def _deadline(container: "DockerContainer", seconds: float, purpose: str) -> Iterator[None]:
    """Kill a container that still runs after this many seconds.

    Raises SandboxLimit when the block ends.
    """
    expired = threading.Event()

    def kill() -> None:
        expired.set()
        _kill(container)

    timer = threading.Timer(max(0, seconds), kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if expired.is_set():
        raise SandboxLimit(purpose=purpose, limit="time")


def _kill(container: "DockerContainer") -> None:
    """Kill a container, if it still runs."""
    from docker.errors import DockerException
    from requests import RequestException

    with contextlib.suppress(DockerException, RequestException):
        container.kill()
