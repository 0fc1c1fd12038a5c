"""The interface through which a stage reports its progress."""

from typing import Literal, Protocol

Unit = Literal["", "bytes"]  # what is counted: things whose step names them, or bytes


class Progress(Protocol):
    """Receives the progress of stages; ``cli/console.py`` shows it, tests record it."""

    def stage(self, title: str) -> None:
        """Begin a stage, for example ``source``."""

    def say(self, text: str) -> None:
        """Report one message for the user."""

    def advance(self, what: str, done: int, total: int | None, unit: Unit = "") -> None:
        """Report the progress of a step, which may be long.

        ``total`` is None while it is unknown. ``advance(what, 0, None)`` begins a step that cannot
        be counted. Any thread may call this.
        """

    def detail(self, text: str) -> None:
        """Report a line that only --verbose shows."""
