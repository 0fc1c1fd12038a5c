from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from kbuild.certs.api import take_inventory
from kbuild.certs.model import Inventory
from tests.support.authority import NOW
from tests.support.recorder import Recorder

Read = Callable[..., Inventory]


@pytest.fixture
def read() -> Read:
    """Give what takes an inventory of paths, by default at NOW."""

    def taken(*paths: Path, now: datetime = NOW) -> Inventory:
        return take_inventory(paths, now, Recorder())

    return taken
