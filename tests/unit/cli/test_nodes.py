"""`kbuild nodes install` and `rollback` on nodes without ssh: what is asked, shown and written."""

import contextlib
import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kbuild.cli import nodes
from kbuild.nodes.model import Call, Host
from tests.support.command import Done, run_here
from tests.support.local_node import KUBEADM, LocalNode
from tests.support.releases import make_release
from tests.support.runnable import make_runnable_release

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    return make_runnable_release(folder / "work", folder / "release")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalNode:
    node = LocalNode(root=tmp_path / "n1")
    node.put_kubeadm()

    @contextlib.contextmanager
    def local(hosts: Sequence[Host]) -> Iterator[Mapping[str, Any]]:
        assert [host.name for host in hosts] == ["n1"]
        yield {"n1": node}

    monkeypatch.setattr(nodes, "connections", local)
    return node


@pytest.fixture
def kbuild(tmp_path: Path, node: LocalNode) -> Callable[..., Done]:
    def run(*words: object) -> Done:
        where = ("--hosts", "n1", "--path", node.kubeadm)
        return run_here("nodes", *words, *where, cwd=tmp_path, HOME=str(tmp_path))

    return run


def test_a_damaged_release_and_one_without_a_signature_are_refused_before_any_connection(
    tmp_path: Path, node: LocalNode, kbuild: Callable[..., Done], release: Path
) -> None:
    damaged = make_release(tmp_path / "work", tmp_path / "damaged")
    (damaged / "kubeadm-linux-amd64").write_bytes(b"other")
    done = kbuild("install", damaged, "--yes")
    assert (done.returncode, "error[release-broken]" in done.stderr) == (90, True)
    key = tmp_path / "key.pub"
    key.write_text("-----BEGIN PUBLIC KEY-----\n")
    done = kbuild("install", release, "--yes", "--key", key)
    assert done.returncode == 90, done.stderr
    assert node.called == []
    assert node.kubeadm.read_text() == KUBEADM


def test_hosts_that_are_not_named(tmp_path: Path, release: Path) -> None:
    done = run_here("nodes", "install", release, cwd=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 2
    assert "error[no-hosts]" in done.stderr
    limited = ("--hosts", "n1", "--limit", "n2")
    done = run_here("nodes", "install", release, *limited, cwd=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 2
    assert "error[bad-setting]: --limit cannot be 'n2'" in done.stderr


@pytest.mark.parametrize("option", ["--ssh-config", "--known-hosts"])
def test_a_file_of_ssh_that_is_not_there_is_told_before_any_connection(
    tmp_path: Path, option: str
) -> None:
    words = ("nodes", "check", "--hosts", "127.0.0.1:1", option, tmp_path / "none")
    done = run_here(*words, cwd=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 2
    assert f"{option} " in done.stderr
    assert "it cannot be read: No such file or directory" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_and_yes_nothing_is_changed(
    node: LocalNode, kbuild: Callable[..., Done], release: Path
) -> None:
    for more in ((), ("--json",)):
        done = kbuild("install", release, *more)
        assert done.returncode == 2
        assert "error[not-confirmed]: nothing was changed on 1 host" in done.stderr
    assert node.called == ["facts", "facts"]


def test_a_dry_run_is_one_document_and_changes_nothing(
    node: LocalNode, kbuild: Callable[..., Done], release: Path
) -> None:
    done = kbuild("install", release, "--dry-run", "--json")
    (host,) = json.loads(done.stdout)["hosts"]
    assert [step["name"] for step in host["steps"]] == [*("copy", "back-up", "record", "replace")]
    done = kbuild("install", release, "--dry-run")
    assert "1. copy: copy kubeadm v1.20.2 to" in done.stdout
    assert node.called == ["facts", "facts"]


@pytest.mark.parametrize(
    ("answer", "code", "kind"),
    [
        ("n", 2, "not-confirmed"),
        (EOFError, 2, "not-confirmed"),
        (KeyboardInterrupt, 130, "interrupted"),
    ],
)
def test_a_question_that_is_not_answered_with_yes(
    answer: Any,
    code: int,
    kind: str,
    node: LocalNode,
    kbuild: Callable[..., Done],
    release: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self, *_: object) -> str:
            if isinstance(answer, str):
                return f"{answer}\n"
            raise answer

    monkeypatch.setattr(sys, "stdin", Terminal())
    done = kbuild("install", release)
    assert done.returncode == code, done.stderr
    assert f"error[{kind}]" in done.stderr
    assert node.called == ["facts"]


def test_a_failure_names_host_step_state_and_the_next_command(
    node: LocalNode, kbuild: Callable[..., Done], release: Path
) -> None:
    node.stub("gzip", "echo 'gzip: No space left on device' >&2; exit 1")
    done = kbuild("install", release, "--yes", "--json")
    assert done.returncode == 100
    assert "error[run-failed]: 1 of 1 host failed; 0 are as requested" in done.stderr
    reason = "the upload cannot be unpacked: gzip: No space left on device"
    now = "now the host is as it was before; remove the cause, then run the same command again"
    assert f"n1: the step copy failed: {reason}; {now}" in done.stderr
    (host,) = json.loads(done.stdout)["hosts"]
    assert (host["state"], host["step"]) == ("undone", "copy")
    assert "Traceback" not in done.stderr


def test_what_could_not_be_undone_is_said_to_be_still_there(
    node: LocalNode, kbuild: Callable[..., Done], release: Path
) -> None:
    def before(function: Call) -> None:
        if function.function == "apply" and "replace" in function.arguments:
            node.kubeadm.write_text("of somebody else")

    node.before = before
    done = kbuild("install", release, "--yes")
    assert done.returncode == 100
    now = "now what was done in replace is still there, and the other steps are undone"
    assert f"{now}; remove the cause, then run the same command again" in done.stderr


def test_a_log_that_cannot_be_made_is_an_error_before_any_change(
    tmp_path: Path, node: LocalNode, kbuild: Callable[..., Done], release: Path
) -> None:
    (tmp_path / ".local").write_text("in the way")
    done = kbuild("install", release, "--yes")
    assert done.returncode == 80
    assert "error[not-writable]" in done.stderr
    assert node.called == ["facts"]


def test_output_that_nobody_reads_does_not_keep_the_lock(
    tmp_path: Path,
    node: LocalNode,
    kbuild: Callable[..., Done],
    release: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("kbuild.cli.console.Screen.result", broken)
    done = kbuild("install", release, "--yes")
    assert done.returncode == 141
    assert not node.lock.exists()
    (log,) = (tmp_path / ".local/state/kbuild/runs").iterdir()
    assert "n1: changed" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


def test_ctrl_c_in_the_survey_changes_nothing(
    node: LocalNode, kbuild: Callable[..., Done], release: Path
) -> None:
    def before(_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    node.before = before
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = kbuild("install", release, "--yes")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert done.returncode == 130
    assert "error[interrupted]" in done.stderr
    assert "  | " not in done.stderr  # no run has begun
    assert not node.state.exists()
