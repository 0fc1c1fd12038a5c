"""A Progress that remembers, for asking afterwards what was told."""

from kbuild.base.progress import Unit


class Recorder:
    """Remembers every word of progress."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.said: list[str] = []
        self.details: list[str] = []
        self.advances: list[tuple[str, int, int | None]] = []

    def stage(self, title: str) -> None:
        self.stages.append(title)

    def say(self, text: str) -> None:
        self.said.append(text)

    def advance(self, what: str, done: int, total: int | None, unit: Unit = "") -> None:  # noqa: ARG002  # as Progress has it
        self.advances.append((what, done, total))

    def detail(self, text: str) -> None:
        self.details.append(text)
