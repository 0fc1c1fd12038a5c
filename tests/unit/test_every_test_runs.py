"""Pytest collects every test file that there is: it passes over some folders by their name."""

from pathlib import Path

import pytest

from tests.conftest import COLLECTED

ROOT = Path(__file__).parents[2]


def test_every_test_file_is_collected(request: pytest.FixtureRequest) -> None:
    if request.config.args != request.config.getini("testpaths"):
        pytest.skip("some tests were asked for")
    on_disk = {str(path) for path in (ROOT / "tests").rglob("test_*.py")}
    assert request.config.stash[COLLECTED] == on_disk
