"""`kbuild nodes` as a user who becomes root with a real sudo that asks for a password."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kbuild.nodes.connection import CHUNK, prepare
from tests.support.command import Done, clean_environment, run_here
from tests.support.node import Node, running_node
from tests.support.runnable import make_runnable_release

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
]
BINARY = "kubeadm-linux-amd64"
PASSWORD = "s3 c$r'%t\"x; id"
PLAIN = "s3cret-which-no-shell-quotes"
SUDOERS = """\
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Defaults logfile=/run/sudo.log, loglinelen=0
Defaults !mail_always, !mail_badpass
Defaults {defaults}
root ALL=(ALL:ALL) ALL
somebody ALL=(ALL:ALL) ALL
"""
MOUNTS = """\
mkdir -p /run/up /run/work
cp /etc/passwd /run/up/passwd
cp {folder}/shadow {folder}/sudoers /run/up
chmod 440 /run/up/sudoers /run/up/shadow
mount -t overlay -o lowerdir=/etc,upperdir=/run/up,workdir=/run/work over /etc
"""
ASKS_AGAIN = "timestamp_timeout=0"
ASKS_ONCE = "timestamp_type=global, timestamp_timeout=15"
Kbuild = Callable[..., Done]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    prepare()
    folder = tmp_path_factory.mktemp("releases")
    old = make_runnable_release(folder / "work-old", folder / "old", seed=1)
    new = make_runnable_release(folder / "work-new", folder / "new", seed=2, padding=CHUNK + 1000)
    return old, new


@contextmanager
def node_with_sudo(
    folder: Path, release: Path, defaults: str, password: str = PASSWORD
) -> Iterator[Node]:
    folder.mkdir()
    words = ("openssl", "passwd", "-6", "-stdin")
    made = subprocess.run(words, input=password, capture_output=True, text=True, check=True)
    (folder / "shadow").write_text(
        f"root:*:1::::::\nsomebody:{made.stdout.strip()}:1::::::\nsshd:*:1::::::\n"
    )
    (folder / "sudoers").write_text(SUDOERS.format(defaults=defaults))
    mounts, old = MOUNTS.format(folder=folder), (release / BINARY).read_bytes()
    with running_node(folder, old, mounts=mounts) as node:
        yield node


@pytest.fixture(params=[ASKS_AGAIN, ASKS_ONCE], ids=["asks again", "asks once"])
def node(
    request: pytest.FixtureRequest, tmp_path: Path, releases: tuple[Path, Path]
) -> Iterator[Node]:
    with node_with_sudo(tmp_path / "node", releases[0], request.param) as made:
        yield made


@pytest.fixture
def strict(tmp_path: Path, releases: tuple[Path, Path]) -> Iterator[Node]:
    with node_with_sudo(tmp_path / "node", releases[0], ASKS_AGAIN) as made:
        yield made


@pytest.fixture
def kbuild(tmp_path: Path) -> Kbuild:
    def run(*words: object, password: str = PASSWORD) -> Done:
        return run_here("nodes", *words, cwd=tmp_path, HOME=str(tmp_path), SUDO_PASSWORD=password)

    return run


def options(node: Node) -> tuple[str | Path, ...]:
    return (*node.options, "--user", "somebody")


def with_sudo(node: Node) -> tuple[str | Path, ...]:
    return (*options(node), "--sudo")


def state(done: Done) -> str:
    return str(json.loads(done.stdout)["hosts"][0]["state"])


def has(node: Node, release: Path) -> bool:
    return node.kubeadm.read_bytes() == (release / BINARY).read_bytes()


def test_a_kubeadm_is_installed_checked_and_comes_back(
    node: Node, releases: tuple[Path, Path], kbuild: Kbuild
) -> None:
    old, new = releases
    install = ("install", new, *with_sudo(node), "--yes", "--json")
    done = kbuild(*install)
    assert (done.returncode, state(done)) == (0, "changed"), done.stderr
    assert has(node, new)
    assert state(kbuild(*install)) == "unchanged"
    checked = kbuild("check", *with_sudo(node), "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["hosts"][0]["kubeadm"]["version"] == "v1.20.2"
    done = kbuild("rollback", *with_sudo(node), "--yes", "--json")
    assert (done.returncode, state(done)) == (0, "changed"), done.stderr
    assert has(node, old)


def test_a_password_is_asked_on_the_terminal(
    strict: Node, releases: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ("install", releases[1], *options(strict), "--ask-sudo-password", "--yes")
    code, shown = typed(PASSWORD, *words, HOME=str(tmp_path))
    assert code == 0, shown
    assert has(strict, releases[1])
    assert PASSWORD not in shown


def test_a_wrong_password_is_tried_once(
    strict: Node, releases: tuple[Path, Path], kbuild: Kbuild
) -> None:
    words = ("install", releases[1], *with_sudo(strict), "--yes")
    done = kbuild(*words, password="an0ther one")
    assert done.returncode == 100
    assert "n1: sudo does not accept the password" in done.stderr
    assert "an0ther one" not in done.stdout + done.stderr
    assert has(strict, releases[0])
    assert not strict.state.exists()
    log = strict.run("cat /run/sudo.log")
    assert re.findall(r"(\d+) incorrect password attempt", log) == ["1"]
    done = kbuild(*words, password="")
    assert done.returncode == 100
    assert "n1: sudo: a password is required" in done.stderr
    assert "--ask-sudo-password" in done.stderr


def test_a_user_whom_sudo_does_not_know(
    strict: Node, releases: tuple[Path, Path], kbuild: Kbuild
) -> None:
    strict.run("chmod 640 /etc/sudoers; sed -i /^somebody/d /etc/sudoers")
    done = kbuild("install", releases[1], *with_sudo(strict), "--yes")
    assert done.returncode == 100
    assert "somebody is not in the sudoers file" in done.stderr
    assert has(strict, releases[0])


def test_a_sudo_that_requires_a_terminal(
    releases: tuple[Path, Path], kbuild: Kbuild, tmp_path: Path
) -> None:
    with node_with_sudo(tmp_path / "node", releases[0], "requiretty") as node:
        done = kbuild("install", releases[1], *with_sudo(node), "--yes")
        assert has(node, releases[0])
    assert done.returncode == 100
    assert "sorry, you must have a tty" in done.stderr
    assert "`Defaults:USER !requiretty` in sudoers" in done.stderr


def test_the_password_is_nowhere(releases: tuple[Path, Path], tmp_path: Path) -> None:
    folder, seen = tmp_path / "node", list[str]()
    with node_with_sudo(folder, releases[0], ASKS_AGAIN, PLAIN) as node:
        node.hold("mv", 2)

        def look() -> None:
            node.is_held("mv")
            seen.append(node.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '"))
            node.let_go("mv")

        words = ("install", releases[1], *options(node), "--ask-sudo-password", "--yes")
        code, shown = typed(PLAIN, *words, meanwhile=look, HOME=str(tmp_path))
        assert code == 0, shown
        places = f"/run /var/lib {folder}/sshd.log {tmp_path}/.local {tmp_path}/.cache"
        found = node.run(f"grep -rlF -e {PLAIN} {places}; true")
        commands, journal = node.run("cat /run/sudo.log"), node.run("cat /var/lib/kbuild/runs/*")
    assert PLAIN not in seen[0] + shown
    assert found == ""
    assert "SUDO_USER=somebody" in seen[0]  # it would be in one of these
    assert all("kbuild_step" in each for each in (seen[0], commands))
    assert "replace done" in journal


def typed(
    password: str,
    *words: object,
    meanwhile: Callable[[], None] = lambda: None,
    **environment: str,
) -> tuple[int, str]:
    """Run kbuild nodes on a terminal of its own, and type a password when it asks."""
    command = [sys.executable, "-c", "from kbuild.cli.main import main; main()", "nodes"]
    command += map(str, words)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, clean_environment(TERM="dumb", **environment))
    try:
        shown = _until(terminal, rb"password of sudo[^\n]*: ")
        os.write(terminal, f"{password}\n".encode())
        meanwhile()
        shown += _until(terminal, None)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), shown.decode()


def _until(terminal: int, pattern: bytes | None) -> bytes:
    shown = b""
    while pattern is None or not re.search(pattern, shown):
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # Linux: nobody has the other end open any more
            piece = b""
        if not piece:
            assert pattern is None, shown
            break
        shown += piece
    return shown
