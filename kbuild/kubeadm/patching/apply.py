"""Apply the patches with git, and check the result by computing the lifetimes from the source."""

import hashlib
from datetime import timedelta

from kbuild.base import git
from kbuild.base.diff import unified
from kbuild.base.errors import BrokenSource, NotWritable
from kbuild.kubeadm.model import (
    STOCK_CA_YEARS,
    STOCK_LEAF_YEARS,
    AppliedPatch,
    Lifetimes,
    PatchedTree,
    SourceTree,
    StoredDefaults,
    Toolchain,
)
from kbuild.kubeadm.patching.errors import LifetimeNotReached
from kbuild.kubeadm.patching.fitting import check_keeps, fitting_series, human, no_fit, places, read
from kbuild.kubeadm.patching.goconst import GoSourceError
from kbuild.kubeadm.patching.gosource import added_duration, const_value
from kbuild.kubeadm.patching.series import Check, Hunk, Patch, Series


def patch_tree(
    tree: SourceTree,
    toolchain: Toolchain,
    lifetimes: Lifetimes,
    stored_defaults: StoredDefaults,
) -> PatchedTree:
    """Change the tree in place so that kubeadm issues certificates of these lifetimes.

    ``stored_defaults`` has no effect where configurations of its version store no lifetimes.
    Raises UnsupportedVersion, NoPatchFits, SeveralPatchesFit, VendoredCopy, LifetimeNotReached,
    PatchIndexBroken, GitMissing, DiskFull or NotWritable. After LifetimeNotReached, DiskFull or
    NotWritable, do not use the tree.
    """
    series = fitting_series(tree, lifetimes, stored_defaults)
    hunks = series.hunks(lifetimes, stored_defaults)
    before = {hunk.file: read(tree, hunk.file, hunk.old[0].strip()) for hunk in hunks}
    rendered = {patch: patch.render(lifetimes) for patch in series.patches_for(stored_defaults)}
    _git_apply(tree, "".join(rendered.values()), hunks)
    after = {file: read(tree, file, "what was patched") for file in before}
    _check_text(tree, before, after, hunks)
    _check_lifetimes(after, series, lifetimes)
    check_keeps(tree, series)
    return PatchedTree(
        source=tree,
        toolchain=toolchain,
        lifetimes=lifetimes,
        patches=tuple(_applied(patch, text) for patch, text in rendered.items()),
        diff="".join(
            unified(before[file], after[file], f"a/{file}", f"b/{file}") for file in sorted(before)
        ),
        stored_defaults=stored_defaults if series.stored_defaults else None,
        note=series.note(stored_defaults),
    )


def leave_stock(tree: SourceTree, toolchain: Toolchain) -> PatchedTree:
    """Return the unpatched tree; it must fit a series nevertheless.

    Raises UnsupportedVersion, NoPatchFits, SeveralPatchesFit, VendoredCopy or PatchIndexBroken.
    """
    stock = Lifetimes(ca_years=STOCK_CA_YEARS, leaf_years=STOCK_LEAF_YEARS)
    series = fitting_series(tree, stock, "keep")
    return PatchedTree(
        source=tree,
        toolchain=toolchain,
        lifetimes=stock,
        patches=(),
        diff="",
        stored_defaults="keep" if series.stored_defaults else None,
    )


def _git_apply(tree: SourceTree, text: str, hunks: tuple[Hunk, ...]) -> None:
    try:
        git.apply_patch(tree.path, text, "--check")
    except BrokenSource as error:
        first = hunks[0]
        raise no_fit(tree, first.file, first.old[0].strip(), details=error.details) from error
    try:
        git.apply_patch(tree.path, text)
    except BrokenSource as error:
        reason = "git apply failed"
        raise NotWritable(path=tree.path, reason=reason, details=error.details) from error


def _check_text(
    tree: SourceTree, before: dict[str, str], after: dict[str, str], hunks: tuple[Hunk, ...]
) -> None:
    """Check that the lines in the hunks have changed, and nothing else."""
    wanted = dict(before)
    for hunk in hunks:
        wanted[hunk.file] = _replaced(wanted[hunk.file], hunk)
    for hunk in hunks:
        if after[hunk.file] != wanted[hunk.file]:
            details = "git apply changed something that is not in the patch"
            raise no_fit(tree, hunk.file, hunk.new[0].strip(), details)


def _replaced(text: str, hunk: Hunk) -> str:
    (at,) = places(text, hunk.old)
    lines = text.split("\n")
    lines[at : at + len(hunk.old)] = hunk.new
    return "\n".join(lines)


def _check_lifetimes(after: dict[str, str], series: Series, lifetimes: Lifetimes) -> None:
    wanted = {"ca": lifetimes.ca, "leaf": lifetimes.leaf}
    for check in series.checks:
        expected = wanted[check.lifetime] // timedelta(microseconds=1) * 1000
        name = check.const or f"{check.field} of {check.function}"
        try:
            actual = _computed(after[check.file], check)
            shown = human(actual)
        except GoSourceError as error:
            actual, shown = None, f"unknown ({error})"
        if actual != expected:
            raise LifetimeNotReached(
                name=name, file=check.file, actual=shown, expected=human(expected)
            )


def _computed(source: str, check: Check) -> int:
    if check.const:
        return const_value(source, check.const)
    return added_duration(source, check.function, check.field)


def _applied(patch: Patch, text: str) -> AppliedPatch:
    return AppliedPatch(name=patch.name, sha256=hashlib.sha256(text.encode()).hexdigest())
