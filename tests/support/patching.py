"""Helpers of the tests that patch trees."""

from pathlib import Path

from kbuild.kubeadm.model import (
    GoPin,
    Lifetimes,
    PatchedTree,
    SourceTree,
    StoredDefaults,
    Toolchain,
)
from kbuild.kubeadm.patching.apply import patch_tree
from kbuild.kubeadm.patching.gosource import added_duration, const_value
from tests.support.eras import CERT, CONSTANTS, PKI_HELPERS

YEAR = 365 * 24 * 3600 * 10**9
TOOLCHAIN = Toolchain(builder="local", pin=GoPin(version="1.15.5", files=()), go_version="1.15.5")


def patch(
    folder: Path,
    tag: str,
    ca: int = 100,
    leaf: int = 10,
    stored_defaults: StoredDefaults = "override",
) -> PatchedTree:
    tree = SourceTree(path=folder, tag=tag, commit="0" * 40, origin="a test")
    lifetimes = Lifetimes(ca_years=ca, leaf_years=leaf)
    return patch_tree(tree, TOOLCHAIN, lifetimes, stored_defaults)


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def lifetimes(folder: Path, tag: str) -> tuple[int, int]:
    """Return the years of CA and leaf, each read where kubeadm of that era takes it from."""
    minor = int(tag.split(".")[1])
    texts = {file: (folder / file).read_text() for file in (CERT, PKI_HELPERS, CONSTANTS)}
    if minor >= 31:
        ca = const_value(texts[CONSTANTS], "CACertificateValidityPeriod")
        leaf = const_value(texts[CONSTANTS], "CertificateValidityPeriod")
    else:
        ca = added_duration(texts[CERT], "NewSelfSignedCACert", "NotAfter")
        if minor >= 15:
            leaf = const_value(texts[CONSTANTS], "CertificateValidity")
        else:
            home = CERT if minor == 13 else PKI_HELPERS
            leaf = added_duration(texts[home], "NewSignedCert", "NotAfter")
    assert (ca % YEAR, leaf % YEAR) == (0, 0)
    return ca // YEAR, leaf // YEAR


def edit(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
