"""Write a configuration to a folder that appears whole, and replace only what kbuild wrote."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from kbuild.base.disk import disk_errors, make_then_move, resolved
from kbuild.base.errors import NotWritable, OutputExists, OutputNotReplaceable
from kbuild.base.files import read_file, reason_of, sha256
from kbuild.config.model import File

SUMS = "SHA256SUMS"
_MARK = "# Written by {command}. With --force, kbuild replaces these files if none was changed.\n"
_CURRENT = (
    "it is the current directory or contains it, and kbuild replaces the output as a whole;"
    " give a new directory, such as --output config"
)
_MAX_SUMS = 16 << 20  # bytes; those of 10,000 kubelets have 2 MiB


def write_configuration(
    folder: Path, files: tuple[File, ...], *, force: bool, command: str = "kbuild config"
) -> None:
    """Write the files, and SHA256SUMS of them, to a folder that does not exist or is empty.

    With ``force`` it may also hold what an earlier run of the command wrote, and nothing else.
    Raises OutputExists, OutputNotReplaceable, NotWritable or DiskFull.
    """
    place, mark = resolved(folder), _MARK.format(command=command)
    with disk_errors(folder), _locked(place):
        _demand_free(folder, place, mark if force else None)
        with make_then_move(place) as made:
            for file in files:
                path = made / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(file.content, encoding="utf-8")
            (made / SUMS).write_text(mark + _sums(files), encoding="utf-8")


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Wait until no other kbuild writes a configuration beside this one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _demand_free(folder: Path, place: Path, mark: str | None) -> None:
    """Check that a folder can be written; ``mark`` is that of files which may be replaced."""
    if folder.is_symlink() or (os.path.lexists(place) and not place.is_dir()):
        raise NotWritable(path=folder, reason="it is a link or a file, not a directory")
    if not place.exists():
        return
    if place in (here := Path.cwd(), *here.parents):
        raise NotWritable(path=folder, reason=_CURRENT)
    if not any(place.iterdir()):
        return
    if mark is None:
        raise OutputExists(path=folder)
    if (reason := _why_not_ours(place, mark)) is not None:
        raise OutputNotReplaceable(path=folder, reason=reason)


def _why_not_ours(place: Path, mark: str) -> str | None:
    """Return why a folder is not exactly what an earlier run wrote; None if it is."""
    try:
        text = read_file(place / SUMS, _MAX_SUMS).decode()
    except (OSError, UnicodeError) as error:
        return f"its {SUMS} cannot be read: {reason_of(error)}"
    if not text.startswith(mark):
        return f"its {SUMS} is not of a configuration"
    lines = text.removeprefix(mark).splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {
        str(path.relative_to(place)): path
        for path in place.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    if strange := sorted(there.keys() ^ {*listed, SUMS}):
        return f"{strange[0]} was added or removed"
    changed = [
        n for n, digest in listed.items() if there[n].is_symlink() or sha256(there[n]) != digest
    ]
    return f"{changed[0]} was changed" if changed else None


def _sums(files: tuple[File, ...]) -> str:
    lines = (f"{hashlib.sha256(f.content.encode()).hexdigest()}  {f.name}\n" for f in files)
    return "".join(lines)
