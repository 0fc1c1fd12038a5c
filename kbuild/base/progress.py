"""The interface through which a stage reports its progress."""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of stages; ``cli/console.py`` shows it, tests record it."""

    def stage(self, title: str) -> None:
        """Begin a stage, for example ``source``."""

    def say(self, text: str) -> None:
        """Report one message for the user."""

    def advance(self, what: str, done: int, total: int | None) -> None:
        """Report the progress of a long step; ``total`` is None while it is unknown."""

    def detail(self, text: str) -> None:
        """Report a line that only --verbose shows."""
