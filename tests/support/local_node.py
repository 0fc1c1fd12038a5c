"""node.sh in a directory of its own, run by a shell of this machine: a node without ssh."""

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from kbuild.nodes.connection import CallFailed
from kbuild.nodes.model import Call, Host, call

KUBEADM = "#!/bin/sh\necho v1.20.2\n"


@dataclass(slots=True)
class LocalNode:
    """A node below ``root``, whose programs in ``bin`` come first; it is a Connection, too.

    ``before`` is called with each function, and may raise what a connection raises.
    """

    root: Path
    shell: tuple[str, ...] = ("sh",)
    name: str = "n1"
    before: Callable[[Call], None] = field(default=lambda _: None)
    called: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for folder in ("bin", "var/lib", "run", "stubs"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0:  # play root
            self.stub("id", '[ "$*" != -u ] || exec echo 0; exec /usr/bin/id "$@"')
            self.stub("chown", '[ "$2" != 0:0 ] || exit 0; exec /bin/chown "$@"')

    @property
    def host(self) -> Host:
        return Host(name=self.name)

    @property
    def kubeadm(self) -> Path:
        return self.root / "bin/kubeadm"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/kbuild"

    @property
    def lock(self) -> Path:
        return self.root / "run/kbuild/lock"

    def put_kubeadm(self, text: str = KUBEADM) -> Path:
        self.kubeadm.write_text(text)
        self.kubeadm.chmod(0o755)
        return self.kubeadm

    def stub(self, name: str, script: str) -> None:
        """Have a program, or another one instead of it."""
        path = self.root / "stubs" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def call(self, function: Call, *, timeout: float = 30) -> str:
        """Run a function as a connection does."""
        self.called.append(function.function)
        self.before(function)
        secret = f"secret={shlex.quote(function.secret)}"
        done = self.run(f"{secret}\n{function}", timeout=timeout)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason"]
            raise CallFailed(lines[-1], done.stdout)
        return done.stdout

    def send(self, content: bytes, path: str, told: Callable[[int, int], None]) -> None:
        """Send a file in two chunks."""
        self.call(call("uploaded", path))
        half = len(content) // 2
        Path(path).write_bytes(content[:half])
        told(half, len(content))
        Path(path).write_bytes(content)
        told(len(content), len(content))

    def close(self) -> None:
        """Do nothing."""

    def run(self, text: str, *, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run shell text after the functions."""
        library = resources.files("kbuild.nodes").joinpath("node.sh").read_text()
        assert "\nroot=\n" in library
        library = library.replace("\nroot=\n", f"\nroot='{self.root}'\n")
        return subprocess.run(
            (*self.shell, "-s", "kbuild_step"),
            input=f"{library}\n{{ {text}; exit; }} </dev/null\n",
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=timeout,
            env={**os.environ, "PATH": f"{self.root}/stubs:{os.environ['PATH']}"},
            check=False,
        )
