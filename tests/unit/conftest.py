import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("kbuild", deadline=None)  # other work on the machine makes any time pass
settings.load_profile("kbuild")


@pytest.fixture(scope="session", autouse=True)
def _umask() -> Iterator[None]:
    """Make folders that only their user can write to: kbuild refuses any other cache."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep all tests away from the cache and the settings of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Leave it to the system when files reach the disk: no test turns the power off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield
