"""What ends a command, and how that is told."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from kbuild.cli.boundary import Boundary
from tests.support.authority import issue
from tests.support.failures import kind_of, outcome
from tests.support.releases import make_release
from tests.support.repositories import make_repository

KBUILD = Path(sys.executable).with_name("kbuild")


def end_of(act: Callable[[], object]) -> tuple[int, str]:
    app = typer.Typer(cls=Boundary, pretty_exceptions_enable=False)

    @app.command(name="act")
    def _act() -> None:
        act()

    @app.command(name="other")
    def _other() -> None:
        """Make the app a group, as kbuild is."""

    done = CliRunner().invoke(app, ["act"])
    return done.exit_code, done.stderr


def endless(depth: int = 0) -> int:
    return endless(depth + 1) + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "Cannot allocate memory"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "temporarily unavailable"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
        (ImportError("x.so: failed to map segment from shared object"), "failed to map"),
        (ImportError("x.so: cannot allocate memory"), "cannot allocate memory"),
    ],
    ids=repr,
)
def test_a_shortage_has_a_kind_of_its_own(error: Exception, reason: str) -> None:
    def fail() -> None:
        raise error

    code, said = end_of(fail)
    assert (code, kind_of(said)) == (80, "not-enough-memory"), said
    assert reason in said
    assert "ulimit" in said


def test_a_stack_that_is_used_up_is_a_shortage() -> None:
    code, said = end_of(endless)
    assert (code, kind_of(said)) == (80, "not-enough-memory"), said
    assert "recursion" in said


def test_other_errors_are_still_internal() -> None:
    code, said = end_of(dict[str, int]().popitem)
    assert (code, kind_of(said)) == (1, "internal-error"), said


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("megabytes", [150, 250])
def test_a_limit_of_memory_is_told(megabytes: int, tmp_path: Path) -> None:
    release = make_release(tmp_path / "work", tmp_path / "v1.20.2")
    os.truncate(release / "kubeadm-linux-amd64", 255 << 20)  # kbuild reads up to 256 MiB
    command = f'ulimit -v {megabytes << 10}; exec "$0" check "$1"'
    done = subprocess.run(
        ["bash", "-c", command, str(KBUILD), str(release)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome(done) == (80, "not-enough-memory"), done.stderr
    assert done.stderr.startswith("error[not-enough-memory]: kbuild needs more memory")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("upstream") / "kubernetes"
    make_repository(folder, ["v1.20.2"])
    return str(folder)


def shell(command: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", command, str(KBUILD)],
        cwd=folder,
        # With a buffer, Python writes to a stream once more when it ends.
        env={**os.environ, "PYTHONUNBUFFERED": "", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "closed", ["2>&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"], ids=lambda word: word
)
def test_a_closed_standard_error_fails_nothing(
    closed: str, tmp_path: Path, repository: str
) -> None:
    done = shell(f'"$0" versions --source "$REPOSITORY" {closed}', tmp_path, REPOSITORY=repository)
    is_printed = " >&-" not in f" {closed}"
    assert done.returncode == (0 if is_printed else 141)
    assert ("v1.20.2" in done.stdout) == is_printed


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["2>/dev/full", "2> >(exec 2>&-; exit)"])
def test_a_standard_error_that_cannot_be_written_to_fails_nothing(
    lost: str, tmp_path: Path, repository: str
) -> None:
    build = '"$0" kubeadm --version v1.99.0 --ca-years 2 --leaf-years 1 --source "$REPOSITORY"'
    done = shell(f"{build} --json {lost}", tmp_path, REPOSITORY=repository)
    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (20, "tag-not-found")
    versions = '"$0" versions --source "$REPOSITORY"'
    assert "v1.20.2" in shell(f"{versions} {lost}", tmp_path, REPOSITORY=repository).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--help >/dev/full", 80),
        ("--version >/dev/full", 80),
        ("kubeadm --help >/dev/full", 80),
        ("nonsense 2>/dev/full", 2),
        ("pins --nonsense 2>/dev/full", 2),
    ],
)
def test_help_and_usage_errors_that_cannot_be_printed(
    command: str, code: int, tmp_path: Path
) -> None:
    done = shell(f'"$0" {command}', tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("files", [5, 6, 7, 8, 9, 10])
def test_few_open_files_are_no_internal_error(files: int, tmp_path: Path, repository: str) -> None:
    command = f'ulimit -n {files}; "$0" versions --source "$REPOSITORY"'
    done = shell(command, tmp_path, REPOSITORY=repository)
    assert done.returncode in (0, 80), done.stderr
    assert kind_of(done.stderr) in ("", "git-missing", "not-enough-memory")


SHORT_OF_MEMORY = """
import sys
from kbuild.cli.main import main
class Short:
    def find_spec(self, name, path=None, target=None):
        if name == "kbuild.cli.app":
            raise {error}
sys.meta_path.insert(0, Short())
main()
"""


@pytest.mark.parametrize(
    "error", ["MemoryError", "ImportError('x.so: failed to map segment from shared object')"]
)
def test_too_little_memory_to_load_kbuild_is_told(error: str) -> None:
    program = SHORT_OF_MEMORY.format(error=error)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert outcome(done) == (80, "not-enough-memory"), done.stderr
    assert done.stderr == "error[not-enough-memory]: there is not enough memory to load kbuild\n"


@pytest.mark.slow
def test_a_limit_of_file_sizes_is_no_internal_error(tmp_path: Path, repository: str) -> None:
    program = "import resource, os, sys, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    program += (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, KBUILD, "versions", "--source", repository],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome(done) == (80, "not-writable"), done.stderr


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_with_141(tmp_path: Path, repository: str) -> None:
    command = '"$0" versions --source "$REPOSITORY" | true; exit "${PIPESTATUS[0]}"'
    assert shell(command, tmp_path, REPOSITORY=repository).returncode == 141


@pytest.mark.slow
def test_without_pythons_buffer_no_output_is_lost(tmp_path: Path) -> None:
    (tmp_path / "bundle.crt").write_bytes(issue("ca").pem * 500)
    piped = '"$0" certs bundle.crt --json | head --bytes=100; exit "${PIPESTATUS[0]}"'
    assert shell(piped, tmp_path, PYTHONUNBUFFERED="1").returncode == 141


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--help", "kubeadm -h", "cache prune --help"])
def test_help_without_a_reader_ends_with_141(command: str, tmp_path: Path) -> None:
    piped = f'"$0" {command} | true; exit "${{PIPESTATUS[0]}}"'
    assert shell(piped, tmp_path).returncode == 141


STREAMS = """
import os, sys
from kbuild.cli.main import main
sys.argv = ["kbuild", "--version"]
try:
    main()
except SystemExit:
    pass
report = os.open(os.environ["REPORT"], os.O_WRONLY | os.O_CREAT)
os.write(report, " ".join(os.readlink(f"/proc/self/fd/{n}") for n in range(3)).encode())
"""


@pytest.mark.slow
def test_no_file_gets_the_number_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(STREAMS)
    command = f'"{sys.executable}" program.py <&- >&- 2>&-'
    assert shell(command, tmp_path, REPORT=str(tmp_path / "report")).returncode == 0
    assert (tmp_path / "report").read_text() == " ".join(["/dev/null"] * 3)


@pytest.mark.parametrize("modules", [{}, {"kbuild.base.workspace": ModuleType("half loaded")}])
def test_a_signal_while_modules_are_loaded_interrupts(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "kbuild.base.workspace", raising=False)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    code, told = end_of(lambda: signal.raise_signal(signal.SIGTERM))
    assert (code, "error[interrupted]" in told) == (130, True), told
