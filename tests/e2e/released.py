"""What the main job leaves: read back by other means than kbuild's own."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.e2e.command import Done, Kbuild

GIT_DOCKER = "git, docker"
ARCHIVE_DOCKER = "archive, docker"
ARCHIVE_LOCAL = "archive, local"

ARCH = "amd64"
BINARY = f"kubeadm-linux-{ARCH}"
CENTURY = timedelta(days=36500)


@dataclass(frozen=True, slots=True)
class Released:
    """A finished folder, what the command printed, and when it ran."""

    folder: Path
    done: Done
    began: datetime
    ended: datetime

    @property
    def binary(self) -> Path:
        return self.folder / BINARY

    def json(self, name: str) -> Any:
        """Read one of its JSON files."""
        return json.loads((self.folder / name).read_text())

    def issued_here(self, not_after: datetime) -> bool:
        """Tell whether a certificate of a hundred years that ends then was issued in this run."""
        second = timedelta(seconds=1)
        return self.began - second <= not_after - CENTURY <= self.ended + second


class Releases:
    """Runs the main job once for each way of building, when it is first asked for."""

    def __init__(self, kbuild: Kbuild, ways: Mapping[str, Sequence[str | Path]]) -> None:
        self._kbuild = kbuild
        self.ways = ways
        self._made: dict[str, Released] = {}

    def __getitem__(self, way: str) -> Released:
        if way not in self._made:
            folder = self._kbuild.home / way.replace(", ", "-")
            self._made[way] = release(self._kbuild, folder, *self.ways[way])
        return self._made[way]


def release(kbuild: Kbuild, folder: Path, *args: str | Path) -> Released:
    """Run the main job to a release in ``folder``."""
    began = datetime.now(UTC)
    done = kbuild.kubeadm(*args, "--output", folder)
    assert done.code == 0, done.stderr
    return Released(folder, done, began, datetime.now(UTC))


def certificates(document: Any) -> Iterator[dict[str, str]]:
    """Find every certificate in a proof, wherever it stands."""
    if isinstance(document, dict):
        if "not_after" in document:
            yield document
        document = list(document.values())
    if isinstance(document, list):
        for part in document:
            yield from certificates(part)
