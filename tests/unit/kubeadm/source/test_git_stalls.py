"""Git sources that stall, that never end, and that would run a program."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kbuild.base import network
from kbuild.base.errors import (
    BadSetting,
    BrokenSource,
    NotEnoughMemory,
    NotKubernetes,
    SourceError,
    SourceUnreachable,
)
from kbuild.base.git import address
from kbuild.base.network import ATTEMPTS, LARGEST
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import Tag
from kbuild.kubeadm.source.fetch import resolve
from kbuild.kubeadm.source.store import fetch_tag
from kbuild.kubeadm.source.tags import list_tags
from tests.support import servers
from tests.support.hostile_servers import (
    Act,
    answer,
    drip,
    flood,
    hostile_server,
    silence,
)
from tests.support.recorder import Recorder
from tests.support.repositories import git, make_repository
from tests.unit.kubeadm.source.conftest import RequestFor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]
STALLED = "it stalled: fewer than 1000 bytes a second for 0.5 s"
COMMIT = "1" * 40
HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n"
REFS = b"003f" + COMMIT.encode() + b" refs/tags/v1.20.2\n0000"


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "stall_timeout", 0.5)


def running(mark: str) -> list[int]:
    """Return the processes whose command line or environment holds the mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            pass
    return found


def wait_for_the_end_of(mark: str) -> None:
    deadline = time.monotonic() + 5
    while left := running(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Mark what this test starts from here on, in its environment."""
    monkeypatch.setenv("TEST_MARK", f"mark-{tmp_path}-")
    return f"mark-{tmp_path}-"


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(silence, id="silent"),
        pytest.param(drip(REFS), id="dripping"),
    ],
)
def test_a_git_server_that_stalls_is_left(act: Act, recorder: Recorder, mark: str) -> None:
    began = time.monotonic()
    with hostile_server(act) as server:
        source = f"git://127.0.0.1:{server.port}/kubernetes"
        with pytest.raises(SourceUnreachable) as caught:
            list_tags(source, recorder)
        assert len(server.visits) == ATTEMPTS
    assert caught.value.details.startswith(STALLED)
    assert "--stall-timeout" in caught.value.details
    assert time.monotonic() - began < 30
    wait_for_the_end_of(mark)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(silence, id="silent"),
        pytest.param(drip(b"X-Header: value\r\n", at_once=HTTP), id="headers"),
        pytest.param(drip(b"0", at_once=HTTP + b"\r\n"), id="body"),
    ],
)
def test_a_web_server_that_stalls_is_left(act: Act, recorder: Recorder, mark: str) -> None:
    began = time.monotonic()
    with hostile_server(act) as server, pytest.raises(SourceUnreachable) as caught:
        list_tags(f"{server.address}/kubernetes", recorder)
    assert caught.value.details.startswith(STALLED)
    assert time.monotonic() - began < 30
    wait_for_the_end_of(mark)


def test_an_ssh_that_hangs_is_killed_with_what_it_started(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    script = tmp_path / "ssh"
    # It reads, and runs programs, again and again: that is no transfer.
    script.write_text("#!/bin/sh\nwhile :; do sleep 0.2; cat /etc/services; done >/dev/null 2>&1\n")
    script.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(script))
    began = time.monotonic()
    with pytest.raises(SourceUnreachable) as caught:
        list_tags("ssh://127.0.0.1/kubernetes", recorder)
    assert caught.value.details.startswith(STALLED)
    assert time.monotonic() - began < 30
    wait_for_the_end_of(mark)


def test_a_fetch_that_stalls_after_its_refs_is_left(
    workspace: Workspace, recorder: Recorder, mark: str
) -> None:
    # Of protocol 2: capabilities, then nothing.
    capabilities = b"000eversion 2\n000cls-refs\n0012fetch=shallow\n0000"

    def act(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(capabilities)
        silence(connection)

    tag = Tag(name="v1.20.2", commit=COMMIT)
    with hostile_server(act) as server, pytest.raises(SourceUnreachable) as caught:
        fetch_tag(
            f"git://127.0.0.1:{server.port}/x", tag, workspace.work / "tree", workspace, recorder
        )
    assert caught.value.details.startswith(STALLED)
    wait_for_the_end_of(mark)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n\0\1\2 rubbish", id="dumb"),
        pytest.param(HTTP + b"\r\n" + b"zzzz rubbish", id="smart"),
        pytest.param(HTTP + b"\r\n" + b"ffff" + b"x" * 65531, id="long line"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", id="to a file"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", id="to nowhere"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", id="no length"),
        pytest.param(b"\0\1\2", id="no HTTP"),
    ],
)
def test_rubbish_of_a_web_server_is_told(
    data: bytes, recorder: Recorder, workspace: Workspace, request_for: RequestFor
) -> None:
    with hostile_server(answer(data)) as server, pytest.raises(SourceError):
        resolve(request_for(f"{server.address}/x"), workspace, recorder)


@pytest.mark.parametrize("data", [b"zzzz", b"0000", b"\xff" * 700, b"0009ERR x", b""], ids=repr)
def test_rubbish_of_a_git_server_is_told(
    data: bytes, recorder: Recorder, workspace: Workspace, request_for: RequestFor
) -> None:
    with hostile_server(answer(data)) as server, pytest.raises(SourceError):
        resolve(request_for(f"git://127.0.0.1:{server.port}/x"), workspace, recorder)


def test_tags_without_end_are_cut_off(recorder: Recorder) -> None:
    with hostile_server(flood(REFS[:-4])) as server, pytest.raises(SourceUnreachable) as caught:
        list_tags(f"git://127.0.0.1:{server.port}/kubernetes", recorder)
    assert caught.value.details == "it sends more data than any repository needs"


def test_a_pack_without_end_is_cut_off(
    workspace: Workspace, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A git that notes the limit that it got, and lowers it to what the test can afford.
    program, real = tmp_path / "bin/git", shutil.which("git")
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nulimit -f >>"{tmp_path}/limits"\nulimit -f 2048\nexec "{real}" "$@"\n'
    )
    program.chmod(0o755)
    folder = tmp_path / "upstream"
    make_repository(folder, ["v1.20.2"])
    (folder / "large").write_bytes(os.urandom(8 << 20))
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "large")
    git(folder, "tag", "-f", "v1.20.2")
    git(folder, "config", "uploadpack.allowFilter", "false")
    tag = Tag(name="v1.20.2", commit=git(folder, "rev-parse", "HEAD"))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(BrokenSource):
        fetch_tag(str(folder), tag, workspace.work / "tree", workspace, recorder)
    assert str(LARGEST // 512) in (tmp_path / "limits").read_text().split()


def test_git_that_is_busy_itself_has_not_stalled(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine a process may get no processor for half a second.
    monkeypatch.setattr(network, "stall_timeout", 2)
    folder = tmp_path / "upstream"
    commits = make_repository(folder, ["v1.20.2"])
    # It computes for several windows and reads nothing, and then lets the real one speak.
    slow = tmp_path / "git-slow"
    slow.write_text(
        "#!/bin/sh\ntrap over=1 USR1\n(sleep 5; kill -USR1 $$) >/dev/null &\n"
        f'while [ -z "$over" ]; do :; done\nexec git upload-pack "{folder}"\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(slow))
    tags = list_tags("ssh://127.0.0.1/kubernetes", recorder)
    assert {tag.name: tag.commit for tag in tags} == commits
    assert recorder.said == []


def test_a_slow_transfer_has_not_stalled(
    workspace: Workspace, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "stall_timeout", 1)
    folder = tmp_path / "upstream"
    commits = make_repository(folder, ["v1.20.2"])
    with servers.running_git(tmp_path) as upstream:
        port = int(upstream.rpartition(":")[2])

        def act(connection: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", port)) as there:
                there.settimeout(0)
                connection.settimeout(0)
                while True:
                    time.sleep(0.1)  # 10,000 bytes a second; all of it takes several seconds
                    for source, target in ((connection, there), (there, connection)):
                        with contextlib.suppress(BlockingIOError):
                            if not (data := source.recv(1000)):
                                return
                            target.sendall(data)

        with hostile_server(act) as server:
            address = f"git://127.0.0.1:{server.port}/upstream"
            tag = Tag(name="v1.20.2", commit=commits["v1.20.2"])
            fetch_tag(address, tag, workspace.work / "tree", workspace, recorder)
    assert recorder.said == []


@pytest.mark.parametrize(
    "line",
    [
        "fatal: Out of memory, malloc failed (tried to allocate 524288 bytes)",
        "fatal: mmap failed: Cannot allocate memory",
        "error: cannot fork() for index-pack: Resource temporarily unavailable",
        "fatal: unable to create async thread: Resource temporarily unavailable",
    ],
)
def test_a_shortage_of_git_is_one_of_ours(
    line: str, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\necho '{line}' >&2\nexit 1\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    with pytest.raises(NotEnoughMemory) as caught:
        list_tags("ssh://127.0.0.1/kubernetes", recorder)
    assert line in caught.value.happened


def test_a_shortage_while_git_is_looked_for_is_no_missing_git(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refuse:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "git":  # as GitPython does it when it cannot start git
                try:
                    raise OSError(errno.ENOMEM, "Cannot allocate memory")
                except OSError as error:
                    raise ImportError from error

    monkeypatch.delitem(sys.modules, "git", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(OSError, match="Cannot allocate memory"):
        list_tags("ssh://127.0.0.1/kubernetes", recorder)


def test_a_shortage_of_the_server_is_its_own(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\necho 'remote: fatal: Out of memory' >&2\nexit 1\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    with pytest.raises(SourceUnreachable):
        list_tags("ssh://127.0.0.1/kubernetes", recorder)


KILLED = """
import sys
sys.path.insert(0, ".")
from kbuild.kubeadm.source.tags import list_tags
from tests.support.recorder import Recorder
list_tags(sys.argv[1], Recorder())
"""


def test_git_dies_with_a_kbuild_that_is_killed(tmp_path: Path, mark: str) -> None:
    script = tmp_path / "ssh"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/runs\nsleep 100\n")
    script.chmod(0o755)
    environment = {**os.environ, "GIT_SSH_COMMAND": str(script)}
    command = [sys.executable, "-c", KILLED, "ssh://127.0.0.1/kubernetes"]
    with subprocess.Popen(command, env=environment) as kbuild:
        deadline = time.monotonic() + 20
        while not (tmp_path / "runs").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kbuild.send_signal(signal.SIGKILL)
    wait_for_the_end_of(mark)


@pytest.mark.parametrize(
    "source",
    [
        "fd::3",
        "ext::sh -c true",
        "testgit::/x",
        "ftp://127.0.0.1/x",
        "rsync://127.0.0.1/x",
        "ssh://-oProxyCommand=true/x",
        "ssh://me@-oProxyCommand=true/x",
        "git://-x/x",
        "-oProxyCommand=true",
        "-oProxyCommand=true:x",
        "--upload-pack=true",
        "--upload-pack=true:x",
    ],
)
def test_a_source_that_would_run_a_program_is_refused(source: str, recorder: Recorder) -> None:
    with pytest.raises(BadSetting) as caught:
        list_tags(source, recorder)
    assert "https, ssh, git, file, http" in caught.value.hint


@pytest.mark.parametrize(
    "source",
    [
        "https://host/x.git",
        "ssh://git@host:22/x.git",
        "git@host:x.git",
        "host:-x",
        "[::1]:x.git",
        "git@[::1]:x.git",
        "file:///nowhere",
        "https://me:se-cret@host/x-y.git",
    ],
)
def test_other_addresses_are_git_s_to_judge(source: str) -> None:
    assert address(source) == source


def test_a_word_is_a_path_that_is_not_there() -> None:
    with pytest.raises(NotKubernetes):
        address("nowhere")


def test_the_users_settings_allow_no_other_protocol(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        f'[url "ext::touch {tmp_path}/ran "]\n\tinsteadOf = https://\n'
        "[protocol]\n\tallow = always\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "ext")
    with pytest.raises(BrokenSource) as caught:
        list_tags("https://127.0.0.1:1/x", recorder)
    assert "transport 'ext' not allowed" in caught.value.details
    assert not (tmp_path / "ran").exists()
