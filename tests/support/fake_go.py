"""A Go that compiles nothing, and a kubeadm that proves what it has "compiled"."""

from pathlib import Path

import pytest

from tests.support.fake_kubeadm import FakeKubeadm
from tests.support.goelf import write_go_elf
from tests.support.releases import LIFETIMES

DATE = "2026-01-02T12:00:00Z"
GO = """\
#!/bin/sh
case $1 in
version) echo "go version go1.15.5 linux/amd64" ;;
list) echo k8s.io/kubernetes/cmd/kubeadm ;;
build) for word; do case $word in -o=*) cp "$GOROOT/kubeadm" "${word#-o=}" ;; esac; done ;;
esac
"""


def write_go_root(folder: Path) -> Path:
    """Write a GOROOT of Go 1.15.5, and return it."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/go").write_text(GO)
    (folder / "bin/go").chmod(0o755)
    write_go_elf(folder / "kubeadm", go_version="1.15.5")
    return folder


def prove_with_fake(commit: str, monkeypatch: pytest.MonkeyPatch) -> FakeKubeadm:
    """Prove with a kubeadm v1.20.2 of this commit, built at DATE, and return it."""
    fake = FakeKubeadm(LIFETIMES.ca, LIFETIMES.leaf)
    fake.fields = {
        "major": "1",
        "minor": "20",
        "gitVersion": "v1.20.2",
        "gitCommit": commit,
        "gitTreeState": "dirty",
        "buildDate": DATE,
        "goVersion": "go1.15.5",
        "compiler": "gc",
        "platform": "linux/amd64",
    }
    monkeypatch.setattr("kbuild.kubeadm.prove.binary.sandbox_runner", lambda *_: fake)
    return fake
