"""SHA256SUMS and SHA512SUMS, and a bare digest beside each file.

The sums are as ``sha256sum -c`` wants them; the file beside holds only the hex digits, as those of
upstream's site do (kubernetes/release, pkg/release/release.go).
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from kbuild.base.files import open_file
from kbuild.release.names import SUM_SUFFIX, SUMS


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the digests of those files of a folder: by name, then by algorithm."""
    return {name: {kind: digest(folder / name, kind) for kind in SUMS} for name in names}


def write_sums(folder: Path, digests: Mapping[str, Mapping[str, str]]) -> None:
    """Write the sums of files of a folder whose digests are these."""
    names = sorted(digests)
    for algorithm, sums in SUMS.items():
        lines = [f"{digests[name][algorithm]}  {name}\n" for name in names]
        (folder / sums).write_text("".join(lines))
    for name in names:
        (folder / f"{name}{SUM_SUFFIX}").write_text(digests[name]["sha256"])


def read_sums(content: bytes) -> dict[str, str]:
    """Return the digest of each name in the content of a file of sums.

    Raises ValueError unless it is as we write it: a line a file, sorted, and nothing else.
    """
    text = content.decode()
    lines = [line.partition("  ") for line in text.splitlines()]
    found = {name: value for value, _, name in lines}
    if text != "".join(f"{found[name]}  {name}\n" for name in sorted(found)):
        message = "it is not a line a file, sorted by their names"
        raise ValueError(message)
    return found


def digest(path: Path, algorithm: str) -> str:
    """Return a digest of a file as hex digits."""
    with open_file(path) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
