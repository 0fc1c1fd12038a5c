"""What a program in the sandbox sees, may do and may use, asked by a shell in it."""

import io
import os
import stat
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.base import sandbox
from kbuild.base.errors import SandboxForbidden, SandboxLimit, SandboxUnavailable
from kbuild.base.sandbox import (
    SANDBOX_ID,
    Bind,
    Ended,
    Files,
    Limits,
    Process,
    Sandbox,
    pack_files,
    unpack_files,
)

pytestmark = pytest.mark.slow

MIB = 1 << 20
LIMITS = Limits(processes=100, memory=128 * MIB, disk=4 * MIB, printed=MIB, seconds=30)
FOLDER = PurePosixPath("/etc/kubernetes")
DUMPS_ARE_SENT = Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "@"))


def start(
    work: Path, script: str, *binds: Bind, files: Files | None = None, limits: Limits = LIMITS
) -> Process:
    place = Sandbox(
        work=work / "sandbox",
        binds=[*sandbox.system_binds(), *binds],
        environment={"HOME": "/tmp"},
        limits=limits,
        purpose="this test",
        exchange=FOLDER,
    )
    return place.start(["/bin/sh", "-c", script], files)


def run(work: Path, script: str, *binds: Bind, files: Files | None = None) -> Ended:
    return start(work, script, *binds, files=files).wait()


def test_nothing_of_the_host_is_seen_but_what_is_bound(tmp_path: Path) -> None:
    ended = run(
        tmp_path, "ls -A /; ls -A /etc /tmp; ls /home /root /sys /run 2>&1 | grep -c 'No such'"
    )
    assert ended.code == 0
    names = ended.out.decode().split()
    assert names[-1] == "4"
    assert {"bin", "dev", "etc", "proc", "tmp", "usr"} <= {*names}
    assert not {"home", "root", "var", "srv", "sys", "run", "passwd"} & {*names}
    assert list((tmp_path / "sandbox/root").iterdir()) == []


def test_the_old_root_is_detached(tmp_path: Path) -> None:
    mounts = run(tmp_path, "cat /proc/self/mountinfo").out.decode().splitlines()
    roots = [line.split()[4] for line in mounts]
    assert roots[0] == "/"
    assert not [place for place in roots if place.startswith(("/oldroot", "/newroot"))]


def test_there_is_no_network(tmp_path: Path) -> None:
    ended = run(tmp_path, "cat /proc/net/dev | tail -n +3; cat /proc/net/route | tail -n +2")
    assert ended.code == 0
    lines = ended.out.decode().splitlines()
    assert [line.split(":")[0].strip() for line in lines] in ([], ["lo"])


def test_no_rights_are_left(tmp_path: Path) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in run(tmp_path, "cat /proc/self/status").out.decode().splitlines()
    )
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert {*status["Uid"].split()} == {*status["Gid"].split()} == {str(SANDBOX_ID)}


def test_outside_the_program_is_no_root_either(tmp_path: Path) -> None:
    process = start(tmp_path, "exec sleep 61.5")
    try:
        until = time.monotonic() + 20
        while not (found := processes("sleep\x0061.5")) and time.monotonic() < until:
            time.sleep(0.05)
        owners = {path.stat().st_uid for path in found}
    finally:
        process.close()
    assert owners == {SANDBOX_ID if os.geteuid() == 0 else os.geteuid()}


@pytest.mark.parametrize(
    "command",
    [
        "unshare --user true",
        "unshare --mount true",
        "mount -t tmpfs x /tmp",
        "chroot / true",
        "nsenter --target 1 --mount true",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /proc/sysrq-trigger",
        "echo x > /usr/bin/x",
        "echo x > /x",
        "echo x > /dev/x",
        "cat /proc/kcore",
        "ls /proc/fs | grep .",
        "dmesg",
        "date --set 2000-01-01",
        "hostname x",
    ],
)
def test_it_is_refused(tmp_path: Path, command: str) -> None:
    ended = run(tmp_path, f"{command}; echo $? after")
    code, _, after = ended.out.decode().splitlines()[-1].partition(" ")
    assert after == "after"
    assert code not in ("0", "127")


def test_binds_are_read_only_unless_told(tmp_path: Path) -> None:
    fixed, free = tmp_path / "fixed", sandbox.own_writable(tmp_path / "free")
    fixed.mkdir()
    ended = run(
        tmp_path,
        "echo x > /free/file; ! echo x > /fixed/file",
        Bind(source=fixed, target=PurePosixPath("/fixed")),
        Bind(source=free, target=PurePosixPath("/free"), writable=True),
    )
    assert ended.code == 0
    assert (free / "file").read_text() == "x\n"
    assert list(fixed.iterdir()) == []


