"""What a stranger installs: uvx from a clone, and what a Python that is too old says."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import debian

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
OLD_PYTHON = ("libc6", "libexpat1", "libpython3.9-minimal", "python3.9-minimal", "zlib1g")


def test_uvx_runs_a_clone(tmp_path: Path) -> None:
    done = subprocess.run(
        (PROGRAMS / "uvx", "--python", sys.executable, "--from", ROOT, "kbuild", "--version"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kbuild ")


def test_a_python_that_is_too_old_says_so_in_one_line(downloads: Path, tmp_path: Path) -> None:
    root = debian.unpack(downloads, "bullseye", OLD_PYTHON, tmp_path)
    done = subprocess.run(
        (root / "usr/bin/python3.9", "-B", "-m", "kbuild", "--help"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kbuild needs Python 3.11 or newer, this is 3.9.")
    assert len(done.stderr.splitlines()) == 1
