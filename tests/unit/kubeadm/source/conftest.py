from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kbuild.kubeadm.model import BuildRequest
from kbuild.settings import Settings

RequestFor = Callable[..., BuildRequest]


@pytest.fixture
def request_for() -> RequestFor:
    def make(source: str | Path, version: str = "v1.20.2", **changes: Any) -> BuildRequest:
        given = {"version": (version,), "ca_years": 10, "leaf_years": 1, "source": str(source)}
        return Settings(**{**given, **changes}).requests({})[0]

    return make
