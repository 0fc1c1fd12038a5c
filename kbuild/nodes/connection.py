"""Connections to hosts, which pyinfra makes: run functions of node.sh, and send files.

pyinfra runs commands with gevent, which replaces Python's threads and sockets everywhere, and asks
for a password of sudo on the terminal whenever a host prints that it needs one. So only its
connections are used, with threads, and commands are run on them here.
"""

import contextlib
import logging
import secrets
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from kbuild.nodes.errors import NodesExtraMissing
from kbuild.nodes.jump import Jump
from kbuild.nodes.model import Call, Host
from kbuild.nodes.reasons import why_lost
from kbuild.nodes.sudo import NotUnlocked, Sudo

if TYPE_CHECKING:
    import socket

    from paramiko import Channel, SSHConfigDict, Transport
    from pyinfra.api.host import Host as PyinfraHost
    from pyinfra.connectors.sshuserclient.config import SSHConfig

CHUNK = 4 << 20  # bytes of a file that are sent at once: a cut connection loses no more
# In seconds. CONNECT is for each host; STEP is for a function that does not wait for anything.
CONNECT, STEP = 20, 300
_PIECE = 1 << 16  # bytes that are given to ssh at once
_MOST = 16 << 20  # bytes that a function may print
_PROHIBITED = 1  # SSH_OPEN_ADMINISTRATIVELY_PROHIBITED, RFC 4254 section 5.1
_NOT_RUN = (
    "what kbuild sent did not run as a whole: does ~/.bashrc, or another file of the login shell,"
    " end it or read standard input?"
)
_PAUSES = (1, 2, 4)  # seconds before a lost connection is made again


class ConnectionFailed(Exception):
    """A host cannot be reached, or no longer; its text says why."""


class TimedOut(ConnectionFailed):
    """A function has not ended in time, and may still be going on there."""


class PortClosed(Exception):
    """Nothing answers on a port of a host, or it must not be asked; its text says why."""


class CallFailed(Exception):
    """A function of node.sh failed; its text is the reason, ``output`` what it printed before."""

    def __init__(self, reason: str, output: str) -> None:
        super().__init__(reason)
        self.output = output


