"""Run kubeadm where it sees nothing but itself and an /etc/kubernetes of ours."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path, PurePosixPath
from typing import Protocol

from kbuild import sandbox
from kbuild.errors import KubeadmFailed
from kbuild.sandbox import Bind

ETC_KUBERNETES = PurePosixPath("/etc/kubernetes")
KUBEADM = PurePosixPath("/kubeadm")
_QEMU = PurePosixPath("/qemu")
_QEMU_NAMES = {"amd64": "x86_64", "arm64": "aarch64", "arm": "arm"}
_PATIENCE = {"native": 300, "qemu": 3600}


class Runner(Protocol):
    """Runs one kubeadm; ``how`` is native or qemu, ``where`` is sandbox or container."""

    how: str
    where: str

    def run(self, arguments: tuple[str, ...], etc_kubernetes: Path) -> str:
        """Run kubeadm with that folder as its /etc/kubernetes and return its standard output.

        Raises KubeadmFailed.
        """

    def stop(self) -> None:
        """End what runs now, and run nothing more."""


class SandboxRunner:
    """Runs kubeadm in a sandbox of this machine, under qemu-user if it is a foreign one."""

    where = "sandbox"

    def __init__(self, binary: Path, scratch: Path, qemu: Path | None) -> None:
        self.how = "native" if qemu is None else "qemu"
        self._scratch = scratch
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._binds = [Bind(source=binary.resolve(), target=KUBEADM)]
        self._argv = [str(KUBEADM)]
        if qemu is not None:
            self._binds.append(Bind(source=qemu, target=_QEMU))
            self._argv.insert(0, str(_QEMU))

    def run(self, arguments: tuple[str, ...], etc_kubernetes: Path) -> str:
        """Run kubeadm; see Runner."""
        if self._stopped:
            raise _failed(arguments, "none", "it was stopped")
        etc = Bind(source=etc_kubernetes.resolve(), target=ETC_KUBERNETES, writable=True)
        process = sandbox.popen(
            [*self._argv, *arguments],
            root=self._scratch / f"root-{etc_kubernetes.name}",
            binds=[*self._binds, etc],
            environment={"HOME": "/tmp"},
            purpose="the proof",
            merge=False,
        )
        self._running.add(process)
        try:
            out, err = process.communicate(timeout=_PATIENCE[self.how])
        except subprocess.TimeoutExpired:
            raise _failed(arguments, "none", "it did not end in time") from None
        finally:
            self._running.discard(process)
            _kill(process)
            process.communicate()
        if process.returncode != 0:
            raise _failed(arguments, process.returncode, err.decode(errors="replace"))
        return out.decode(errors="replace")

    def stop(self) -> None:
        """End what runs now; see Runner."""
        self._stopped = True
        for process in list(self._running):
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def sandbox_runner(binary: Path, arch: str, scratch: Path) -> SandboxRunner | None:
    """Return a runner for a binary of that architecture, or None for want of its qemu-user."""
    if arch == sandbox.host_arch():
        return SandboxRunner(binary, scratch, qemu=None)
    name = _QEMU_NAMES.get(arch, arch)
    qemu = shutil.which(f"qemu-{name}-static")
    return SandboxRunner(binary, scratch, qemu=Path(qemu).resolve()) if qemu else None


def _failed(arguments: tuple[str, ...], code: object, words: str) -> KubeadmFailed:
    last = "\n".join(words.splitlines()[-15:])
    return KubeadmFailed(command=f"kubeadm {' '.join(arguments)}", code=code, details=last)
