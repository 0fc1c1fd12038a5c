"""Real servers on loopback: a container engine, a registry, a git server.

    python -m tests.support.servers COMMAND [ARG...]

runs a command with an engine at hand. One that already answers is used and left alone; else
dockerd is started, and stopped when the command ends.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import docker
import requests
from docker.errors import DockerException

ENGINE_SOCKET = "/var/run/docker.sock"
START_SECONDS = 60
STOP_SECONDS = 30
LOG_LINES = 25

REGISTRY_YML = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class ServerError(Exception):
    """A server did not start."""


@contextlib.contextmanager
def running_engine() -> Iterator[None]:
    """Have an engine that answers, starting dockerd if none does.

    Raises ServerError.
    """
    if engine_answers():
        yield
        return
    if "DOCKER_HOST" in os.environ or os.geteuid() != 0 or shutil.which("dockerd") is None:
        msg = "no container engine answers, and only root can start one (package docker.io)"
        raise ServerError(msg)
    with _served(("dockerd",), engine_answers):
        yield


def engine_answers() -> bool:
    """Tell whether a container engine answers."""
    if "DOCKER_HOST" not in os.environ and not _listens(ENGINE_SOCKET):
        return False  # the SDK would leave its sockets open, which pytest takes for an error
    # With a version given nothing is asked before there is a client to close.
    client = docker.from_env(version="1.41")
    try:
        return client.ping()
    except (DockerException, requests.RequestException):
        return False
    finally:
        client.close()


@contextlib.contextmanager
def running_registry(folder: Path) -> Iterator[str]:
    """Serve an empty registry that keeps everything in ``folder``; give its ``host:port``.

    Engines take plain HTTP from loopback. Raises ServerError.
    """
    port = free_port()
    config = folder / "registry.yml"
    config.write_text(REGISTRY_YML.format(storage=folder / "registry", port=port))

    def ready() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"http://127.0.0.1:{port}/v2/", timeout=5).ok
        return False

    with _served(("docker-registry", "serve", str(config)), ready):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def running_git(folder: Path) -> Iterator[str]:
    """Serve all repositories in ``folder``; give the address that their names are added to.

    Raises ServerError.
    """
    port = free_port()
    git_core = subprocess.run(("git", "--exec-path"), check=True, capture_output=True, text=True)
    # Not `git daemon`: that is a parent which does not pass the signal on.
    command = (f"{git_core.stdout.strip()}/git-daemon", "--listen=127.0.0.1", f"--port={port}")

    def ready() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return True
        return False

    with _served((*command, "--export-all", f"--base-path={folder}", str(folder)), ready):
        yield f"git://127.0.0.1:{port}"


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


@contextlib.contextmanager
def _served(command: Sequence[str], ready: Callable[[], bool]) -> Iterator[None]:
    with (
        tempfile.NamedTemporaryFile(prefix=f"{Path(command[0]).name}-", suffix=".log") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the tests, which then stop it themselves
        ) as process,
    ):
        try:
            _wait(process, ready, Path(log.name))
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            msg = f"{process.args!r} did not start (exit code {process.poll()}):\n{tail}"
            raise ServerError(msg)
        time.sleep(0.2)


def main() -> int:
    """Run the command given with an engine at hand."""
    try:
        with running_engine(), subprocess.Popen(sys.argv[1:]) as process:
            # A terminal's Ctrl-C reaches the command too; it tidies up, then the engine stops.
            signal.signal(signal.SIGINT, lambda *_: None)
            signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
            return process.wait()
    except ServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    sys.exit(main())
