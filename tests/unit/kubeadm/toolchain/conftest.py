from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kbuild.kubeadm.model import GoRequest
from kbuild.settings import Settings

RequestFor = Callable[..., GoRequest]
MakeGo = Callable[..., Path]

FAKE_GO = """\
#!/bin/sh
# As real ones do, it leaves the answer to another Go unless told not to.
[ "$GOTOOLCHAIN" = local ] && [ "$GOENV" = off ] || exec echo go version go1.99 linux/amd64
case "$*" in
version) echo 'go version {words}' ;;
*) exit 2 ;;
esac
"""


@pytest.fixture
def request_for(tmp_path: Path) -> RequestFor:
    def make(**changes: Any) -> GoRequest:
        given = {
            "version": ("v1.20.2",),
            "ca_years": 10,
            "leaf_years": 1,
            "lock": tmp_path / "lock",
        }
        return Settings(**{**given, **changes}).requests({})[0].go

    return make


@pytest.fixture
def make_go(tmp_path: Path) -> MakeGo:
    """Make a GOROOT whose go can only tell what it is."""

    def make(version: str, name: str = "goroot", words: str = "go{} linux/amd64") -> Path:
        root = tmp_path / name
        (root / "bin").mkdir(parents=True)
        (root / "pkg/tool").mkdir(parents=True)
        go = root / "bin/go"
        go.write_text(FAKE_GO.format(words=words.format(version)))
        go.chmod(0o755)
        return root

    return make
