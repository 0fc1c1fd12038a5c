"""What can go wrong with configuration files."""

from pathlib import Path

from kbuild.base.errors import UsageError


class BadStoredConfiguration(UsageError):
    """A stored configuration cannot be read or changed, or is of another version or kind."""

    path: Path | str
    reason: str
    hint: str

    what = "the stored configuration {path} cannot be used: {reason}"
    todo = "{hint}"
