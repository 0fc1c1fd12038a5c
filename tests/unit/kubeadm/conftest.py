from collections.abc import Iterator
from pathlib import Path

import pytest

from kbuild.base import network
from kbuild.base.workspace import Workspace, open_workspace
from tests.support.recorder import Recorder


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "FIRST_WAIT", 0.0)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with open_workspace(tmp_path / "cache") as made:
        yield made
