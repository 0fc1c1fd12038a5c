"""Give sudo its password: over the channel, when sudo asks for it, and in no other way.

It is never in a command, a file or the environment of the node. What follows on the channel is sent
only once the program runs, so that a sudo which asks for nothing cannot pass the password on to it.
"""

import secrets
import shlex
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paramiko import Channel

_PAUSE = 0.01
_PATIENCE = 30  # seconds that sudo may take, besides the time that a lock of PAM takes
_MOST = 1 << 20  # bytes that sudo and what runs before it may print


class NotUnlocked(Exception):
    """sudo did not run a program; its text says why."""


@dataclass(frozen=True, slots=True)
class Sudo:
    """One use of sudo."""

    password: str = field(repr=False)
    _token: str = field(default_factory=lambda: secrets.token_hex(8))

    def command(self, command: str) -> str:
        """Return the shell command that runs another one as root."""
        begun = f"echo {self._begun}; exec {command}"
        return shlex.join(["sudo", "-H", "-S", "-p", self._prompt, "sh", "-c", begun])

    def unlock(self, channel: "Channel") -> tuple[bytes, bytes]:
        """Wait until the program runs; return what it printed meanwhile.

        Raises NotUnlocked.
        """
        output, errors, is_told = b"", b"", False
        prompt, begun = self._prompt.encode(), f"{self._begun}\n".encode()
        until = time.monotonic() + _PATIENCE
        while begun not in output:
            has_ended = channel.exit_status_ready()
            if channel.recv_ready():
                output += channel.recv(1 << 16)
            elif channel.recv_stderr_ready():
                errors += channel.recv_stderr(1 << 16)
            elif has_ended or time.monotonic() > until or len(output + errors) > _MOST:
                raise NotUnlocked(_why(errors, prompt, is_told=is_told))
            else:
                time.sleep(_PAUSE)
            if prompt in errors and not is_told:
                channel.sendall(f"{self.password}\n".encode())
                errors, is_told = errors.partition(prompt)[2], True
            elif prompt in errors:  # once is enough: more would lock the account
                message = "sudo does not accept the password"
                raise NotUnlocked(message)
        return output.partition(begun)[2], errors

    @property
    def _prompt(self) -> str:
        return f"kbuild-asks-{self._token}"

    @property
    def _begun(self) -> str:
        return f"kbuild-has-begun-{self._token}"


def _why(errors: bytes, prompt: bytes, *, is_told: bool) -> str:
    text = errors.replace(prompt, b"").decode(errors="backslashreplace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "it says nothing"
    return f"sudo {'does not run a program' if is_told else 'did not ask for the password'}: {last}"
