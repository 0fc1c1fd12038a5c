"""Completion, as the shells ask for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KBUILD = Path(sys.executable).with_name("kbuild")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("kbuild kub", ["kubeadm"]),
        ("kbuild kubeadm --lea", ["--leaf-years"]),
        ("kbuild nodes roll", ["rollback"]),
        ("kbuild nodes renew --inv", ["--inventory"]),
    ],
)
def test_bash_is_offered_commands_and_options(typed: str, offered: list[str]) -> None:
    asked = {
        "_KBUILD_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    done = subprocess.run(
        [KBUILD], env=os.environ | asked, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == offered
