"""Hostile programs and sources must get nowhere, whoever runs kbuild: root or a normal user."""

import io
import os
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbuild.base.files import sha256
from tests.e2e.command import VERSION, Done, Kbuild
from tests.e2e.conftest import Options, fingerprint
from tests.support.failures import kind_of
from tests.support.hostile import compile_hostile
from tests.support.http import served
from tests.support.repositories import make_repository

pytestmark = [pytest.mark.attack, pytest.mark.e2e, pytest.mark.timeout(600)]

YEARS = ("--ca-years", "10", "--leaf-years", "1")
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Give a folder like ~/.ssh, and see that nothing of the host was changed."""
    folder = tmp_path / "home/.ssh"
    folder.mkdir(parents=True)
    (folder / "id_ed25519").write_text("a secret of the host\n")
    before = (fingerprint(folder), CORE_PATTERN.read_text(), Path("/etc/passwd").read_bytes())
    yield folder
    assert before == (
        fingerprint(folder),
        CORE_PATTERN.read_text(),
        Path("/etc/passwd").read_bytes(),
    )
    assert not Path("/etc/kbuild-was-here").exists()


def verify(kbuild: Kbuild, canary: Path, attack: str) -> Done:
    binary = compile_hostile(kbuild.home / "kubeadm", attack, canary)
    return kbuild("verify", binary, *YEARS)


def assert_stopped(kbuild: Kbuild, done: Done, code: int, *kinds: str) -> None:
    assert done.code == code, done.stderr
    assert kind_of(done.stderr) in kinds, done.stderr
    assert "ESCAPED" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert kbuild.work_left == []
    assert running(kbuild) == []


@pytest.mark.parametrize("attack", ["escape", "calls", "forks", "disk"])
def test_a_hostile_kubeadm_is_contained(kbuild: Kbuild, canary: Path, attack: str) -> None:
    done = verify(kbuild, canary, attack)
    assert_stopped(kbuild, done, 70, "kubeadm-failed")
    assert "the attack ends" in done.stderr


@pytest.mark.parametrize("attack", ["memory", "shared-memory", "page-tables"])
def test_a_kubeadm_that_takes_all_memory_is_stopped(
    kbuild: Kbuild, canary: Path, attack: str
) -> None:
    done = verify(kbuild, canary, attack)
    if "MiB of memory\n" in done.stderr:
        assert_stopped(kbuild, done, 70, "kubeadm-failed")
    else:
        assert_stopped(kbuild, done, 80, "sandbox-limit")


@pytest.mark.parametrize("attack", ["output", "errors"])
def test_a_kubeadm_that_prints_for_ever_is_stopped(
    kbuild: Kbuild, canary: Path, attack: str
) -> None:
    done = verify(kbuild, canary, attack)
    assert_stopped(kbuild, done, 80, "sandbox-limit")
    assert "4 MiB of output" in done.stderr


def test_pipes_and_links_for_certificates_are_not_followed(kbuild: Kbuild, canary: Path) -> None:
    began = time.monotonic()
    done = verify(kbuild, canary, "files")
    assert_stopped(kbuild, done, 70, "missing-certificate")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_kubeadm_that_ignores_signals_ends_with_kbuild(
    kbuild: Kbuild, canary: Path, how: signal.Signals
) -> None:
    binary = compile_hostile(kbuild.home / "kubeadm", "hang", canary)
    process = kbuild.start("verify", binary, *YEARS)
    until = time.monotonic() + 60
    while not running(kbuild) and time.monotonic() < until:
        time.sleep(0.1)
    assert running(kbuild)
    began = time.monotonic()
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGTERM else -how), stderr
    while running(kbuild) and time.monotonic() - began < 20:
        time.sleep(0.1)
    assert running(kbuild) == []
    assert how == signal.SIGKILL or kbuild.work_left == []


def test_a_kubeadm_of_any_size_is_not_copied(kbuild: Kbuild, canary: Path) -> None:
    binary = compile_hostile(kbuild.home / "kubeadm", "hang", canary)
    with binary.open("r+b") as file:
        file.truncate(1 << 40)
    done = kbuild("verify", binary, *YEARS)
    assert_stopped(kbuild, done, 70, "wrong-binary")


def test_a_go_root_shows_no_file_of_the_host(
    kbuild: Kbuild, canary: Path, small_source: Path
) -> None:
    go_root = kbuild.home / "go"
    compile_hostile(go_root / "bin/go", "escape", canary, is_go=True)
    (go_root / "pkg/tool").mkdir(parents=True)
    (go_root / "leak").symlink_to(canary / "id_ed25519")
    done = kbuild(
        *("kubeadm", "--version", VERSION, *YEARS, "--source", small_source),
        *("--builder", "local", "--go-root", go_root),
    )
    assert_stopped(kbuild, done, 30, "go-not-found")
    assert "is a link to" in done.stderr


def test_the_hostile_kubeadm_is_not_root_outside(kbuild: Kbuild, canary: Path) -> None:
    binary = compile_hostile(kbuild.home / "kubeadm", "hang", canary)
    process = kbuild.start("verify", binary, *YEARS)
    try:
        until = time.monotonic() + 60
        while not running(kbuild) and time.monotonic() < until:
            time.sleep(0.1)
        [found] = running(kbuild)
        status = (found / "status").read_text()
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert {*facts["Uid"].split()} == {str(os.geteuid() or 65532)}
        assert int(facts["CapBnd"], 16) == int(facts["CapEff"], 16) == 0
        assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
        mine, theirs = (Path(p, "ns") for p in ("/proc/self", found))
        for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
            assert (mine / name).readlink() != (theirs / name).readlink()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture
def small_source(tmp_path: Path) -> Path:
    make_repository(tmp_path / "kubernetes", (VERSION,))
    return tmp_path / "kubernetes"


# Two of the first run at once and kill each other, which looks like a lack of memory. The last says
# that it went well, and leaves no binary.
@pytest.mark.parametrize(
    ("attack", "kinds"),
    [
        ("escape", ("compile-failed", "out-of-memory")),
        ("calls", ("compile-failed",)),
        ("files", ("no-binary",)),
    ],
)
def test_a_hostile_compiler_gets_no_further(
    kbuild: Kbuild, canary: Path, small_source: Path, attack: str, kinds: tuple[str, ...]
) -> None:
    go_root = kbuild.home / "go"
    compile_hostile(go_root / "bin/go", attack, canary, is_go=True)
    (go_root / "pkg/tool").mkdir(parents=True)
    done = kbuild(
        *("kubeadm", "--version", VERSION, *YEARS, "--source", small_source),
        *("--builder", "local", "--go-root", go_root),
    )
    assert_stopped(kbuild, done, 60, *kinds)
    assert "the attack ends" in done.stderr or attack != "calls"


def test_a_hostile_go_that_answers_with_attacks_is_contained(
    kbuild: Kbuild, canary: Path, small_source: Path
) -> None:
    go_root = kbuild.home / "go"
    compile_hostile(go_root / "bin/go", "output", canary)
    (go_root / "pkg/tool").mkdir(parents=True)
    done = kbuild(
        *("kubeadm", "--version", VERSION, *YEARS, "--source", small_source),
        *("--builder", "local", "--go-root", go_root),
    )
    assert_stopped(kbuild, done, 80, "sandbox-limit")


@pytest.mark.parametrize(
    ("attack", "code", "kind"),
    [
        ("escape", 70, "publisher-failed"),
        ("calls", 70, "publisher-failed"),
        ("output", 80, "sandbox-limit"),
    ],
)
def test_a_hostile_publisher_gets_no_further(
    kbuild: Kbuild, canary: Path, small_source: Path, attack: str, code: int, kind: str
) -> None:
    go_root = kbuild.home / "go"
    compile_hostile(go_root / "bin/go", "hang", canary, is_go=True)
    (go_root / "pkg/tool").mkdir(parents=True)
    site = kbuild.home / "site"
    binary = compile_hostile(site / VERSION / "bin/linux/amd64/kubeadm", attack, canary)
    binary.with_name("kubeadm.sha256").write_text(sha256(binary))
    with served(site) as address:
        done = kbuild(
            *("kubeadm", "--version", VERSION, "--stock", "--source", small_source),
            *("--builder", "local", "--go-root", go_root, "--release-site", address),
        )
    assert_stopped(kbuild, done, code, kind)


HOSTILE_INIT = """