def test_a_file_that_only_root_can_read_is_there(tmp_path: Path) -> None:
    secret = tmp_path / "file"
    secret.write_text("content")
    secret.chmod(0o600)
    ended = run(tmp_path, "cat /file", Bind(source=secret, target=PurePosixPath("/file")))
    assert ended.out == b"content"


def test_files_go_in_and_out(tmp_path: Path) -> None:
    ended = run(
        tmp_path,
        f"cd {FOLDER}; cat pki/a; echo new > pki/b; rm gone; mkdir -p x/y; echo deep > x/y/z",
        files={"pki/a": b"given", "gone": b""},
    )
    assert ended.code == 0
    assert ended.out == b"given"
    assert ended.files == {"pki/a": b"given", "pki/b": b"new\n", "x/y/z": b"deep\n"}


def test_only_regular_files_come_back(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    ended = run(
        tmp_path,
        f"cd {FOLDER}; mkfifo fifo; ln -s /dev/zero zero; ln -s {secret} secret; echo x > x;"
        " ln -s . loop; ln x hard; mkdir folder; chmod 0 folder; chmod 4755 x",
    )
    assert ended.code == 0
    assert {*ended.files} <= {"x", "hard"}
    assert [*ended.files.values()] == [b"x\n"]


# --- limits ------------------------------------------------------------------------------------


def limited(work: Path, script: str, **changes: float) -> None:
    limits = replace(LIMITS, **changes)  # type: ignore[arg-type]
    start(work, script, limits=limits).wait()


def test_processes_are_limited(tmp_path: Path) -> None:
    forks = "while ($n < 3000 && defined($p = fork)) { $p or sleep 20, exit; $n++ } print $n"
    limits = replace(LIMITS, memory=2048 * MIB)  # each child shares its parent's pages
    count = int(start(tmp_path, f"exec perl -e '{forks}'", limits=limits).wait().out)
    # What the user of the sandbox runs elsewhere, in other tests for example, is added.
    assert LIMITS.processes // 2 < count < 10 * LIMITS.processes


def test_memory_of_one_process_is_limited(tmp_path: Path) -> None:
    ended = run(tmp_path, "exec perl -e '$x = q(a) x 200_000_000'")
    assert b"Out of memory" in ended.out


def test_memory_of_all_processes_together_is_limited(tmp_path: Path) -> None:
    one = "yes | head -c 60M | tr -d '\\n' | tail | sleep 20"
    with pytest.raises(SandboxLimit, match="128 MiB of memory"):
        limited(tmp_path, f"for i in 1 2 3 4 5 6; do ({one}) & done; wait")


@pytest.mark.parametrize("folder", ["/tmp", str(FOLDER)])
def test_disk_is_limited(tmp_path: Path, folder: str) -> None:
    script = f"cd {folder}; for i in 1 2 3 4; do head -c 3M /dev/urandom > $i; done; du -sm ."
    ended = run(tmp_path, script)
    assert b"No space left" in ended.out
    assert int(ended.out.decode().splitlines()[-1].split()[0]) <= 4


def test_the_number_of_files_is_limited(tmp_path: Path) -> None:
    ended = run(tmp_path, f"cd {FOLDER}; i=0; while [ $i -lt 9999 ]; do : > $i; i=$((i+1)); done")
    assert ended.code != 0
    assert len(ended.files) < 5000


def test_a_sparse_file_is_no_way_to_fill_the_memory(tmp_path: Path) -> None:
    script = f"cd {FOLDER}; for i in 1 2 3 4 5 6 7 8 9; do truncate --size 4M $i; done; ls | wc -l"
    with pytest.raises(SandboxLimit, match="4 MiB of files"):
        run(tmp_path, f"{script}; for i in $(seq 99); do truncate --size 4M a$i; done")


def test_what_is_written_to_the_host_is_limited(tmp_path: Path) -> None:
    free = sandbox.own_writable(tmp_path / "free")
    script = "for i in $(seq 60); do head -c 4M /dev/urandom > /free/$i; done; sync; sleep 20"
    place = Bind(source=free, target=PurePosixPath("/free"), writable=True)
    with pytest.raises(SandboxLimit, match="4 MiB of disk"):
        start(tmp_path, script, place).wait()


def test_output_is_limited(tmp_path: Path) -> None:
    with pytest.raises(SandboxLimit, match="1 MiB of output"):
        limited(tmp_path, "exec cat /dev/urandom")


def test_output_that_is_read_as_lines_is_limited(tmp_path: Path) -> None:
    process = start(tmp_path, "exec yes")
    with pytest.raises(SandboxLimit, match="1 MiB of output"):
        for _ in process.lines():
            pass
    process.close()


def test_time_is_limited(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(SandboxLimit, match="its limit of time"):
        limited(tmp_path, "trap '' TERM INT HUP; while :; do sleep 1; done", seconds=1)
    assert time.monotonic() - began < 30


# --- the end -----------------------------------------------------------------------------------


def test_what_it_leaves_running_dies_with_it(tmp_path: Path) -> None:
    ended = run(tmp_path, "(setsid sleep 4321 >/dev/null 2>&1 &) ; echo done")
    assert ended.out == b"done\n"
    assert processes("sleep\x004321") == []


def test_the_exit_code_is_that_of_the_program(tmp_path: Path) -> None:
    assert run(tmp_path, "exit 7").code == 7
    assert run(tmp_path / "more", "sh -c 'kill -9 $$'; exit $?").code == 137


def test_the_program_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from tests.unit.base import test_sandbox as t\n"
        "p = t.start(Path(sys.argv[1]), 'exec sleep 600.5')\n"
        "time.sleep(1); print('up', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    assert processes("sleep\x00600.5")
    parent.kill()
    parent.communicate()
    assert gone("sleep\x00600.5")


def test_a_machine_without_bubblewrap_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "from kbuild.base import sandbox; import shutil\n"
        "which = shutil.which\n"
        "shutil.which = lambda name, **more: None if name == 'bwrap' else which(name, **more)\n"
        "print(sandbox.why_unavailable())"
    )
    monkeypatch.chdir(tmp_path)
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout == "bwrap is not installed\n"
    error = SandboxUnavailable(purpose="the proof", reason="bwrap is not installed")
    assert "apt-get install bubblewrap" in error.hint


@pytest.mark.parametrize("where", ["machine", "docker", "pod"])
def test_in_a_container_the_hint_has_the_flags_of_docker(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "why_unavailable", lambda: "unshare failed")
    monkeypatch.setattr(sandbox, "CONTAINER_MARKS", (str(tmp_path / "mark"),))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if where == "docker":
        (tmp_path / "mark").touch()
    if where == "pod":
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    with pytest.raises(SandboxUnavailable) as raised:
        sandbox.demand("the local builder")
    assert isinstance(raised.value, SandboxForbidden) is (where != "machine")
    for name in ("seccomp", "apparmor", "systempaths"):
        assert (f"--security-opt {name}=unconfined" in raised.value.hint) is (where != "machine")


# --- files of others ---------------------------------------------------------------------------


@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}(/[a-z]{1,9}){0,3}", fullmatch=True), st.binary()))
def test_packing_and_unpacking_are_each_others_inverse(files: dict[str, bytes]) -> None:
    folders = {str(p) for name in files for p in PurePosixPath(name).parents}
    files = {name: content for name, content in files.items() if name not in folders}
    assert unpack_files(pack_files(files), 1 << 30) == files


