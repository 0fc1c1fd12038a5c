"""How the tests run."""

import os
import signal

import pytest

COLLECTED = pytest.StashKey[set[str]]()


@pytest.fixture(scope="session", autouse=True)
def stopped_by_signal() -> None:
    """Make a terminated run stop what it started, as Ctrl-C does.

    A shell starts what it runs in the background with SIGINT ignored, which kbuild would inherit.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run two tests more than there are processors: many that are slow only wait for a time-out.

    Without those, more workers only take the time in which each imports and collects everything.
    """
    processors = len(os.sched_getaffinity(0))
    return processors if "not slow" in config.getoption("markexpr") else processors + 2


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the names of the files that have a test, before some are left out by their marks."""
    config.stash[COLLECTED] = {str(item.path) for item in items}