func init() {
	for _, name := range []string{"/etc/passwd", "/etc/shadow", "%s/id_ed25519"} {
		if text, err := ioutil.ReadFile(name); err == nil {
			panic("ESCAPED: read " + name + string(text))
		}
	}
	for _, name := range []string{"/etc/kbuild-was-here", "%s/authorized_keys"} {
		if ioutil.WriteFile(name, []byte("owned"), 0600) == nil {
			panic("ESCAPED: wrote " + name)
		}
	}
	panic("the attack ends")
}
"""


def test_a_hostile_init_in_the_source_gets_no_further(
    kbuild: Kbuild, canary: Path, kubernetes_archive: Path, locally: Options
) -> None:
    backdoor = HOSTILE_INIT % (canary, canary)
    source = with_backdoor(kubernetes_archive, kbuild.home / "hostile.tar", backdoor)
    done = kbuild.kubeadm("--source", source, *locally)
    assert_stopped(kbuild, done, 70, "kubeadm-failed")
    assert "the attack ends" in done.stderr


def with_backdoor(archive: Path, target: Path, code: str) -> Path:
    """Copy a source archive, with code added to kubeadm's main package."""
    with tarfile.open(archive) as old, tarfile.open(target, "w") as new:
        for member in old:
            content = old.extractfile(member) if member.isreg() else None
            if content is not None and member.name.endswith("/cmd/kubeadm/kubeadm.go"):
                text = content.read().decode().replace("import (", 'import (\n\t"io/ioutil"\n', 1)
                data = (text + code).encode()
                member.size = len(data)
                content = io.BytesIO(data)
            new.addfile(member, content)
    return target


def running(kbuild: Kbuild) -> list[Path]:
    """Return the hostile programs of this test that run now, wherever they are."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            # Each is compiled for its own test, whose folder is in it.
            if command.startswith((b"/kubeadm\0", b"/usr/local/go/bin/go")) and (
                bytes(kbuild.home) in (path / "exe").read_bytes()
            ):
                found.append(path)
        except OSError:
            continue
    return found
