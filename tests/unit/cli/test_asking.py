"""Questions at a terminal: nothing is drawn over them, and they end as everything else does."""

import json
import os
import pty
import select
import signal
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.unit.pki.conftest import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# kbuild with a token; the PIN is asked for before anything else of it is used.
SCRIPT = """\
import pytest
from tests.support.fake_token import FakeToken, insert
insert(pytest.MonkeyPatch(), FakeToken())
from kbuild.cli.main import main
main()
"""
CA = ("--ca-key", "ca=pkcs11:token=kb", "--pkcs11-module", "/usr/lib/fake.so")
PIN = ("pki", "issue", *CA)
SUDO = ("nodes", "check", "--hosts", "192.0.2.1", "--sudo", "--ask-sudo-password")
QUESTIONS: dict[tuple[str, ...], bytes] = {
    PIN: b"PIN of the token kb:",
    SUDO: b"password of sudo on the hosts:",
}


PATIENCE = 100  # seconds, on a machine that is busy


class Terminal:
    """kbuild on a terminal of its own, until it asks."""

    def __init__(self, folder: Path, question: bytes, *words: str) -> None:
        self.shown = b""
        self.out = folder / "stdout"
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.dup2(os.open(self.out, os.O_WRONLY | os.O_CREAT, 0o600), 1)
            environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
            environment.pop("PKCS11_PIN", None)
            os.execve(sys.executable, [sys.executable, "-c", SCRIPT, *words], environment)
        until = time.monotonic() + PATIENCE
        while question not in self.shown and time.monotonic() < until and self.read(1):
            pass
        assert question in self.shown, self.shown

    def read(self, seconds: float) -> bool:
        """Read for some time, and tell whether it may go on."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self.terminal], [], [], left)[0]:
                try:
                    self.shown += os.read(self.terminal, 65536)
                except OSError:  # the other end is closed
                    return False
                return True
        return True

    def end(self, key: bytes) -> tuple[int, str]:
        """Press a key, and return the exit code and standard output."""
        until = time.monotonic() + PATIENCE
        while termios.tcgetattr(self.terminal)[3] & termios.ECHO and time.monotonic() < until:
            time.sleep(0.01)  # what is typed before that is thrown away
        os.write(self.terminal, key)
        while time.monotonic() < until and self.read(1):
            pass
        ended = (0, 0)
        while time.monotonic() < until and not ended[0]:
            ended = os.waitpid(self.pid, os.WNOHANG)
            time.sleep(0.01)
        if not ended[0]:
            os.kill(self.pid, signal.SIGKILL)
            ended = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(ended[1])
        os.close(self.terminal)
        return code, self.out.read_text()


@pytest.mark.parametrize("words", [PIN, SUDO], ids=["pin", "sudo"])
def test_nothing_is_drawn_over_a_question(tmp_path: Path, words: tuple[str, ...]) -> None:
    """The bar of a command comes after a second, see kbuild.cli.console."""
    terminal = Terminal(Recipe(tmp_path).folder, QUESTIONS[words], *words)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        terminal.read(0.2)
    after = terminal.shown.partition(QUESTIONS[words])[2]
    terminal.end(b"\x03")
    assert after.strip() == b""


@pytest.mark.parametrize(
    ("words", "key", "kind", "code"),
    [
        (PIN, b"\x03", "interrupted", 130),
        (SUDO, b"\x03", "interrupted", 130),
        (PIN, b"\x04", "no-pin", 2),
        (SUDO, b"\x04", "no-password", 2),
    ],
)
def test_a_question_without_an_answer_ends_as_everything_else_does(
    tmp_path: Path, words: tuple[str, ...], key: bytes, kind: str, code: int
) -> None:
    terminal = Terminal(Recipe(tmp_path).folder, QUESTIONS[words], *words, "--json")
    ended, out = terminal.end(key)
    assert ended == code, terminal.shown
    assert b"Abort" not in terminal.shown
    assert json.loads(out)["error"]["kind"] == kind
