"""Run kubeadm in a container of an empty image, if this machine has no sandbox.

The image contains only the binary, not even a shell. Its root is read-only;
/etc/kubernetes is a volume.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from kbuild.base import engine
from kbuild.base.containers import Container, EngineRun, engine_run
from kbuild.base.errors import SandboxLimit
from kbuild.base.sandbox import Files, pack_files, unpack_files
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.prove.runner import (
    ETC_KUBERNETES,
    KUBEADM,
    LIMITS,
    PURPOSE,
    failed,
    remaining,
)


class ContainerRunner:
    """Runs each command of kubeadm in its own container; a prove.runner.Runner."""

    how = "native"
    where = "container"

    def __init__(self, run: EngineRun, image: str) -> None:
        self._engine, self._image = run, image
        self._ends = time.monotonic() + LIMITS[self.how].seconds
        self._running: set[Container] = set()
        self._stopped = False

    def run(self, arguments: tuple[str, ...], files: Files) -> tuple[str, Files]:
        """Run kubeadm; see Runner."""
        if self._stopped:
            raise failed(arguments, "none", "it was stopped")
        limits = remaining(self.how, self._ends)
        command = (str(KUBEADM), *arguments)
        with (
            engine.translate(self._image),
            self._engine.volume() as volume,
            self._engine.container(
                self._image, command, {volume: ETC_KUBERNETES}, limits, PURPOSE, copy=True
            ) as container,
        ):
            container.load(ETC_KUBERNETES, pack_files(files))
            self._running.add(container)
            try:
                code, out, err = container.run()
            finally:
                self._running.discard(container)
            if code != 0:
                raise failed(arguments, code, err.decode(errors="replace"))
            return out.decode(errors="replace"), _read_back(container, limits.disk)

    def stop(self) -> None:
        """Stop what runs; see Runner."""
        self._stopped = True
        for container in list(self._running):
            container.stop()


@contextlib.contextmanager
def container_runner(
    binary: Path, arch: str, workspace: Workspace
) -> Iterator[ContainerRunner | None]:
    """Yield a runner, or None if the engine has another architecture.

    Raises the engine's errors.
    """
    with engine_run(workspace, str(binary)) as run:
        if run.arch != arch:
            yield None
            return
        with run.image(binary, KUBEADM, ETC_KUBERNETES) as image:
            yield ContainerRunner(run, image)


def _read_back(container: Container, limit: int) -> Files:
    data = bytearray()
    for chunk in container.read(ETC_KUBERNETES):
        data += chunk
        if len(data) > 2 * limit:  # a tar has a header for each file
            raise SandboxLimit(purpose=PURPOSE, limit=f"{limit >> 20} MiB of files")
    return unpack_files(bytes(data), limit, ETC_KUBERNETES.name)
