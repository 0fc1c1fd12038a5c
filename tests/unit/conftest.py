import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _umask() -> Iterator[None]:
    """Make folders that only their user can write to: kbuild refuses any other cache."""
    before = os.umask(0o022)
    yield
    os.umask(before)
