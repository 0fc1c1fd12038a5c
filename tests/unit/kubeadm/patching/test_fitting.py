"""Trees that one series fits, none, or more than one."""

import shutil
from pathlib import Path

import pytest

from kbuild.base.errors import UnsupportedVersion
from kbuild.kubeadm.patching.errors import NoPatchFits, SeveralPatchesFit, VendoredCopy
from tests.support.eras import CERT, CLIENT_GO, CONSTANTS, DEFAULTS, PKI_HELPERS, SCHEME, make_tree
from tests.support.patching import edit, lifetimes, patch, snapshot

LEAF = "\tCertificateValidityPeriod = time.Hour * 24 * 365"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tag", "layout"),
    [("v1.14.0-alpha.1", "v1.13.0"), ("v1.14.0-alpha.2", "v1.14.0"), ("v1.15.0-alpha.1", "v1.14.0"),
     ("v1.15.0-beta.0", "v1.15.0"), ("v1.31.0-alpha.0", "v1.30.0"), ("v1.31.0-alpha.1", "v1.31.0")],
)  # fmt: skip
def test_a_pre_release_at_a_border_may_be_of_either_layout(
    tmp_path: Path, tag: str, layout: str
) -> None:
    make_tree(tmp_path, layout)
    patch(tmp_path, tag, 50, 5)
    assert lifetimes(tmp_path, layout) == (50, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tag", "file", "old", "new", "expected"),
    [
        ("v1.20.2", CERT, "duration365d * 10)", "duration365d * 100)", "now.Add(duration365d"),
        ("v1.20.2", CERT, "24 * 365\n", "24 * 365 * 100\n", "duration365d of 1 year"),
        ("v1.20.2", CONSTANTS, "24 * 365\n", "24 * 365 * 100\n", "CertificateValidity = time.Hour"),
        ("v1.20.2", PKI_HELPERS, "constants.CertificateValidity)", "constants.Mine)", "time.Now()"),
        ("v1.20.2", PKI_HELPERS, "certutil.NewSelf", "mine.NewSelf", "certutil.NewSelfSigned"),
        ("v1.13.0", CERT, "time.Now().Add(duration365d)", "time.Now().Add(year)", "time.Now().Add"),
        ("v1.14.10", PKI_HELPERS, "24 * 365\n", "24 * 3650\n", "duration365d of 1 year"),
        ("v1.33.3", CONSTANTS, "24 * 365 * 10\n", "24 * 365 * 30\n", "CACertificateValidityPeriod"),
        ("v1.33.3", PKI_HELPERS, "Add(kubeadmconstants.CA", "Add(mine.CA", "constants.CACert"),
        ("v1.33.3", DEFAULTS, "obj.CACert", "obj.MyCert", "obj.CACertificateValidityPeriod == nil"),
        ("v1.33.3", DEFAULTS, ": constants.Cert", ": mine.Cert", "Duration: constants.Certificate"),
        ("v1.33.3", SCHEME, "(v1beta4.", "(v1.", "SetVersionPriority(v1beta4"),
        ("v1.20.2", CERT, "package cert", "package (", "duration365d of 1 year"),
        ("v1.33.3", CONSTANTS, "const (\n", f"const (\n{LEAF}\n", LEAF.strip()),
    ],
)  # fmt: skip
def test_an_edited_tree_fits_nothing(
    tmp_path: Path, tag: str, file: str, old: str, new: str, expected: str
) -> None:
    make_tree(tmp_path, tag)
    edit(tmp_path, file, old, new)
    before = snapshot(tmp_path)
    with pytest.raises(NoPatchFits) as caught:
        patch(tmp_path, tag)
    assert file in str(caught.value)
    assert expected in str(caught.value)
    assert snapshot(tmp_path) == before


def test_what_only_stored_defaults_need_is_not_demanded_without_them(tmp_path: Path) -> None:
    make_tree(tmp_path, "v1.33.3")
    (tmp_path / DEFAULTS).unlink()
    (tmp_path / SCHEME).unlink()
    patch(tmp_path, "v1.33.3", stored_defaults="keep")
    assert lifetimes(tmp_path, "v1.33.3") == (100, 10)


def test_patching_twice_is_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, "v1.31.0")
    patch(tmp_path, "v1.31.0")
    with pytest.raises(NoPatchFits, match=CONSTANTS):
        patch(tmp_path, "v1.31.0")


@pytest.mark.parametrize("spoil", ["missing", "crlf", "latin-1", "link"])
def test_an_unreadable_file_fits_nothing(tmp_path: Path, spoil: str) -> None:
    make_tree(tmp_path, "v1.20.2")
    path = tmp_path / CERT
    data = path.read_bytes()
    path.unlink()
    if spoil == "crlf":
        path.write_bytes(data.replace(b"\n", b"\r\n"))
    elif spoil == "latin-1":
        path.write_bytes(data + b"// \xe9\n")
    elif spoil == "link":
        (tmp_path / "elsewhere.go").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere.go")
    with pytest.raises(NoPatchFits, match=CERT):
        patch(tmp_path, "v1.20.2")


def test_a_folder_that_is_a_link_out_of_the_tree_is_not_followed(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", "v1.33.3")
    constants = (tmp_path / "tree" / CONSTANTS).parent
    constants.rename(tmp_path / "outside")
    constants.symlink_to(tmp_path / "outside")
    before = snapshot(tmp_path / "outside")
    with pytest.raises(NoPatchFits) as caught:
        patch(tmp_path / "tree", "v1.33.3")
    assert "symbolic link" in caught.value.details
    assert snapshot(tmp_path / "outside") == before


def test_a_tree_of_an_unknown_layout_fits_nothing(tmp_path: Path) -> None:
    make_tree(tmp_path, "v1.30.0")
    with pytest.raises(NoPatchFits, match=r"v1\.40\.0.*CertificateValidityPeriod"):
        patch(tmp_path, "v1.40.0")


def test_at_a_border_both_failures_are_reported(tmp_path: Path) -> None:
    make_tree(tmp_path, "v1.20.2")
    edit(tmp_path, CERT, "* 10)", "* 99)")
    with pytest.raises(NoPatchFits, match=CONSTANTS) as caught:
        patch(tmp_path, "v1.31.0-alpha.1")
    assert CERT in caught.value.details


def test_a_tree_that_fits_two_series_is_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, "v1.31.0")
    make_tree(tmp_path / "old", "v1.30.0")
    leaf = LEAF.replace("Period", "")
    edit(tmp_path, CONSTANTS, "const (\n", f"const (\n{leaf}\n")
    both = (tmp_path / PKI_HELPERS).read_text() + (tmp_path / "old" / PKI_HELPERS).read_text()
    (tmp_path / PKI_HELPERS).write_text(both)
    with pytest.raises(SeveralPatchesFit, match=r"1\.15, 1\.31"):
        patch(tmp_path, "v1.31.0-alpha.1")


@pytest.mark.parametrize("kind", ["folder", "file", "other link", "loop"])
def test_a_vendored_copy_is_refused(tmp_path: Path, kind: str) -> None:
    make_tree(tmp_path, "v1.20.2")
    link = tmp_path / CLIENT_GO
    link.unlink()
    if kind == "folder":
        shutil.copytree(tmp_path / "staging/src/k8s.io/client-go", link)
    elif kind == "file":
        link.write_text("../../staging/src/k8s.io/client-go")
    elif kind == "loop":
        link.symlink_to(link.name)
    else:
        link.symlink_to("../../staging/src/k8s.io/component-base")
    before = snapshot(tmp_path)
    with pytest.raises(VendoredCopy, match=CLIENT_GO):
        patch(tmp_path, "v1.20.2")
    assert snapshot(tmp_path) == before


def test_a_vendored_copy_does_not_matter_where_staging_is_not_patched(tmp_path: Path) -> None:
    make_tree(tmp_path, "v1.31.0")
    (tmp_path / CLIENT_GO).mkdir(parents=True)
    patch(tmp_path, "v1.31.0")
    assert lifetimes(tmp_path, "v1.31.0") == (100, 10)


def test_an_older_tree_is_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, "v1.13.0")
    with pytest.raises(UnsupportedVersion):
        patch(tmp_path, "v1.12.10")
