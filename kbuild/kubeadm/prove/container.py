"""Run kubeadm in a container of an empty image, where this machine gives no sandbox.

The image holds the binary and nothing else: there is not even a shell in it. Its root is read-only;
/etc/kubernetes is a volume.
"""

import contextlib
import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kbuild.base import engine
from kbuild.base.errors import SandboxLimit
from kbuild.base.sandbox import SANDBOX_ID, Files, pack_files, unpack_files
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.compile.docker import removed, run_labels, sweep, temporary_volume
from kbuild.kubeadm.prove.runner import (
    ETC_KUBERNETES,
    KUBEADM,
    LIMITS,
    PURPOSE,
    failed,
    remaining,
)

if TYPE_CHECKING:
    from kbuild.base.engine import Client, Container


class ContainerRunner:
    """Runs kubeadm in one container a command; a prove.runner.Runner."""

    how = "native"
    where = "container"

    def __init__(self, client: "Client", image: str, workspace: Workspace) -> None:
        self._client, self._image, self._workspace = client, image, workspace
        self._ends = time.monotonic() + LIMITS[self.how].seconds
        self._running: set[Container] = set()
        self._stopped = False

    def run(self, arguments: tuple[str, ...], files: Files) -> tuple[str, Files]:
        """Run kubeadm; see Runner."""
        if self._stopped:
            raise failed(arguments, "none", "it was stopped")
        limits = remaining(self.how, self._ends)
        with (
            engine.translate(self._image),
            temporary_volume(self._client, self._workspace) as volume,
            removed(self._create(arguments, volume)) as container,
        ):
            container.put_archive(str(ETC_KUBERNETES), pack_files(files))
            self._running.add(container)
            try:
                code, out, err = engine.run(container, limits, PURPOSE)
            finally:
                self._running.discard(container)
            if code != 0:
                raise failed(arguments, code, err.decode(errors="replace"))
            return out.decode(errors="replace"), _read_back(container, limits.disk)

    def stop(self) -> None:
        """End what runs now; see Runner."""
        self._stopped = True
        for container in list(self._running):
            engine.stop(container)

    def _create(self, arguments: tuple[str, ...], volume: str) -> "Container":
        limits = LIMITS[self.how]
        return self._client.containers.create(
            self._image,
            entrypoint=[str(KUBEADM)],
            command=list(arguments),
            labels=run_labels(self._workspace),
            # A new volume gets its owner from the folder of the image.
            volumes={volume: {"bind": str(ETC_KUBERNETES), "mode": "rw"}},
            tmpfs={"/tmp": f"size={limits.disk},mode=1777"},
            **engine.cage(limits),
        )


@contextlib.contextmanager
def container_runner(
    binary: Path, arch: str, workspace: Workspace
) -> Iterator[ContainerRunner | None]:
    """Give a runner, or None when the engine is of another architecture.

    Raises the engine's errors when none answers.
    """
    client = engine.connect()
    with engine.translate(str(binary)):
        if engine.arch(client) != arch:
            yield None
            return
        sweep(client, workspace.cache)
        image = _import_image(client, binary, workspace)
    try:
        yield ContainerRunner(client, image, workspace)
    finally:
        client.images.remove(image, force=True)
        client.close()


def _read_back(container: "Container", limit: int) -> Files:
    stream, _ = container.get_archive(str(ETC_KUBERNETES))
    data = bytearray()
    for chunk in stream:
        data += chunk
        if len(data) > 2 * limit:  # a tar has a header for each file
            raise SandboxLimit(purpose=PURPOSE, limit=f"{limit >> 20} MiB of files")
    return unpack_files(bytes(data), limit, ETC_KUBERNETES.name)


def _import_image(client: "Client", binary: Path, workspace: Workspace) -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("tmp", "etc", "etc/kubernetes"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            member.uid = member.gid = SANDBOX_ID
            tar.addfile(member)
        member = tar.gettarinfo(binary, str(PurePosixPath(KUBEADM).relative_to("/")))
        member.mode = 0o755
        with binary.open("rb") as file:
            tar.addfile(member, file)
    client.api.import_image_from_data(
        buffer.getvalue(),
        repository="kbuild-proof",
        tag=workspace.run_id,
        changes=[f"LABEL {name}={value}" for name, value in run_labels(workspace).items()],
    )
    return f"kbuild-proof:{workspace.run_id}"
