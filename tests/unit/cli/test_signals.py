"""Ctrl-C and other signals, once or often, to a real kbuild: nothing of it stays."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kbuild.base import sandbox
from kbuild.base.workspace import alone
from tests.support.repositories import make_repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

# A cleanup that takes its time, so that signals meet it.
SLOW_CLEANUP = """
import shutil, sys, time
from kbuild.cli.main import main
remove = shutil.rmtree
def slowly(*words, **options):
    time.sleep(0.7)
    remove(*words, **options)
shutil.rmtree = slowly
sys.argv[0] = "kbuild"
main()
"""
SLOW_IMPORT = """
import sys, time
from pathlib import Path
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "kbuild.cli.app":
            Path(sys.argv[1]).touch()
            time.sleep(20)
sys.meta_path.insert(0, Slow())
from kbuild.cli.main import main
main()
"""
NAP = "98.7654321"  # seconds; a number that nobody else sleeps
FAKE_GO = f"""\
#!/bin/sh
case "$1" in
version) echo 'go version go1.15.5 linux/amd64' ;;
*) sleep {NAP} ;;
esac
"""


@pytest.fixture(autouse=True)
def _handled() -> Iterator[None]:
    """Let children handle SIGINT, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes_with(mark: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if mark.encode() in words and (process / "stat").read_text().split()[2] != "Z":
                found.append((process / "cmdline").read_bytes().decode())
    return found


class Run:
    """A kbuild that has begun something which takes long."""

    def __init__(self, home: Path, *words: str, program: str = SLOW_CLEANUP, **more: str) -> None:
        self.cache = home / "cache"
        self.mark = f"mark-of-{home}-"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("KBUILD_")}
        environment = {**clean, "KBUILD_CACHE_DIR": str(self.cache), "TEST_MARK": self.mark, **more}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def signal(self, numbers: Sequence[int], seconds: float = 1.0) -> str:
        """Send signals in so many seconds, and return what is said on standard error."""
        for number in numbers:
            self.process.send_signal(number)
            time.sleep(seconds / len(numbers))
        try:
            return self.process.communicate(timeout=30)[1]
        finally:
            self.process.kill()

    def leaves(self) -> list[str]:
        left = [*self.cache.glob("work/*"), *self.cache.glob("locks/run-*")]
        deadline = time.monotonic() + 5
        while (processes := processes_with(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.05)  # the kernel may still be at it
        return [str(path) for path in left] + processes


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upstream") / "kubernetes"
    make_repository(folder, ["v1.20.2"])
    return folder


def in_fetch(home: Path) -> Run:
    ssh = home / "ssh"
    ssh.write_text(f"#!/bin/sh\ntouch {home}/at-it\nsleep 100\n")
    ssh.chmod(0o755)
    words = ("--version", "v1.20.2", "--ca-years", "9", "--leaf-years", "1", "--builder", "local")
    source = ("--source", "ssh://127.0.0.1/kubernetes")
    run = Run(home, "kubeadm", *words, *source, GIT_SSH_COMMAND=str(ssh))
    wait_for(home / "at-it", run.process)
    return run


SIGNALS = {
    "Ctrl-C": [signal.SIGINT],
    "Ctrl-C twice": [signal.SIGINT] * 2,
    "Ctrl-C five times": [signal.SIGINT] * 5,
    "TERM five times": [signal.SIGTERM] * 5,
    "one after the other": [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGINT],
}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_fetch_that_is_told_to_stop_leaves_nothing(name: str, tmp_path: Path) -> None:
    run = in_fetch(tmp_path)
    said = run.signal(SIGNALS[name])
    assert run.process.returncode == 130, said
    assert run.leaves() == []
    assert said.count("error[interrupted]: ") == 1
    assert said.count("already stopping") == (len(SIGNALS[name]) > 1)
    assert "Traceback" not in said


@pytest.mark.skipif(not sandbox.is_available(), reason="this machine gives no sandbox")
@pytest.mark.parametrize("name", ["Ctrl-C twice", "Ctrl-C five times", "TERM five times"])
def test_a_compile_that_is_told_to_stop_leaves_nothing(
    name: str, repository: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go/bin/go"
    go.parent.mkdir(parents=True)
    go.write_text(FAKE_GO)
    go.chmod(0o755)
    words = ("--version", "v1.20.2", "--ca-years", "9", "--leaf-years", "1", "--builder", "local")
    places = ("--source", str(repository), "--go-root", str(tmp_path / "go"))
    run = Run(tmp_path, "kubeadm", *words, *places)
    deadline = time.monotonic() + 60
    while not processes_with(NAP):
        assert run.process.poll() is None, run.process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    said = run.signal(SIGNALS[name])
    assert run.process.returncode == 130, said
    assert run.leaves() == []
    assert processes_with(NAP) == []
    assert said.count("error[interrupted]: ") == 1
    assert "Traceback" not in said


def test_a_signal_before_there_is_anything_to_clean_up_just_ends_it(tmp_path: Path) -> None:
    run = Run(tmp_path, str(tmp_path / "at-it"), program=SLOW_IMPORT)
    wait_for(tmp_path / "at-it", run.process)
    assert run.signal([signal.SIGINT], 0) == ""
    assert run.process.returncode == -signal.SIGINT


def test_a_hangup_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = in_fetch(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    run.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert run.process.poll() is None
    run.signal([signal.SIGTERM])
    assert run.leaves() == []


def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    run = in_fetch(tmp_path)
    run.signal([signal.SIGKILL])
    assert [left for left in run.leaves() if "/work/" not in left and "/locks/" not in left] == []


CLEANUP_BEGINS = """
import shutil, sys, time
from pathlib import Path
from kbuild.cli.main import main
mark, remove = Path(sys.argv.pop(1)), shutil.rmtree
def slowly(*words, **options):
    mark.touch()
    time.sleep(1)
    remove(*words, **options)
shutil.rmtree = slowly
sys.argv[0] = "kbuild"
main()
"""


def left_in(cache: Path) -> list[str]:
    work, locks = cache / "v1/work", cache / "v1/locks"
    return [path.name for path in (*work.iterdir(), *locks.glob("run-*"))]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_does_not_cut_off_the_cleanup_of_a_run_that_has_ended(
    number: signal.Signals, tmp_path: Path
) -> None:
    make_repository(tmp_path / "kubernetes", ("v1.20.2",))
    mark, cache = tmp_path / "cleaning", tmp_path / "cache"
    words = ("versions", "--source", tmp_path / "kubernetes", "--cache-dir", cache)
    process = subprocess.Popen(
        [sys.executable, "-c", CLEANUP_BEGINS, mark, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(mark, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert said.count("already stopping") == 1
    assert left_in(cache) == []


def test_a_run_that_is_stopped_while_it_waits_for_the_cache_leaves_no_lock(tmp_path: Path) -> None:
    make_repository(tmp_path / "kubernetes", ("v1.20.2",))
    cache = tmp_path / "cache"
    with alone(cache):
        words = ("versions", "--source", tmp_path / "kubernetes", "--cache-dir", cache)
        process = subprocess.Popen(
            [Path(sys.executable).with_name("kbuild"), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 60
        while not list((cache / "v1/locks").glob("run-*")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert left_in(cache) == []
