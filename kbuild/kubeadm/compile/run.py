"""Compile kubeadm from a patched tree, with the builder of the toolchain."""

import contextlib
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from kbuild.base import engine, sandbox
from kbuild.base.disk import remove
from kbuild.base.errors import DiskFull
from kbuild.base.files import read_file, sha256
from kbuild.base.progress import Progress
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.compile.errors import CompileFailed, NoBinary, OutOfMemory
from kbuild.kubeadm.compile.recipe import CACHE, COUNT_MARK, DAMAGED_MARK, GoCommand, go_command
from kbuild.kubeadm.model import Binary, Builder, GoRequest, PatchedTree, Stamp, Toolchain
from kbuild.kubeadm.source.tree import write_tar
from kbuild.kubeadm.toolchain.errors import WrongGo
from kbuild.kubeadm.toolchain.layout import archive_of

_LAST_LINES = 15
_MAIN = "k8s.io/kubernetes/cmd/kubeadm"  # the package that is compiled last
_MAX_LOG = 64 << 20
_COUNTED = re.compile(rf"{COUNT_MARK} +([1-9]\d{{0,5}})", re.ASCII)


class RunningBuild(Protocol):
    """A running build of either builder."""

    def lines(self) -> Iterator[str]:
        """Yield its output lines until it ends."""

    def exit_code(self) -> int:
        """Wait for its end, and return the exit code; then the binary is in the out directory."""

    def close(self) -> None:
        """Stop it, and remove what it used."""

    def drop_cache(self) -> None:
        """Remove Go's build cache; the next build makes a new one."""


def compile_kubeadm(
    patched: PatchedTree,
    arch: str,
    stamp: Stamp,
    workspace: Workspace,
    progress: Progress,
    *,
    empty_cache: bool = False,
) -> Binary:
    """Compile kubeadm for one architecture; with ``empty_cache``, without Go's kept build cache.

    Raises WrongGo if the toolchain is not the chosen Go, CompileFailed, OutOfMemory, NoBinary, or
    the builder's errors.
    """
    out = workspace.work / f"out-{arch}"
    out.mkdir(exist_ok=True)
    log = workspace.cache / "logs" / f"{patched.source.tag}-{arch}.log"
    log.parent.mkdir(exist_ok=True)
    command = replace(go_command(patched, arch, stamp), packages=_counted(log))
    code, last = _compile(
        command, patched, arch, workspace, out, log, progress, empty_cache=empty_cache
    )
    if code != 0:
        raise _failure(last, arch, code, log)
    path = out / f"kubeadm-{arch}"
    if not path.is_file():
        raise NoBinary(arch=arch, log=log)
    return Binary(
        path=path,
        arch=arch,
        sha256=sha256(path),
        tree=patched,
        stamp=stamp,
        command=("go", *command.arguments),
    )


def choose_builder(request: GoRequest, progress: Progress) -> Builder:
    """Return ``docker`` or ``local``; ``auto`` takes docker when an engine answers.

    Raises the engine's errors, SandboxUnavailable or SandboxForbidden, if the builder cannot work
    here.
    """
    progress.advance("look for a builder", 0, None)
    builder = _builder(request, progress)
    if builder == "local":
        sandbox.demand("the local builder")
    elif request.builder == "docker" or request.stored_images is not None:
        engine.connect().close()
    return builder


def _builder(request: GoRequest, progress: Progress) -> Builder:
    if request.builder != "auto":
        return request.builder
    if request.archives is not None:
        progress.say("builder: local, because the bundle has Go for it")
        return "local"
    if request.stored_images is not None:
        progress.say("builder: docker, because the bundle has the golang image")
        return "docker"
    if request.root is not None:
        progress.say("builder: local, because --go-root was given")
        return "local"
    if reason := engine.why_unavailable():
        progress.say(f"builder: local, because {reason}")
        return "local"
    progress.say("builder: docker, because an engine answers")
    return "docker"


