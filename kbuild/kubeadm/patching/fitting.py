"""Find the series that fits a tree, without changing anything."""

import os

from kbuild.base.files import read_file, reason_of
from kbuild.base.words import counted
from kbuild.kubeadm.model import DAYS_A_YEAR, Lifetimes, SourceTree, StoredDefaults
from kbuild.kubeadm.patching.errors import NoPatchFits, SeveralPatchesFit, VendoredCopy
from kbuild.kubeadm.patching.goconst import GoSourceError
from kbuild.kubeadm.patching.gosource import const_value
from kbuild.kubeadm.patching.series import Hunk, Series, series_for

DAY = 24 * 3600 * 10**9
_MAX_SOURCE = 1 << 20  # bytes; the longest file that is read, kubeadm's constants.go, has 30,000


def fitting_series(
    tree: SourceTree, lifetimes: Lifetimes, stored_defaults: StoredDefaults
) -> Series:
    """Return the series that fits the tree.

    Raises UnsupportedVersion, NoPatchFits, SeveralPatchesFit or VendoredCopy.
    """
    failures: list[NoPatchFits] = []
    fitting: list[Series] = []
    for series in series_for(tree.version):
        try:
            _check_fit(tree, series, lifetimes, stored_defaults)
            fitting.append(series)
        except NoPatchFits as error:
            failures.append(error)
    if len(fitting) > 1:
        names = ", ".join(series.name for series in fitting)
        raise SeveralPatchesFit(tag=tree.tag, series=names)
    if not fitting:
        failures[-1].details = "\n".join(str(error) for error in failures[:-1])
        raise failures[-1]
    _check_links(tree, fitting[0])
    return fitting[0]


def read(tree: SourceTree, file: str, expected: str) -> str:
    """Return the text of a file with its line ends unchanged.

    Raises NoPatchFits, which names the ``expected`` text, if it is not a UTF-8 file.
    """
    try:
        return read_file(tree.path / file, _MAX_SOURCE).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise no_fit(tree, file, expected, details=f"{file}: {reason_of(error)}") from error


def check_keeps(tree: SourceTree, series: Series) -> None:
    """Check that the constants that must not change have their original values.

    Raises NoPatchFits.
    """
    for keep in series.keeps:
        expected = f"{keep.const} of {human(keep.days * DAY)}"
        try:
            value = const_value(read(tree, keep.file, expected), keep.const)
        except GoSourceError as error:
            raise no_fit(tree, keep.file, expected, details=str(error)) from error
        if value != keep.days * DAY:
            raise no_fit(tree, keep.file, expected, details=f"{keep.const} is {human(value)}")


def places(text: str, lines: tuple[str, ...]) -> list[int]:
    """Return the indexes at which these lines occur in the text."""
    have = text.split("\n")
    size = len(lines)
    return [at for at in range(len(have)) if tuple(have[at : at + size]) == lines]


def human(duration: int) -> str:
    """Return nanoseconds in the largest unit without a fraction."""
    for name, size in (("year", DAYS_A_YEAR * DAY), ("day", DAY), ("hour", DAY // 24)):
        if duration and duration % size == 0:
            return counted(duration // size, name)
    return f"{duration / 10**9:g} seconds"


def no_fit(tree: SourceTree, file: str, expected: str, details: str = "") -> NoPatchFits:
    """Return the error for a file that does not contain the expected text."""
    return NoPatchFits(tag=tree.tag, file=file, expected=f"`{expected}`", details=details)


def _check_fit(
    tree: SourceTree, series: Series, lifetimes: Lifetimes, stored_defaults: StoredDefaults
) -> None:
    for hunk in series.hunks(lifetimes, stored_defaults):
        text = read(tree, hunk.file, hunk.old[0].strip())
        if len(places(text, hunk.old)) != 1:
            raise no_fit(tree, hunk.file, _culprit(text, hunk))
    for use in series.uses_for(stored_defaults):
        if use.text not in read(tree, use.file, use.text):
            raise no_fit(tree, use.file, use.text)
    check_keeps(tree, series)


def _culprit(text: str, hunk: Hunk) -> str:
    """Return the line of the hunk that does not occur exactly once, or all lines."""
    wrong = (line for line in hunk.old if len(places(text, (line,))) != 1)
    return next(wrong, "\n".join(hunk.old)).strip()


def _check_links(tree: SourceTree, series: Series) -> None:
    for link, target in series.links.items():
        path = tree.path / link
        exists = path.exists() or path.is_symlink()
        if exists and os.path.realpath(path) != os.path.realpath(tree.path / target):
            raise VendoredCopy(path=link)