@dataclass(slots=True, kw_only=True)
class Connection:
    """A connection to one host, which is made again if it is lost. One thread uses it at a time."""

    host: Host
    _peer: "PyinfraHost"
    _open: bool = field(default=False)
    _was_open: bool = field(default=False)

    def call(self, function: Call, *, timeout: float = STEP) -> str:
        """Run a function of node.sh or its library, again if the connection is lost meanwhile.

        Raises CallFailed or ConnectionFailed.
        """
        return self._run(lambda: self._call(function, timeout))

    def send(self, content: bytes, path: str, told: Callable[[int, int], None]) -> None:
        """Send a file; what has arrived before a connection was cut is not sent again."""
        values = values_of(self.call(Call(function="uploaded", arguments=(path,))))
        size = int(values["size"][0])
        if size > len(content):  # of something else
            self.call(Call(function="forget", arguments=(path,)))
            size = 0
        # Whole chunks, so that a sender that was cut off can only write what is written anyway.
        number = size // CHUNK if size < len(content) else -(-size // CHUNK)
        while number * CHUNK < len(content):
            chunk = content[number * CHUNK : (number + 1) * CHUNK]
            self._run(lambda chunk=chunk, at=number: self._write(path, at, chunk))  # type: ignore[misc]
            number += 1
            told(min(number * CHUNK, len(content)), len(content))

    def open_port(
        self, address: str, port: int, timeout: float = CONNECT
    ) -> "Channel | socket.socket":
        """Connect to a port as the host itself does, or if it forwards nothing, to its address.

        Raises PortClosed or ConnectionFailed.
        """
        from paramiko import ChannelException, SSHException

        if self._is_here:
            return _open_directly(address, port, timeout)
        if self._open and not self._transport().is_active():
            self.close()  # it was cut since it was used last
        self._connect()
        transport = self._transport()
        try:
            return transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout
            )
        except ChannelException as error:
            if error.code != _PROHIBITED:
                raise PortClosed(error.text or "nothing answers") from error
        except (SSHException, OSError, EOFError) as error:
            raise ConnectionFailed(why_lost(error)) from error
        address = transport.getpeername()[0]
        try:
            return _open_directly(address, port, timeout)
        except PortClosed as error:
            message = f"its sshd does not forward ports, and {address}:{port} gives: {error}"
            raise PortClosed(message) from error

    def close(self) -> None:
        """End the connection."""
        client = getattr(self._peer.connector, "client", None)
        with contextlib.suppress(Exception):  # it may be cut already
            if self._open:
                self._peer.disconnect()
        self._open = False
        with contextlib.suppress(Exception):
            if client is not None:  # which pyinfra leaves open
                client.close()
        if self._jump is not None:
            self._jump.close()

    @property
    def _jump(self) -> Jump | None:
        jump = self.host.data.get("ssh_paramiko_connect_kwargs")
        return jump if isinstance(jump, Jump) else None

    def _write(self, path: str, number: int, chunk: bytes) -> str:
        """Write one chunk of a file at its place; the program reads it from standard input."""
        mark, prologue = _mark()
        program = f"{prologue}{_WRITE}"
        command = ["sh", "-c", program, "kbuild", path, str(CHUNK), str(number)]
        return self._run_once(command, chunk, mark, STEP)

    def _call(self, function: Call, timeout: float) -> str:
        mark, prologue = _mark()
        libraries = "\n".join(_library(name) for name in ("node.sh", function.library) if name)
        secret = f"secret={shlex.quote(function.secret)}"
        text = f"{prologue}\n{libraries}\n{secret}\n{{ {function}; exit; }} </dev/null\n"
        return self._run_once(["sh", "-s", "kbuild_step"], text.encode(), mark, timeout)

    def _run(self, do: Callable[[], str]) -> str:
        for pause in (*_PAUSES, None):
            try:
                self._connect()
            except ConnectionFailed:
                self.close()
                if pause is None or not self._was_open:
                    raise
                time.sleep(pause)
                continue
            try:
                return do()
            except TimedOut:
                self.close()
                raise
            except ConnectionFailed:
                self.close()
                if pause is None:
                    raise
        raise AssertionError

    def _connect(self) -> None:
        from pyinfra.api.exceptions import PyinfraError

        if self._open or self._is_here:
            return
        try:
            self._peer.connect(raise_exceptions=True, show_errors=False)
        except (PyinfraError, OSError, EOFError, ValueError, LookupError) as error:
            reason = self._jump.reason() if self._jump else ""
            raise ConnectionFailed(reason or _why_not_made(error)) from error
        client = getattr(self._peer.connector, "client", None)
        transport = client.get_transport() if client is not None else None
        if transport is None:
            self._peer.disconnect()
            message = "the connection was cut"
            raise ConnectionFailed(message)
        transport.set_keepalive(5)
        self._open = self._was_open = True

    def _run_once(self, command: Sequence[str], text: bytes, mark: str, timeout: float) -> str:
        from paramiko import SSHException

        try:
            code, output, reason = self._execute(self._as_root(shlex.join(command)), text, timeout)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            message = f"it did not end within {round(timeout)} seconds"
            raise TimedOut(message) from error
        except (SSHException, OSError, EOFError) as error:
            raise ConnectionFailed(why_lost(error)) from error
        if code == -1:
            message = "the connection was cut"
            raise ConnectionFailed(message)
        # What a login shell prints before is no answer.
        _, is_answer, answer = output.partition(f"{mark}\n")
        if code == 0 and is_answer:
            return answer
        why = _NOT_RUN if code == 0 else _reason(reason, output, mark)
        raise CallFailed(why, answer)

    def _execute(self, command: str, text: bytes, timeout: float) -> tuple[int, str, str]:
        if self._is_here:
            return _execute_here(command, text, timeout)
        with contextlib.closing(self._channel()) as channel:
            before = b"", b""
            if self._gives_password:
                sudo = Sudo(self.host.sudo_password)
                channel.exec_command(sudo.command(command))
                before = _unlocked(sudo, channel)
            else:
                channel.exec_command(command)
            code, *printed = talk(channel, text, time.monotonic() + timeout)
            output, reason = (
                early.decode(errors="backslashreplace") + late
                for early, late in zip(before, printed, strict=True)
            )
            return code, output, reason

    @property
    def _gives_password(self) -> bool:
        return self.host.sudo and bool(self.host.sudo_password) and not self._is_here

    @property
    def _is_here(self) -> bool:
        """Tell whether the host is this machine, which is not reached with ssh."""
        return not hasattr(self._peer.connector, "client")

    def _transport(self) -> "Transport":
        return self._peer.connector.client.get_transport()  # type: ignore[attr-defined,no-any-return]

    def _channel(self) -> "Channel":
        transport = self._transport()
        if not transport.is_active():
            raise EOFError
        channel: Channel = transport.open_session(timeout=CONNECT)
        return channel

    def _as_root(self, command: str) -> str:
        from pyinfra.api.command import StringCommand
        from pyinfra.connectors.util import make_unix_command

        if self._gives_password or not self.host.sudo:
            return command
        made = make_unix_command(StringCommand(command), _sudo=True)
        return str(made.get_raw_value())


