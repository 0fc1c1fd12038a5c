"""SHA256SUMS and SHA512SUMS, and a ``.sha256`` file for each file.

The sums have the format of ``sha256sum -c``. A ``.sha256`` file contains only the hex digits, as on
upstream's site (kubernetes/release, pkg/release/release.go).
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from kbuild.base.files import open_file
from kbuild.release.names import SUM_SUFFIX, SUMS


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the digests of files in a directory, by name and algorithm."""
    return {name: {kind: digest(folder / name, kind) for kind in SUMS} for name in names}


def write_sums(folder: Path, digests: Mapping[str, Mapping[str, str]]) -> None:
    """Write the checksum files for these digests of files in a directory."""
    names = sorted(digests)
    for algorithm, sums in SUMS.items():
        lines = [f"{digests[name][algorithm]}  {name}\n" for name in names]
        (folder / sums).write_text("".join(lines))
    for name in names:
        (folder / f"{name}{SUM_SUFFIX}").write_text(digests[name]["sha256"])


def read_sums(content: bytes) -> dict[str, str]:
    """Return the digest of each file in the content of a checksum file.

    Raises ValueError unless it has exactly the form that kbuild writes: one sorted line per file.
    """
    text = content.decode()
    lines = [line.partition("  ") for line in text.splitlines()]
    found = {name: value for value, _, name in lines}
    if text != "".join(f"{found[name]}  {name}\n" for name in sorted(found)):
        message = "it is not one line per file, sorted by name"
        raise ValueError(message)
    return found


def digest(path: Path, algorithm: str) -> str:
    """Return a digest of a file as hex digits."""
    with open_file(path) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
