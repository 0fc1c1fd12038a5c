"""Apply the patches with git, and compute from the changed source that they took."""

import difflib
import hashlib
import io
import os
import tempfile
from datetime import timedelta
from pathlib import Path

from kbuild.base.errors import DiskFull, GitMissing, NotWritable
from kbuild.base.workspace import disk_errors
from kbuild.kubeadm.model import (
    STOCK_CA_YEARS,
    STOCK_LEAF_YEARS,
    AppliedPatch,
    Lifetimes,
    PatchedTree,
    SourceTree,
    Toolchain,
)
from kbuild.kubeadm.patching.errors import LifetimeNotReached
from kbuild.kubeadm.patching.fitting import check_keeps, fitting_series, human, misfit, places, read
from kbuild.kubeadm.patching.goconst import GoSourceError
from kbuild.kubeadm.patching.gosource import added_duration, const_value
from kbuild.kubeadm.patching.series import Check, Hunk, Patch, Series

NO_NEWLINE = "\n\\ No newline at end of file\n"


def patch_tree(tree: SourceTree, toolchain: Toolchain, lifetimes: Lifetimes) -> PatchedTree:
    """Change the tree in place so that kubeadm issues certificates of these lifetimes.

    Raises UnsupportedVersion, NoPatchFits, SeveralPatchesFit, VendoredCopy, LifetimeNotReached,
    PatchIndexBroken, GitMissing, DiskFull or NotWritable. After LifetimeNotReached and the last
    two the tree is of no use.
    """
    series = fitting_series(tree, lifetimes)
    hunks = series.hunks(lifetimes)
    before = {hunk.file: read(tree, hunk.file, hunk.old[0].strip()) for hunk in hunks}
    rendered = {patch: patch.render(lifetimes) for patch in series.patches}
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
        note=series.note,
        diff="".join(_diff(file, before[file], after[file]) for file in sorted(before)),
    )


def leave_stock(tree: SourceTree, toolchain: Toolchain) -> PatchedTree:
    """Return the tree with no patch at all; it must have the layout of a series all the same.

    Raises UnsupportedVersion, NoPatchFits, SeveralPatchesFit, VendoredCopy or PatchIndexBroken.
    """
    stock = Lifetimes(ca_years=STOCK_CA_YEARS, leaf_years=STOCK_LEAF_YEARS)
    fitting_series(tree, stock)
    return PatchedTree(source=tree, toolchain=toolchain, lifetimes=stock, patches=(), diff="")


def _git_apply(tree: SourceTree, text: str, hunks: tuple[Hunk, ...]) -> None:
    # Loaded here: importing it looks for git, which most commands do not need.
    try:
        from git import GitCommandError, GitCommandNotFound
    except ImportError as error:
        raise GitMissing(details=str(error)) from error
    try:
        _run_git(tree, text, "--check")
    except GitCommandNotFound as error:
        raise GitMissing(details=str(error)) from error
    except GitCommandError as error:
        first = hunks[0]
        raise misfit(tree, first.file, first.old[0].strip(), details=error.stderr) from error
    try:
        _run_git(tree, text)
    except GitCommandError as error:
        if "No space left on device" in error.stderr:
            raise DiskFull(path=tree.path) from error
        reason = "git apply failed"
        raise NotWritable(path=tree.path, reason=reason, details=error.stderr) from error


def _run_git(tree: SourceTree, text: str, *options: str) -> None:
    from git import Git

    git = Git(tree.path)
    # A repository around the tree and the user's settings decide which files git apply skips (with
    # success) and how it writes line ends; so it is kept from both.
    nothing = os.devnull
    git.update_environment(GIT_DIR=nothing, GIT_CONFIG_GLOBAL=nothing, GIT_CONFIG_NOSYSTEM="1")
    settings = ("-c", "core.autocrlf=false", "-c", "apply.whitespace=nowarn")
    # Without context git asks for --unidiff-zero; that a hunk matches once was checked before.
    command = (Git.GIT_PYTHON_GIT_EXECUTABLE, *settings, "apply", "--unidiff-zero", *options)
    with disk_errors(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        git.execute([*command, "-"], istream=file)


def _check_text(
    tree: SourceTree, before: dict[str, str], after: dict[str, str], hunks: tuple[Hunk, ...]
) -> None:
    """Check that exactly the lines named have changed."""
    wanted = dict(before)
    for hunk in hunks:
        wanted[hunk.file] = _replaced(wanted[hunk.file], hunk)
    for hunk in hunks:
        if after[hunk.file] != wanted[hunk.file]:
            details = "git apply changed something else than the patch says"
            raise misfit(tree, hunk.file, hunk.new[0].strip(), details)


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
            told = human(actual)
        except GoSourceError as error:
            actual, told = None, f"unknown ({error})"
        if actual != expected:
            raise LifetimeNotReached(
                name=name, file=check.file, actual=told, expected=human(expected)
            )


def _computed(source: str, check: Check) -> int:
    if check.const:
        return const_value(source, check.const)
    return added_duration(source, check.function, check.field)


def _applied(patch: Patch, text: str) -> AppliedPatch:
    return AppliedPatch(name=patch.name, sha256=hashlib.sha256(text.encode()).hexdigest())


def _diff(file: str, before: str, after: str) -> str:
    old, new = (io.StringIO(text, newline="\n").readlines() for text in (before, after))
    lines = difflib.unified_diff(old, new, f"a/{file}", f"b/{file}")
    return "".join(line if line.endswith("\n") else line + NO_NEWLINE for line in lines)
