"""Run an untrusted kubeadm with an /etc/kubernetes in memory."""

import shutil
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from kbuild.base import sandbox
from kbuild.base.arches import ARCHES
from kbuild.base.sandbox import Bind, Files, Limits, Process, Sandbox
from kbuild.kubeadm.prove.errors import KubeadmFailed

ETC_KUBERNETES = PurePosixPath("/etc/kubernetes")
KUBEADM = PurePosixPath("/kubeadm")
PURPOSE = "the proof"
_QEMU = PurePosixPath("/qemu")
_MIB = 1 << 20
# A genuine kubeadm needs 20 threads, 60 MiB of memory (under qemu-user 200), 100 KiB of files, 10
# KiB of output, and 10 seconds for the complete proof (under qemu-user two minutes).
LIMITS = {
    "native": Limits(
        processes=256, memory=512 * _MIB, disk=16 * _MIB, printed=4 * _MIB, seconds=600
    ),
    "qemu": Limits(
        processes=256, memory=1024 * _MIB, disk=16 * _MIB, printed=4 * _MIB, seconds=3600
    ),
}
_LAST_LINES, _LONGEST_LINE = 15, 500


class Runner(Protocol):
    """Runs one kubeadm; ``how`` is native or qemu, ``where`` is sandbox or container.

    All its runs share one deadline.
    """

    how: str
    where: str

    def run(self, arguments: tuple[str, ...], files: Files) -> tuple[str, Files]:
        """Run kubeadm with these files in /etc/kubernetes.

        Returns its standard output, and the regular files in /etc/kubernetes at its end. Raises
        KubeadmFailed or SandboxLimit.
        """

    def stop(self) -> None:
        """Stop what runs, and run nothing more; any thread may call this."""


class SandboxRunner:
    """Runs kubeadm in a sandbox, under qemu-user if it is for another architecture."""

    where = "sandbox"

    def __init__(self, binary: Path, work: Path, qemu: Path | None) -> None:
        self.how = "native" if qemu is None else "qemu"
        self._work = work
        self._runs = 0
        self._ends = time.monotonic() + LIMITS[self.how].seconds
        self._running: set[Process] = set()
        self._stopped = False
        self._binds = [Bind(source=binary.resolve(), target=KUBEADM)]
        self._argv = [str(KUBEADM)]
        if qemu is not None:
            self._binds.append(Bind(source=qemu, target=_QEMU))
            self._argv.insert(0, str(_QEMU))

    def run(self, arguments: tuple[str, ...], files: Files) -> tuple[str, Files]:
        """Run kubeadm; see Runner."""
        if self._stopped:
            raise failed(arguments, "none", "it was stopped")
        self._runs += 1
        place = Sandbox(
            work=self._work / f"run-{self._runs}-{id(files)}",
            binds=self._binds,
            environment={"HOME": "/tmp"},
            limits=remaining(self.how, self._ends),
            purpose=PURPOSE,
            exchange=ETC_KUBERNETES,
        )
        process = place.start([*self._argv, *arguments], files, merge=False)
        self._running.add(process)
        try:
            ended = process.wait()
        finally:
            self._running.discard(process)
        if ended.code != 0:
            raise failed(arguments, ended.code, ended.err.decode(errors="replace"))
        return ended.out.decode(errors="replace"), ended.files

    def stop(self) -> None:
        """End what runs now; see Runner."""
        self._stopped = True
        for process in list(self._running):
            process.kill()


def sandbox_runner(binary: Path, arch: str, work: Path) -> SandboxRunner | None:
    """Return a runner for a binary of this architecture, or None without its qemu-user."""
    if arch == sandbox.host_arch():
        return SandboxRunner(binary, work, qemu=None)
    qemu = _qemu(arch)
    return SandboxRunner(binary, work, qemu=Path(qemu).resolve()) if qemu else None


def can_run(arch: str) -> bool:
    """Return whether the sandbox of this machine can run programs of this architecture."""
    return arch == sandbox.host_arch() or _qemu(arch) is not None


def _qemu(arch: str) -> str | None:
    return shutil.which(f"qemu-{ARCHES[arch].qemu}-static")


def remaining(how: str, ends: float) -> Limits:
    """Return the limits of a run that begins now and must end at ``ends``."""
    return replace(LIMITS[how], seconds=max(0, ends - time.monotonic()))


def failed(arguments: tuple[str, ...], code: int | str, words: str) -> KubeadmFailed:
    """Return the error of a failed kubeadm, with the last lines of its output."""
    last = "\n".join(line[:_LONGEST_LINE] for line in words.splitlines()[-_LAST_LINES:])
    return KubeadmFailed(command=f"kubeadm {' '.join(arguments)}", code=code, details=last)
