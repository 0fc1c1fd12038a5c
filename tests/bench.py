"""What kbuild costs beside the compiler: ``make bench``.

Both sides build the same tree with the same Go and an empty cache each, one after the other in the
same run, so that only their ratio counts: a bare time says little on a noisy machine.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from tests.support import debian

GO = "1.15.15"  # of Debian; v1.20.2 itself pins 1.15.5
ROUNDS = 2
LIMIT = 1.15


def bare_build(archive: Path, go_root: Path, folder: Path) -> float:
    """Return the seconds of `go build` alone, on the whole tree, unpacked beforehand."""
    parent = folder / "go/src/k8s.io"
    parent.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        tar.extractall(parent)
    [tree] = parent.iterdir()
    tree = tree.rename(parent / "kubernetes")
    environment = {
        "PATH": f"{go_root}/bin:{os.environ['PATH']}",
        "HOME": str(folder),
        "GOROOT": str(go_root),
        "GOPATH": str(folder / "go"),
        "GOCACHE": str(folder / "cache"),
        "GO111MODULE": "off",
        "CGO_ENABLED": "0",
    }
    command: list[str | Path] = [
        go_root / "bin/go",
        "build",
        "-ldflags=-s -w",
        "-o",
        folder / "kubeadm",
    ]
    began = time.monotonic()
    subprocess.run([*command, "./cmd/kubeadm"], cwd=tree, env=environment, check=True)
    return time.monotonic() - began


def kbuild(archive: Path, go_root: Path, folder: Path) -> tuple[float, dict[str, float]]:
    """Return the seconds of the whole main job, and of its stages."""
    command: list[str | Path] = [
        *(Path(sys.executable).with_name("kbuild"), "kubeadm", "--version", "v1.20.2"),
        *("--ca-years", "100", "--leaf-years", "100", "--source", archive, "--builder", "local"),
        *("--go-root", go_root, "--go-version", GO, "--output", folder / "out", "--quiet"),
        *("--cache-dir", folder / "cache"),
    ]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    return seconds, json.loads((folder / "out/build.json").read_text())["seconds"]


def main() -> int:
    """Measure, print, and fail when the whole costs more than 15 % above the compile."""
    archive = debian.kubernetes(debian.default_cache())
    go_root = debian.golang(debian.default_cache(), "1.15")
    bare, whole, stages = [], [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="kbuild-bench-") as folder:
            bare.append(bare_build(archive, go_root, Path(folder)))
        with tempfile.TemporaryDirectory(prefix="kbuild-bench-") as folder:
            seconds, each = kbuild(archive, go_root, Path(folder))
        whole.append(seconds)
        stages.append(each)
    for name in stages[0]:
        print(f"{name:10} {min(each[name] for each in stages):7.1f} s")
    ratio = min(whole) / min(bare)
    print(f"{'whole':10} {min(whole):7.1f} s, the best of {ROUNDS}")
    print(f"{'go build':10} {min(bare):7.1f} s, the best of {ROUNDS}, whole tree, empty cache")
    print(f"ratio      {ratio:7.2f}, at most {LIMIT} is wanted")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
