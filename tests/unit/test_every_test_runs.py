"""Pytest collects every test file that there is: it passes over some folders by their name."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_test_file_is_collected() -> None:
    command = (sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist")
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    collected = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    on_disk = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    assert collected == on_disk
