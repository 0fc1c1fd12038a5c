"""How a stage tells what it is doing, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Listens to the stages; ``cli/console.py`` shows it, tests record it."""

    def stage(self, title: str) -> None:
        """Begin a stage, for example ``source``."""

    def say(self, text: str) -> None:
        """Tell one fact that the user should see."""

    def advance(self, what: str, done: int, total: int | None) -> None:
        """Tell how far a long step is; ``total`` None means not known (yet)."""

    def detail(self, text: str) -> None:
        """Tell a line that only --verbose shows."""
