"""Errors of patching a tree."""

from pathlib import Path

from kbuild.base.errors import PatchError


class NoPatchFits(PatchError):
    """No patch fits the tree."""

    tag: str
    file: str
    expected: str

    what = "no patch fits {tag}: {file} does not hold {expected} exactly once"
    todo = (
        "the tree was modified, or has a layout that kbuild does not know yet; if the file is about"
        " v1beta4, --stored-defaults keep builds without that patch"
    )


class SeveralPatchesFit(PatchError):
    """More than one series fits the tree, so neither is certain."""

    tag: str
    series: str

    what = "more than one patch series fits {tag}: {series}"
    todo = "the tree contains two layouts at once; use an unmodified source"


class LifetimeNotReached(PatchError):
    """The patched source does not compute the requested lifetime."""

    name: str
    file: str
    actual: str
    expected: str

    what = "after patching, {name} in {file} is {actual}, not {expected}"
    todo = "the tree was modified, or has a layout that kbuild does not know yet"


class VendoredCopy(PatchError):
    """vendor/ holds a copy of client-go instead of a link, so a patch would have no effect."""

    path: Path | str

    what = "{path} is a copy, not a link to staging/: the patch would have no effect"
    todo = "use a source that keeps symbolic links, such as git or a tar archive"


class PatchIndexBroken(PatchError):
    """The patches directory is missing, or its index cannot be read."""

    path: Path | str
    reason: str

    what = "the patch index {path} cannot be read: {reason}"
    todo = "reinstall kbuild"
