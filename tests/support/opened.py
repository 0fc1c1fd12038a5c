"""Does something when a file is opened, whoever opens it in this process."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

Act = Callable[[str], object]

_acts: list[Act] = []


def _hook(what: str, arguments: tuple[object, ...]) -> None:
    if what == "open" and _acts and isinstance(arguments[0], str | os.PathLike):
        for act in _acts:
            act(os.path.basename(arguments[0]))  # noqa: PTH119  # of any path


sys.addaudithook(_hook)  # Python cannot remove it, so there is one, which mostly does nothing


@contextlib.contextmanager
def when_opened(act: Act) -> Iterator[None]:
    """Call ``act`` with the name of each file that is opened."""
    _acts.append(act)
    try:
        yield
    finally:
        _acts.remove(act)
