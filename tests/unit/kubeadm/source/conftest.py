from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kbuild.base import network
from kbuild.base.workspace import Workspace, open_workspace
from kbuild.kubeadm.model import BuildRequest
from kbuild.settings import Settings
from tests.support.recorder import Recorder

RequestFor = Callable[..., BuildRequest]


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


@pytest.fixture
def request_for() -> RequestFor:
    def make(source: str | Path, version: str = "v1.20.2", **changes: Any) -> BuildRequest:
        given = {"version": (version,), "ca_years": 10, "leaf_years": 1, "source": str(source)}
        return Settings(**{**given, **changes}).requests({})[0]

    return make
