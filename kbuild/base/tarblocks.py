"""The blocks of a tar that is written from begin to end, also to what is no file.

tarfile writes to a file only, and the OCI layout and a bundle need nothing but plain files.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
_CHUNK = 1 << 20


def of_text(name: str, content: bytes) -> Iterator[bytes]:
    """Yield a member with this content."""
    yield _head(name, len(content))
    yield content + padding(len(content))


def of_file(name: str, path: Path) -> Iterator[bytes]:
    """Yield a member with the content of a file, a megabyte at a time; raises OSError."""
    size = path.stat().st_size
    yield _head(name, size)
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            yield block
    yield padding(size)


def padding(size: int) -> bytes:
    """Return the zeros after a content of ``size`` bytes."""
    return bytes(-size % BLOCK)


def _head(name: str, size: int) -> bytes:
    """Return the header of a member, which is GNU's for a name that is too long for ustar."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    is_long = len(name) > tarfile.LENGTH_NAME
    return member.tobuf(tarfile.GNU_FORMAT if is_long else tarfile.USTAR_FORMAT)
