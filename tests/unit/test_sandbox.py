import os
import subprocess
import time
from pathlib import Path, PurePosixPath

import pytest

from kbuild import sandbox
from kbuild.errors import SandboxUnavailable
from kbuild.sandbox import Bind


def run(tmp_path: Path, script: str, *binds: Bind) -> tuple[int, str]:
    process = sandbox.popen(
        ["/bin/sh", "-c", script],
        root=tmp_path / "root",
        binds=[*sandbox.system_binds(), *binds],
        environment={},
        purpose="this test",
    )
    out, _ = process.communicate(timeout=30)
    return process.returncode, out.decode()


def test_nothing_of_the_host_is_seen_but_what_is_bound(tmp_path: Path) -> None:
    code, out = run(tmp_path, "ls -A /; ls -A /etc /home /root 2>&1 | grep -c 'No such'")
    assert code == 0
    assert not {"etc", "home", "root", "var", "srv"} & set(out.split())
    assert out.endswith("3\n")
    assert list((tmp_path / "root").iterdir()) == []


def test_there_is_no_network(tmp_path: Path) -> None:
    code, out = run(tmp_path, "cat /proc/net/dev | tail -n +3; cat /proc/net/route | tail -n +2")
    assert code == 0
    assert [line.split(":")[0].strip() for line in out.splitlines()] in ([], ["lo"])


def test_binds_are_read_only_unless_told(tmp_path: Path) -> None:
    fixed, free = tmp_path / "fixed", tmp_path / "free"
    fixed.mkdir()
    free.mkdir()
    code, _ = run(
        tmp_path,
        "echo x > /free/file; ! echo x > /fixed/file",
        Bind(source=fixed, target=PurePosixPath("/fixed")),
        Bind(source=free, target=PurePosixPath("/free"), writable=True),
    )
    assert code == 0
    assert (free / "file").read_text() == "x\n"
    assert list(fixed.iterdir()) == []


def test_the_program_dies_with_its_parent(tmp_path: Path) -> None:
    mark = f"{os.getpid()}{time.time_ns()}"
    script = (
        "import sys, time; from pathlib import Path; from kbuild import sandbox\n"
        f"p = sandbox.popen(['/bin/sh', '-c', 'sleep 600; : {mark}'], root=Path(sys.argv[1]),"
        " binds=sandbox.system_binds(), environment={}, purpose='x')\n"
        "time.sleep(1); print('up', flush=True); time.sleep(600)"
    )
    import sys

    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "root")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    assert running(mark)
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 10
    while running(mark) and time.monotonic() < until:
        time.sleep(0.1)
    assert not running(mark)


def running(mark: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if f"sleep 600; : {mark}".encode() in words:
            return True
    return False


def test_a_machine_without_namespaces_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_unshare", lambda: None)
    with pytest.raises(SandboxUnavailable, match="which the proof needs"):
        sandbox.popen(["x"], root=tmp_path, binds=[], environment={}, purpose="the proof")