def provide(toolchain: Toolchain, progress: Progress) -> Toolchain:
    """Pull the image of a toolchain, if it has one, or load it from a bundle.

    Raises ImageNotFound or an EngineError.
    """
    image, layout = toolchain.image, toolchain.layout
    if image is None:
        return toolchain
    with contextlib.closing(engine.connect()) as client, engine.translate(image):
        if layout is None:
            engine.pull(client, image, progress)
            return toolchain
        ids = (layout.config, layout.manifest)
        found = engine.load(client, image, ids, archive_of(layout), progress)
        return replace(toolchain, image_id=found)


def _compile(
    command: GoCommand,
    patched: PatchedTree,
    arch: str,
    workspace: Workspace,
    out: Path,
    log: Path,
    progress: Progress,
    *,
    empty_cache: bool,
) -> tuple[int, deque[str]]:
    """Run the build, and return its exit code and its last lines.

    It is run a second time, with an empty cache, if it seems that Go cannot use its build cache.
    """
    may_retry = not empty_cache
    while True:
        progress.advance(f"compile {arch}", 0, None)
        started = _start(command, patched, workspace, out, empty_cache=empty_cache)
        with contextlib.closing(started) as build:
            last = _follow(build.lines(), patched, arch, log, progress)
            code = build.exit_code()
        if code == 0 or not may_retry or not any(str(CACHE) in line for line in last):
            return code, last
        # Damaged outputs were removed before; this is, for example, a file in place of a directory.
        progress.say("Go's build cache cannot be used, compiling again with an empty one")
        started.drop_cache()
        may_retry = False


def _start(
    command: GoCommand, patched: PatchedTree, workspace: Workspace, out: Path, *, empty_cache: bool
) -> RunningBuild:
    tar = workspace.work / "tree.tar"
    if not tar.exists():  # all architectures share it
        write_tar(patched.source.files, tar)
    if patched.toolchain.builder == "docker":
        from kbuild.kubeadm.compile.docker import DockerBuild  # slow to import

        return DockerBuild(command, patched, tar, workspace, out, empty_cache=empty_cache)
    from kbuild.kubeadm.compile.local import LocalBuild  # not needed with docker

    return LocalBuild(command, patched, tar, workspace, out, empty_cache=empty_cache)


def _counted(log: Path) -> int | None:
    """Return the number of packages in the last compile of the same tag, or None."""
    with contextlib.suppress(OSError):
        for line in read_file(log, _MAX_LOG).decode(errors="replace").splitlines():
            if counted := _COUNTED.fullmatch(line):
                return int(counted[1])
    return None


def _follow(
    lines: Iterator[str], patched: PatchedTree, arch: str, log: Path, progress: Progress
) -> deque[str]:
    last: deque[str] = deque(maxlen=_LAST_LINES)
    done, total, damaged = 0, None, 0
    remove(log)  # whatever it is
    with log.open("w") as file:
        for line in lines:
            print(line, file=file)
            last.append(line)
            if line.startswith(DAMAGED_MARK):
                damaged += 1
            elif line.startswith("go version go"):
                if damaged:
                    progress.say(
                        f"{damaged} entries of Go's build cache are damaged, compiling them again"
                    )
                _check_go(line, patched)
            elif counted := _COUNTED.fullmatch(line):
                total = int(counted[1])
            elif " " not in line and ":" not in line:
                done += 1
                progress.advance(f"compile {arch}", done, total)
                if line == _MAIN:
                    progress.advance(f"link {arch}", 0, None)
            else:
                progress.detail(line)
    return last


def _check_go(line: str, patched: PatchedTree) -> None:
    actual = line.split()[2].removeprefix("go")
    toolchain = patched.toolchain
    if actual != toolchain.go_version:
        where = toolchain.image or str(toolchain.go_root)
        raise WrongGo(where=where, actual=actual, expected=toolchain.go_version)


def _failure(last: deque[str], arch: str, code: int, log: Path) -> Exception:
    text = "\n".join(last)
    if "signal: killed" in text or code == 137:  # noqa: PLR2004  # 128 + SIGKILL
        return OutOfMemory(arch=arch)
    if "no space left on device" in text:
        return DiskFull(path=log.parent.parent)
    return CompileFailed(arch=arch, code=code, log=log, details=text)