@given(st.binary(max_size=4096), st.integers(0, 4096))
def test_a_damaged_tar_is_no_error(damage: bytes, at: int) -> None:
    data = pack_files({"a": b"x" * 600, "b/c": b"y"})
    unpack_files(data[:at] + damage + data[at + len(damage) :], 10_000)


def test_names_that_leave_the_folder_do_not_come_back() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("../out", "a/../../out", "/etc/passwd", "good"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert [*unpack_files(buffer.getvalue(), 1000)] in (["good"], ["/etc/passwd", "good"])


def processes(words: str) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        # Not the stage, whose script holds the words too.
        if words in line and "mount -t" not in line and "bwrap" not in line:
            found.append(path)
    return found


def gone(words: str) -> bool:
    until = time.monotonic() + 10
    while processes(words) and time.monotonic() < until:
        time.sleep(0.1)
    return processes(words) == []


def test_a_writable_folder_is_closed_to_others(tmp_path: Path) -> None:
    folder = sandbox.own_writable(tmp_path / "new")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "limit",
    [
        *("-n 1024", "-f 10000", "-d 200000"),
        pytest.param("-c 0", marks=pytest.mark.skipif(DUMPS_ARE_SENT, reason="it takes a 1")),
    ],
)
def test_lower_limits_of_the_user_are_no_obstacle(limit: str) -> None:
    ask = "from kbuild.base import sandbox; print(sandbox.why_unavailable())"
    done = subprocess.run(
        ["bash", "-c", f'ulimit {limit}; exec "$0" -c "$1"', sys.executable, ask],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "None\n", done.stderr


@pytest.mark.parametrize(
    ("pattern", "limit"), [("core", 0), ("|/usr/bin/dump %p", 1), ("@/run/dump", 1), (None, 1)]
)
def test_no_core_dump_is_written_nor_sent_to_a_program_of_the_host(
    pattern: str | None, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pattern is not None:
        (tmp_path / "core_pattern").write_text(pattern)
    monkeypatch.setattr(sandbox, "CORE_PATTERN", tmp_path / "core_pattern")
    ended = run(tmp_path, "ulimit -S -c; grep core /proc/self/limits")
    assert ended.out.split()[-3:-1] == [str(limit).encode()] * 2
