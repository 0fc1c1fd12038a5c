"""Paths as text: an inventory of 10,000 files would spend more time in pathlib than in reading."""

import posixpath

folder_of = posixpath.dirname
name_of = posixpath.basename
split_extension = posixpath.splitext


def beside(path: str, relative: str) -> str:
    """Return a path that is relative to the directory of a file."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), relative))


def near(path: str, other: str) -> int:
    """Return how many components two paths have in common, from the root on."""
    count = 0
    for mine, theirs in zip(path.split("/"), other.split("/"), strict=False):
        if mine != theirs:
            break
        count += 1
    return count
