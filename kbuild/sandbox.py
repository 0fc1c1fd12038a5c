"""Run a program with a root, a network and processes of its own, by Linux namespaces.

``unshare`` of util-linux gives them: without root through a user namespace. The root is a tmpfs
that lives as long as the program; what is bound into it is all that it can see. There is no
network, not even loopback.
"""

import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from kbuild.errors import SandboxUnavailable

SYSTEM = ("bin", "lib", "lib32", "lib64", "sbin")
SYSTEM_USR = ("usr/bin", "usr/lib", "usr/lib32", "usr/lib64", "usr/sbin", "usr/share")
_ARCHES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
_DEVICES = ("null", "zero", "random", "urandom")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A file or folder of the host at a place in the sandbox."""

    source: Path
    target: PurePosixPath
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """A folder of the sandbox's own memory, read-only once it is made.

    It holds what is in ``tar``, if that is given, and over it what is in ``folder``.
    """

    tar: Path | None
    folder: Path
    target: PurePosixPath


def is_available() -> bool:
    """Tell whether this machine gives namespaces to this user."""
    return _unshare() is not None


def host_arch() -> str:
    """Return this machine's architecture in Go's words."""
    machine = platform.machine()
    return _ARCHES.get(machine, machine)


def popen(
    argv: Sequence[str],
    *,
    root: Path,
    binds: Iterable[Bind],
    environment: Mapping[str, str],
    purpose: str,
    layers: Layers | None = None,
    merge: bool = True,
) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a sandbox whose root is mounted on the empty folder ``root``.

    Standard output and error come as one pipe, or as two without ``merge``. The program dies with
    kbuild, even by kill -9. Raises SandboxUnavailable, naming the ``purpose``.
    """
    unshare = _unshare()
    if unshare is None:
        raise SandboxUnavailable(purpose=purpose)
    root.mkdir(parents=True, exist_ok=True)
    script = _mount_script(root, binds)
    if layers is not None:
        script += _layers_script(root, layers)
    script += f"exec chroot {shlex.quote(str(root))} " + '"$@"'
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *unshare, "sh", "-euc", script, "sh", *argv],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merge else subprocess.PIPE,
        start_new_session=True,
    )


def system_binds() -> list[Bind]:
    """Return the host's programs and libraries, for programs that need more than themselves."""
    names = [*SYSTEM, *SYSTEM_USR]
    return [
        Bind(source=Path("/", name).resolve(), target=PurePosixPath("/", name))
        for name in names
        if Path("/", name).is_dir()
    ]


def _mount_script(root: Path, binds: Iterable[Bind]) -> str:
    at = shlex.quote(str(root))
    lines = [
        f"mount -t tmpfs -o mode=755 kbuild {at}",
        f"mkdir -m 1777 {at}/tmp",
        f"mkdir {at}/proc {at}/dev",
        f"mount -t proc proc {at}/proc 2>/dev/null || mount --rbind /proc {at}/proc",
    ]
    for device in _DEVICES:
        lines.append(f": > {at}/dev/{device}; mount --bind /dev/{device} {at}/dev/{device}")
    for bind in binds:
        source = shlex.quote(str(bind.source))
        target = shlex.quote(f"{root}{bind.target}")
        if bind.source.is_dir():
            lines.append(f"mkdir -p {target}")
        else:
            lines.append(f"mkdir -p {shlex.quote(f'{root}{bind.target.parent}')}; : > {target}")
        lines.append(f"mount --bind {source} {target}")
        if not bind.writable:
            lines.append(f"mount -o remount,bind,ro {target}")
    return "\n".join(lines) + "\n"


def _layers_script(root: Path, layers: Layers) -> str:
    target = shlex.quote(f"{root}{layers.target}")
    lines = [f"mkdir -p {target}", f"mount -t tmpfs -o mode=755 kbuild {target}"]
    if layers.tar is not None:
        lines.append(f"tar -xf {shlex.quote(str(layers.tar))} --no-same-owner -C {target}")
    lines.append(f"cp -RP {shlex.quote(str(layers.folder))}/. {target}")
    lines.append(f"mount -o remount,ro {target}")
    return "\n".join(lines) + "\n"


@cache
def _unshare() -> tuple[str, ...] | None:
    namespaces = ("--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child")
    ways: list[tuple[str, ...]] = [("unshare", "--user", "--map-root-user", *namespaces)]
    if os.geteuid() == 0:
        ways.append(("unshare", *namespaces))
    for way in ways:
        try:
            done = subprocess.run(
                ["setpriv", "--pdeathsig", "KILL", *way, "mount", "-t", "tmpfs", "kbuild", "/mnt"],
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            return None
        if done.returncode == 0:
            return way
    return None
