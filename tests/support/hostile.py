"""Programs that attack the machine they run on, compiled from hostile.c."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("hostile.c")


def compile_hostile(target: Path, attack: str, canary: Path, *, is_go: bool = False) -> Path:
    """Compile a static program that performs one attack, as kubeadm or as go.

    ``canary`` is a folder of the host that it tries to read and to write. Needs gcc.
    """
    defines = (f'-DATTACK="{attack}"', f'-DCANARY="{canary}"', f"-DGO={int(is_go)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["gcc", "-static", "-no-pie", "-O1", "-Wall", "-Werror", *defines, "-o", target, SOURCE],
        check=True,
    )
    return target
