"""Paths as text: an inventory of 10,000 files would spend more time in pathlib than in reading."""

import glob
import posixpath
from contextlib import suppress
from pathlib import Path

folder_of = posixpath.dirname
name_of = posixpath.basename
split_extension = posixpath.splitext


def absolute(path: str) -> str:
    """Return a path from the root on, by which the same folder has one name however it is typed.

    Links stay as they are, except in what stands before "..", where they decide what that means.
    """
    parts = path.split("/")
    with suppress(OSError, ValueError):  # the current directory may be gone; reading will tell
        if ".." not in parts:
            return posixpath.abspath(path)
        last = len(parts) - parts[::-1].index("..")
        return posixpath.normpath(
            posixpath.join(posixpath.realpath("/".join(parts[:last])), *parts[last:])
        )
    return path


def absolute_pattern(pattern: str) -> str:
    """Return a pattern of fnmatch for such paths; one for names, or with * in front, stays."""
    if "/" not in pattern or pattern.startswith(("/", "*")):
        return pattern
    with suppress(OSError):
        return posixpath.normpath(posixpath.join(glob.escape(str(Path.cwd())), pattern))
    return pattern


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
