from collections.abc import Iterator
from functools import cache

import pytest

from kbuild.nodes.renew.manifest import restart_edit


@pytest.fixture(scope="session", autouse=True)
def _same_manifest_edited_once() -> Iterator[None]:
    """Parse the manifest that most hosts of these tests share once, not for each step."""
    once = cache(restart_edit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kbuild.nodes.renew.plan.restart_edit", once)
        patch.setattr("kbuild.nodes.renew.undo.restart_edit", once)
        yield
