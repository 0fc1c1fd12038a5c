from collections.abc import Mapping
from pathlib import Path

from kbuild.kubeadm.model import GoPin, Lifetimes, PatchedTree, SourceFile, SourceTree, Toolchain


def patched_tree(
    folder: Path, go_root: Path, files: Mapping[str, SourceFile], diff: str
) -> PatchedTree:
    """Return a tree of v1.20.2 for a local Go 1.15.5; what kbuild reads of it is in ``folder``."""
    return PatchedTree(
        source=SourceTree(
            path=folder, tag="v1.20.2", commit="f" * 40, origin="git://x", files=files
        ),
        toolchain=Toolchain(
            builder="local",
            pin=GoPin(version="1.15.5", files=("x",)),
            go_version="1.15.5",
            go_root=go_root,
        ),
        lifetimes=Lifetimes(ca_years=100, leaf_years=10),
        patches=(),
        diff=diff,
    )
