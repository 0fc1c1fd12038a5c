"""Connections to hosts, which pyinfra makes: run functions of node.sh, and send files."""

import base64
import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from kbuild.nodes.errors import NodesExtraMissing
from kbuild.nodes.model import Call, Host

if TYPE_CHECKING:
    from pyinfra.api.host import Host as PyinfraHost

CHUNK = 4 << 20  # bytes of a file that are sent at once: a cut connection loses no more
# In seconds. CONNECT is for each host; STEP is for a function that does not wait for anything.
CONNECT, STEP = 20, 300
_TRIES = 3
_APPEND = 'set -u; umask 077; [ "$(wc -c <"$1")" -eq "$2" ] || exit 9; base64 -d >>"$1"'


class ConnectionFailed(Exception):
    """A host cannot be reached, or no longer; its text says why."""


class CallFailed(Exception):
    """A function of node.sh failed; its text is the reason, ``output`` what it printed before."""

    def __init__(self, reason: str, output: str) -> None:
        super().__init__(reason)
        self.output = output


@dataclass(slots=True, kw_only=True)
class Connection:
    """A connection to one host, which is made again if it is lost."""

    host: Host
    _peer: "PyinfraHost"
    _open: bool = field(default=False)

    def call(self, function: Call, *, timeout: float = STEP) -> str:
        """Run a function of node.sh; raises CallFailed or ConnectionFailed."""
        text = f"{_library()}\n{{ {function}; exit; }} </dev/null\n"
        return self._run(["sh", "-s", "kbuild_step"], text, timeout)

    def send(self, content: bytes, path: str, told: Callable[[int, int], None]) -> None:
        """Send a file; what has arrived before a connection was cut is not sent again."""
        size = self._size(path)
        if size > len(content):  # of something else
            self.call(Call(function="forget", arguments=(path,)))
            size = self._size(path)
        while size < len(content):
            chunk = base64.b64encode(content[size : size + CHUNK]).decode()
            with contextlib.suppress(ConnectionFailed):  # how much arrived is asked next
                self._run(["sh", "-c", _APPEND, "kbuild", path, str(size)], chunk, STEP)
            before, size = size, self._size(path)
            if size <= before:
                message = f"{path} does not grow: no space?"
                raise CallFailed(message, "")
            told(size, len(content))

    def close(self) -> None:
        """End the connection."""
        if self._open:
            self._open = False
            with contextlib.suppress(Exception):  # it may be cut already
                self._peer.disconnect()

    def _size(self, path: str) -> int:
        values = values_of(self.call(Call(function="uploaded", arguments=(path,))))
        return int(values["size"][0])

    def _run(self, command: Sequence[str], text: str, timeout: float) -> str:
        for tried in range(1, _TRIES + 1):
            try:
                self._connect()
                return self._run_once(command, text, timeout)
            except ConnectionFailed:
                self.close()
                if tried == _TRIES:
                    raise
                time.sleep(2 * tried)
        raise AssertionError

    def _connect(self) -> None:
        from pyinfra.api.exceptions import ConnectError

        if self._open:
            return
        try:
            self._peer.connect(raise_exceptions=True, show_errors=False)
        except ConnectError as error:
            raise ConnectionFailed(str(error)) from error
        transport = getattr(getattr(self._peer.connector, "client", None), "get_transport", None)
        if transport and transport():
            transport().set_keepalive(5)
        self._open = True

    def _run_once(self, command: Sequence[str], text: str, timeout: float) -> str:
        from paramiko import SSHException
        from pyinfra.api.command import StringCommand

        try:
            is_good, output = self._peer.run_shell_command(
                StringCommand(shlex.join(command)),
                _sudo=self.host.sudo,
                _stdin=text,
                _timeout=timeout,
            )
        except (SSHException, OSError, EOFError) as error:
            raise ConnectionFailed(str(error) or "the connection was cut") from error
        except UnicodeDecodeError as error:
            message = "it printed something that is not text"
            raise CallFailed(message, "") from error
        if is_good:
            return output.stdout
        lines = [line for line in output.stderr_lines if line.strip()]
        if not lines and not output.stdout:
            message = "the connection was cut"
            raise ConnectionFailed(message)
        raise CallFailed(lines[-1] if lines else "it failed without a reason", output.stdout)


@contextlib.contextmanager
def connections(hosts: Sequence[Host]) -> Iterator[dict[str, Connection]]:
    """Give a connection for each host, by its name; each is made when it is first used."""
    prepare()
    from pyinfra.api.config import Config
    from pyinfra.api.inventory import Inventory
    from pyinfra.api.state import State

    inventory = Inventory(([(host.name, dict(host.data)) for host in hosts], {}))
    State(inventory, Config(CONNECT_TIMEOUT=CONNECT))
    made = {host.name: Connection(host=host, _peer=inventory.get_host(host.name)) for host in hosts}
    try:
        yield made
    finally:
        for each in made.values():
            each.close()


@cache
def prepare() -> None:
    """Make Python's waiting cooperative, as pyinfra needs it; raises NodesExtraMissing."""
    try:
        import gevent.monkey
        import pyinfra  # noqa: F401
    except ImportError as error:
        raise NodesExtraMissing(library="pyinfra") from error
    # subprocess and signal stay as they are: nothing here waits for processes.
    gevent.monkey.patch_all(subprocess=False, signal=False)


def values_of(output: str) -> dict[str, list[str]]:
    """Return the ``name=value`` lines of a function, the values of each name in their order."""
    values: dict[str, list[str]] = {}
    for line in output.splitlines():
        name, equals, value = line.partition("=")
        if equals and name.isidentifier():
            values.setdefault(name, []).append(value.strip())
    return values


@cache
def _library() -> str:
    return resources.files("kbuild.nodes").joinpath("node.sh").read_text()
