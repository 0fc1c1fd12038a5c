"""A node for tests: a real sshd on loopback, in namespaces of its own, with folders of its own.

Nothing of it stays: the kernel ends its processes and mounts with the first of them.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# The stubs run before the programs of the same name, and wait or fail if the test wants them to,
# most of them only while a run has the lock.
_STUB = """\
#!/bin/sh
cd /usr/local/sbin
if [ -d /run/kbuild/lock ] || [ {name} = uname ] || [ {name} = ls ]; then
  echo >>calls-{name}
  if [ -e fail-{name} ]; then cat fail-{name} >&2; exit 1; fi
  if [ -e hold-{name} ] && [ "$(/usr/bin/wc -l <calls-{name})" -ge "$(cat hold-{name})" ]; then
    : >held-{name}
    while [ -e hold-{name} ]; do /bin/sleep 0.02; done
  fi
fi
cd - >/dev/null
exec {real} "$@"
"""
_STUBBED = ("cp", "dd", "gzip", "ls", "mv", "sync", "uname", "wc")
_BEGIN = """\
set -e
mount -t tmpfs -o {run_options} run /run
mkdir -p /run/sshd
cp {folder}/user_key.pub /run/sshd/keys
mount --bind {folder}/stubs /usr/local/sbin
mount --bind {folder}/lib /var/lib
mount --bind {folder}/bin /usr/local/bin
mount --bind {folder}/etc/passwd /etc/passwd
{more}
exec /usr/sbin/sshd -D -e -p {port} -f {folder}/sshd_config
"""
_SSHD = """\
ListenAddress 127.0.0.1
ListenAddress ::1
HostKey {folder}/host_key
AuthorizedKeysFile /run/sshd/keys
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
MaxStartups 100
SetEnv PATH={path}
"""


@dataclass(slots=True)
class Node:
    """A node that can be started, and restarted with what is on its disk; ``port`` is of sshd."""

    folder: Path
    port: int
    mounts: str = ""
    run_options: str = "size=64m"
    path: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def bin(self) -> Path:
        """Return what is /usr/local/bin there."""
        return self.folder / "bin"

    @property
    def kubeadm(self) -> Path:
        """Return what is /usr/local/bin/kubeadm there."""
        return self.bin / "kubeadm"

    @property
    def state(self) -> Path:
        """Return what is /var/lib/kbuild there."""
        return self.folder / "lib/kbuild"

    @property
    def options(self) -> tuple[str | Path, ...]:
        """Return the options with which kbuild reaches it by the name n1."""
        files = ("--ssh-config", self.folder / "config", "--known-hosts", self.folder / "known")
        return ("--hosts", "n1", *files, "--path", "/usr/local/bin/kubeadm")

    def start(self) -> None:
        """Start it, with an empty /run."""
        begin = _BEGIN.format(
            folder=self.folder, port=self.port, more=self.mounts, run_options=self.run_options
        )
        where = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                ("unshare", *where, "--propagation", "private", "sh", "-c", begin),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + 10
        while not _answers(self.port):
            if time.monotonic() > until or self.process.poll() is not None:
                raise AssertionError((self.folder / "sshd.log").read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        """End it with all its processes."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def run(self, script: str) -> str:
        """Run a script in its namespaces, and return what it prints."""
        inside = self._inside()
        enter = ("nsenter", "--target", str(inside), "--mount", "--pid", "sh", "-c", script)
        environment = os.environ | {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}  # without stubs
        return subprocess.run(
            enter, capture_output=True, text=True, check=True, env=environment, timeout=30
        ).stdout

    def cut(self) -> None:
        """Kill the processes of sshd that serve connections."""
        kill = "for each in $(pgrep -f '^sshd: .*(root|@notty)'); do kill -9 $each; done"
        self.run(f"{kill}; true")

    def hold(self, program: str, call: int = 1) -> None:
        """Let a program wait before it begins, when a step runs it for so many times from now."""
        (self.folder / "stubs" / f"calls-{program}").unlink(missing_ok=True)
        (self.folder / "stubs" / f"hold-{program}").write_text(str(call))

    def calls(self, program: str) -> int:
        """Return how often steps ran a program since it was last held."""
        calls = self.folder / "stubs" / f"calls-{program}"
        return len(calls.read_text().splitlines()) if calls.exists() else 0

    def is_held(self, program: str, seconds: float = 20) -> None:
        """Wait until a program waits."""
        held = self.folder / "stubs" / f"held-{program}"
        until = time.monotonic() + seconds
        while not held.exists():
            assert time.monotonic() < until, f"{program} was never run"
            time.sleep(0.01)
        held.unlink()

    def let_go(self, program: str) -> None:
        """Let a program go on."""
        (self.folder / "stubs" / f"hold-{program}").unlink(missing_ok=True)

    def fail(self, program: str, message: str = "") -> None:
        """Let a program fail, or work again without a message."""
        path = self.folder / "stubs" / f"fail-{program}"
        if message:
            path.write_text(f"{message}\n")
        else:
            path.unlink(missing_ok=True)

    def _inside(self) -> int:
        """Return the first process in its namespaces."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])


@contextlib.contextmanager
def running_node(
    folder: Path,
    kubeadm: bytes,
    *,
    mounts: str = "",
    run_options: str = "size=64m",
    shell: str = "/bin/sh",
) -> Iterator[Node]:
    """Run a node that has a kubeadm; ``mounts`` are commands that its file systems need."""
    node = Node(folder=folder, port=free_port(), mounts=mounts, run_options=run_options)
    for name in ("bin", "lib", "etc", "stubs"):
        (folder / name).mkdir(parents=True)
    _write_stubs(folder / "stubs")
    node.path = "/usr/local/sbin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    (folder / "etc/passwd").write_text(
        f"root:x:0:0:root:/root:{shell}\n"
        "somebody:x:1000:1000::/tmp:/bin/sh\nsshd:x:100:65534::/:/bin/false\n"
    )
    for key in ("host_key", "user_key"):
        new_key(folder / key)
    (folder / "sshd_config").write_text(_SSHD.format(folder=folder, path=node.path))
    (folder / "config").write_text(
        f"Host n1\n  HostName 127.0.0.1\n  Port {node.port}\n  User root\n"
        f"  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n"
    )
    _know(node, folder / "known")
    node.kubeadm.write_bytes(kubeadm)
    node.kubeadm.chmod(0o755)
    try:
        node.start()
        yield node
    finally:
        node.stop()


def _write_stubs(folder: Path) -> None:
    for name in _STUBBED:
        real = shutil.which(name, path="/usr/bin:/bin")
        (folder / name).write_text(_STUB.format(name=name, real=real))
        (folder / name).chmod(0o755)


def _know(node: Node, known: Path) -> None:
    kind, key, *_ = (node.folder / "host_key.pub").read_text().split()
    known.write_text("".join(f"[{a}]:{node.port} {kind} {key}\n" for a in ("127.0.0.1", "::1")))


def new_key(path: Path) -> None:
    """Make a pair of ssh keys."""
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path), check=True)


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as s:
        return s.recv(4) == b"SSH-"
    return False
