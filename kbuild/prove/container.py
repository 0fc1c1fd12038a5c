"""Run kubeadm in a container of an empty image, where this machine gives no namespaces.

The image holds the binary and nothing else: there is not even a shell in it.
"""

import contextlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kbuild import engine
from kbuild.build.docker import pack, removed, run_labels, sweep, unpack
from kbuild.errors import KubeadmFailed
from kbuild.prove.runner import ETC_KUBERNETES, KUBEADM
from kbuild.workspace import Workspace

if TYPE_CHECKING:
    from kbuild.engine import Client


class ContainerRunner:
    """Runs kubeadm in one container a command; a prove.runner.Runner."""

    how = "native"
    where = "container"

    def __init__(self, client: "Client", image: str, labels: dict[str, str]) -> None:
        self._client, self._image, self._labels = client, image, labels
        self._stopped = False

    def run(self, arguments: tuple[str, ...], etc_kubernetes: Path) -> str:
        """Run kubeadm; see Runner."""
        if self._stopped:
            raise KubeadmFailed(command="kubeadm", code="none", details="it was stopped")
        with (
            engine.translate(self._image),
            removed(
                self._client.containers.create(
                    self._image,
                    entrypoint=[str(KUBEADM)],
                    command=list(arguments),
                    network_mode="none",
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges"],
                    labels=self._labels,
                )
            ) as container,
        ):
            container.put_archive("/", pack(etc_kubernetes, ETC_KUBERNETES.relative_to("/")))
            container.start()
            code = int(container.wait()["StatusCode"])
            if code != 0:
                last = container.logs(stdout=False).decode(errors="replace").splitlines()[-15:]
                raise KubeadmFailed(
                    command=f"kubeadm {' '.join(arguments)}", code=code, details="\n".join(last)
                )
            unpack(container, ETC_KUBERNETES, etc_kubernetes)
            out: bytes = container.logs(stderr=False)
            return out.decode(errors="replace")

    def stop(self) -> None:
        """Run nothing more; what runs now takes a second or two."""
        self._stopped = True


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
        image = _import_image(client, binary, workspace.run_id)
    try:
        yield ContainerRunner(client, image, run_labels(workspace))
    finally:
        client.images.remove(image, force=True)


def _import_image(client: "Client", binary: Path, run_id: str) -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("tmp", *map(str, reversed(ETC_KUBERNETES.relative_to("/").parents))):
            if folder != ".":
                member = tarfile.TarInfo(folder)
                member.type, member.mode = tarfile.DIRTYPE, 0o1777
                tar.addfile(member)
        member = tar.gettarinfo(binary, str(PurePosixPath(KUBEADM).relative_to("/")))
        member.mode = 0o755
        with binary.open("rb") as file:
            tar.addfile(member, file)
    name = f"kbuild-proof:{run_id}"
    client.api.import_image_from_data(buffer.getvalue(), repository="kbuild-proof", tag=run_id)
    return name
