"""How a check of nodes shows how far it is."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kbuild.nodes.check import ask
from kbuild.nodes.check.checked import Wanted
from tests.support.recorder import Recorder


def test_hosts_that_do_not_answer_yet_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def survey(
        _connections: object, _parallel: int, _path: str, told: Callable[[int, int], None]
    ) -> tuple[list[Any], list[Any]]:
        told(1, 2)
        return [], []

    monkeypatch.setattr(ask, "survey", survey)
    progress = Recorder()
    ask.check({}, Wanted(now=datetime.now(UTC)), progress)
    assert progress.advances == [("hosts asked", 1, 2)]