# A sender that was cut off may write the same bytes to the same place at the same time. The lock is
# touched so that other machines see that this run goes on.
_WRITE = (
    "umask 077; touch /run/kbuild/lock 2>/dev/null;"
    ' exec dd of="$1" bs="$2" seek="$3" conv=notrunc status=none'
)


def _mark() -> tuple[str, str]:
    """Return a line that no host can know before, and a program that prints it on both streams."""
    mark = f"kbuild-{secrets.token_hex(8)}"
    return mark, f"echo; echo {mark}; echo >&2; echo {mark} >&2;"


def _unlocked(sudo: Sudo, channel: "Channel") -> tuple[bytes, bytes]:
    try:
        return sudo.unlock(channel)
    except NotUnlocked as error:
        raise CallFailed(str(error), "") from error


def talk(channel: "Channel", text: bytes, until: float) -> tuple[int, str, str]:
    """Send text to a command, and return its exit code, or -1 if it has none, and its output."""
    try:
        # Channel.sendall copies the rest after each packet (paramiko/channel.py, 4.0), which is
        # most of the time for a file.
        for start in range(0, len(text), _PIECE):
            channel.settimeout(_left(until))
            channel.sendall(text[start : start + _PIECE])
    except TimeoutError:
        raise
    except (OSError, EOFError):  # the command has ended without reading it all: its output says why
        pass
    channel.shutdown_write()
    output = _all(channel, channel.recv, until)
    reason = _all(channel, channel.recv_stderr, until)
    if not channel.status_event.wait(_left(until)):
        raise TimeoutError
    return channel.exit_status, output, reason


def _execute_here(command: str, text: bytes, timeout: float) -> tuple[int, str, str]:
    # In a session of its own, so that Ctrl-C does not end a step half way.
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        input=text,
        capture_output=True,
        timeout=timeout,
        check=False,
        start_new_session=True,
    )
    output, errors = (each.decode(errors="backslashreplace") for each in (done.stdout, done.stderr))
    return done.returncode, output, errors


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.1)


def _all(channel: "Channel", receive: Callable[[int], bytes], until: float) -> str:
    content = bytearray()
    while True:
        channel.settimeout(_left(until))
        piece = receive(1 << 16)
        if not piece:
            return content.decode(errors="backslashreplace")
        content += piece
        if len(content) > _MOST:
            message = f"it printed more than {_MOST >> 20} MiB"
            raise CallFailed(message, "")
        if time.monotonic() > until:
            raise TimeoutError


def _reason(errors: str, output: str, mark: str) -> str:
    """Return the last line that says why a command failed, or why it did not even begin."""
    _, has_begun, after = errors.partition(f"{mark}\n")
    texts = (after,) if has_begun else (errors, output)
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it failed without a reason"


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
    """Make pyinfra ready for threads, silent, and strict; raises NodesExtraMissing."""
    try:
        import pyinfra  # noqa: F401
        from pyinfra.connectors.sshuserclient import client
    except ImportError as error:
        raise NodesExtraMissing(library="pyinfra") from error
    client.HOST_KEYS_LOCK = threading.Lock()  # it is gevent's
    client.SSHConfig = _without_jumps()  # type: ignore[attr-defined]
    for name in ("pyinfra", "paramiko"):  # their messages have tracebacks; our errors say it all
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False


def _without_jumps() -> type["SSHConfig"]:
    """Return a reader of the configuration of ssh that leaves ProxyJump to kbuild."""
    from pyinfra.connectors.sshuserclient.config import SSHConfig

    class WithoutJumps(SSHConfig):
        def lookup(self, hostname: str) -> "SSHConfigDict":
            found = super().lookup(hostname)
            found.pop("proxyjump", None)
            return found

    return WithoutJumps


def values_of(output: str) -> dict[str, list[str]]:
    """Return the ``name=value`` lines of a function, the values of each name in their order."""
    values: dict[str, list[str]] = {}
    for line in output.split("\n"):
        name, equals, value = line.partition("=")
        if equals and name.isidentifier():
            values.setdefault(name, []).append(value.strip())
    return values


def first_of(values: Mapping[str, list[str]], name: str) -> str:
    """Return the first value of a name that a function printed, or an empty text."""
    return next(iter(values.get(name, ())), "")


def _open_directly(address: str, port: int, timeout: float) -> "socket.socket":
    import socket

    try:
        return socket.create_connection((address, port), timeout)
    except OSError as error:
        raise PortClosed(why_lost(error)) from error


def _why_not_made(error: Exception) -> str:
    """Return why a connection could not be made; pyinfra's own words tell of keys and logins."""
    cause = error.__context__
    is_about_network = isinstance(cause, OSError | EOFError) or "banner" in str(cause)
    return why_lost(cause if cause is not None and is_about_network else error)


@cache
def _library(name: str) -> str:
    return resources.files("kbuild.nodes").joinpath(name).read_text()
