"""The password of sudo goes to sudo only, and only if it asks."""

import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kbuild.nodes.model import Host
from kbuild.nodes.sudo import NotUnlocked, Sudo

pytestmark = pytest.mark.slow  # it runs shells

# What a sudo does: it reads the password byte for byte, so that the rest is left for the program.
SUDO = """\
#!/bin/sh
echo "$@" >>{folder}/commands
[ "$1 $2 $3" = "-H -S -p" ] || exit 9
prompt=$4
shift 4
if [ -e {folder}/nopasswd ]; then exec "$@"; fi
for _ in 1 2 3; do
  printf %s "$prompt" >&2
  password=
  while :; do
    byte=$(dd bs=1 count=1 2>/dev/null; echo .)
    byte=${{byte%.}}
    [ -n "$byte" ] || exit 1
    [ "$byte" != "
" ] || break
    password=$password$byte
  done
  [ "$password" != 's3 cr%t"' ] || exec "$@"
  echo tried >>{folder}/tries
  echo "Sorry, try again." >&2
done
exit 1
"""


@dataclass
class Channel:
    """A local program in place of a channel of ssh."""

    command: str
    folder: Path
    sent: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "sudo").write_text(SUDO.format(folder=self.folder))
        (self.folder / "sudo").chmod(0o755)
        self.out, self.err = self.folder / "out", self.folder / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                ["sh", "-c", self.command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env={"PATH": f"{self.folder}:/usr/bin:/bin"},
            )
        self.read = {self.out: 0, self.err: 0}

    def _ready(self, path: Path) -> bool:
        return path.stat().st_size > self.read[path]

    def _take(self, path: Path) -> bytes:
        found = path.read_bytes()[self.read[path] :]
        self.read[path] += len(found)
        return found

    def recv_ready(self) -> bool:
        return self._ready(self.out)

    def recv_stderr_ready(self) -> bool:
        return self._ready(self.err)

    def recv(self, _: int) -> bytes:
        return self._take(self.out)

    def recv_stderr(self, _: int) -> bytes:
        return self._take(self.err)

    def exit_status_ready(self) -> bool:
        return self.process.poll() is not None

    def sendall(self, content: bytes) -> None:
        assert self.process.stdin is not None
        self.sent.append(content)
        self.process.stdin.write(content)
        self.process.stdin.flush()

    def finish(self, content: bytes = b"") -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(content)
        self.process.stdin.close()
        self.process.wait(60)
        return self._take(self.out).decode()


def begun(folder: Path, password: str, command: str = "sh -s kbuild_step") -> tuple[Sudo, Channel]:
    sudo = Sudo(password)
    return sudo, Channel(sudo.command(command), folder)


def test_sudo_gets_its_password_and_the_program_the_rest(tmp_path: Path) -> None:
    sudo, channel = begun(tmp_path, 's3 cr%t"')
    sudo.unlock(channel)  # type: ignore[arg-type]
    assert channel.finish(b"echo one\necho two\n") == "one\ntwo\n"
    commands = (tmp_path / "commands").read_text()
    assert "s3" not in commands
    assert channel.sent == [b's3 cr%t"\n']


def test_a_sudo_that_asks_for_nothing_gets_nothing(tmp_path: Path) -> None:
    (tmp_path / "nopasswd").touch()
    sudo, channel = begun(tmp_path, "x; touch hacked")
    sudo.unlock(channel)  # type: ignore[arg-type]
    assert channel.finish(b"echo one\n") == "one\n"
    assert channel.sent == []


def test_what_the_program_prints_at_once_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "nopasswd").touch()
    sudo, channel = begun(tmp_path, "x", "sh -c 'echo mark; cat'")
    early = sudo.unlock(channel)[0].decode()  # type: ignore[arg-type]
    assert early + channel.finish(b"more") == "mark\nmore"


def test_a_wrong_password_is_given_once(tmp_path: Path) -> None:
    sudo, channel = begun(tmp_path, "wrong")
    with pytest.raises(NotUnlocked, match="sudo does not accept the password"):
        sudo.unlock(channel)  # type: ignore[arg-type]
    channel.finish()
    assert channel.sent == [b"wrong\n"]
    assert (tmp_path / "tries").read_text() == "tried\n"


def test_why_there_is_no_sudo(tmp_path: Path) -> None:
    sudo = Sudo("x")
    command = sudo.command("sh -s").replace("sudo", "echo no such >&2; exit 1; sudo", 1)
    channel = Channel(command, tmp_path)
    with pytest.raises(NotUnlocked, match="did not ask for the password: no such"):
        sudo.unlock(channel)  # type: ignore[arg-type]
    channel.finish()


def test_a_password_is_never_shown() -> None:
    host = Host(name="n1", sudo=True, sudo_password="s3cret")
    sudo = Sudo("s3cret")
    assert "s3cret" not in f"{host!r} {sudo!r} {sudo.command('x')}"
    assert shlex.split(sudo.command("sh -s"))[:4] == ["sudo", "-H", "-S", "-p"]
