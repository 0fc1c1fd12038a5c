"""The container image and `python -m kbuild`, as far as no engine and no other Python is needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# The words of an older Python; 3.4 is the oldest that ast can parse.
OLD = (
    "import runpy, sys; sys.version_info = (3, 9, 2); sys.version = '3.9.2 (default)'; "
    "runpy.run_module('kbuild', run_name='__main__')"
)


def stages() -> list[list[str]]:
    """Return the instructions of each stage, each on one line."""
    lines = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    instructions = [" ".join(line.split()) for line in lines.splitlines() if line.strip()]
    first = [number for number, line in enumerate(instructions) if line.startswith("FROM ")]
    return [instructions[a:b] for a, b in zip([0, *first], [*first, None], strict=True)]


def test_the_base_is_pinned_by_its_digest_and_can_be_replaced() -> None:
    before, *built = stages()
    assert len(before) == 1
    assert re.fullmatch(r"ARG BASE=[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", before[0])
    assert [stage[0] for stage in built] == ["FROM ${BASE} AS build", "FROM ${BASE}"]


def test_the_image_does_not_run_as_root() -> None:
    users = [line for line in stages()[-1] if line.startswith("USER ")]
    assert [re.fullmatch(r"USER [1-9]\d+:[1-9]\d+", user) is not None for user in users] == [True]


def test_the_image_has_only_packages_that_are_locked_by_hash() -> None:
    installs = [line for stage in stages() for line in stage if "pip install" in line]
    assert len(installs) == 2
    assert (
        "--require-hashes --only-binary :all: --requirement /src/locks/release.txt" in installs[0]
    )
    assert "--no-deps --no-build-isolation /src" in installs[1]


def test_the_context_has_only_what_is_installed() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    assert set(rules) == {"*", "**/__pycache__", *(f"!{name}" for name in kept)}
    assert {"tests", ".git", "dist", ".venv"}.isdisjoint(kept)


@pytest.mark.parametrize("name", ["__init__", "__main__"])
def test_an_older_python_can_read_what_tells_it_that_it_is_too_old(name: str) -> None:
    ast.parse((ROOT / f"kbuild/{name}.py").read_text(), feature_version=(3, 4))


def test_an_older_python_is_told_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OLD], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "kbuild needs Python 3.11 or newer, this is 3.9.2\n"


def test_python_m_kbuild_is_kbuild() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kbuild", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
