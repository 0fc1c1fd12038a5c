"""The index of patches: which series serves a version, and what a broken index does."""

import shutil
from pathlib import Path

import pytest
from packaging.version import Version

import kbuild
from kbuild.base.errors import UnsupportedVersion
from kbuild.kubeadm.model import Lifetimes
from kbuild.kubeadm.patching.errors import PatchIndexBroken
from kbuild.kubeadm.patching.series import INDEX, patches_folder, read_index, series_for
from tests.support.eras import DEFAULTS


def names(version: str) -> list[str]:
    return [series.name for series in series_for(Version(version))]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(patches_folder(), tmp_path / "patches"))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("v1.13.0", "1.13"), ("v1.13.13-beta.0", "1.13"), ("v1.14.0", "1.14"),
        ("v1.14.10", "1.14"), ("v1.15.0", "1.15"), ("v1.20.2", "1.15"), ("v1.30.15", "1.15"),
        ("v1.31.0", "1.31"), ("v1.31.1-rc.0", "1.31"), ("v1.99.0-alpha.0", "1.31"),
        ("v2.0.0", "1.31"),
    ],
)  # fmt: skip
def test_a_release_has_one_series(version: str, expected: str) -> None:
    assert names(version) == [expected]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("v1.14.0-alpha.0", ["1.13", "1.14"]),
        ("v1.15.0-beta.2", ["1.14", "1.15"]),
        ("v1.31.0-alpha.1", ["1.15", "1.31"]),
        ("v1.31.0-rc.1", ["1.15", "1.31"]),
    ],
)
def test_a_pre_release_at_a_border_has_two_newest_last(version: str, expected: list[str]) -> None:
    assert names(version) == expected


@pytest.mark.parametrize("version", ["v1.12.10", "v1.0.0", "v1.13.0-rc.1"])
def test_an_older_version_is_refused(version: str) -> None:
    with pytest.raises(UnsupportedVersion, match=r"is older than v1\.13\.0"):
        series_for(Version(version))


def test_every_template_is_used_and_every_series_named_once() -> None:
    series = read_index(patches_folder()).series
    used = {patch.name for each in series for patch in each.patches_for("override")}
    assert used == {path.name for path in patches_folder().glob("*.patch")}
    assert len({each.name for each in series}) == len(series)


def test_the_templates_hold_both_lifetimes_and_nothing_else_changes() -> None:
    for series in read_index(patches_folder()).series:
        one, other = (
            series.hunks(Lifetimes(ca_years=ca, leaf_years=leaf), "keep")
            for ca, leaf in ((71, 53), (3, 2))
        )
        assert [hunk.old for hunk in one] == [hunk.old for hunk in other]
        new = "".join(line for hunk in one for line in hunk.new)
        assert (new.count("71"), new.count("53")) == (1, 1), series.name


def test_only_from_1_31_on_stored_defaults_make_a_difference() -> None:
    once = Lifetimes(ca_years=1, leaf_years=1)
    for series in read_index(patches_folder()).series:
        override, keep = series.hunks(once, "override"), series.hunks(once, "keep")
        assert override[: len(keep)] == keep
        files = {hunk.file for hunk in override[len(keep) :]}
        assert files == ({DEFAULTS} if series.name == "1.31" else set())
        notes = [series.note("override"), series.note("keep")]
        assert len(set(notes)) == (2 if series.name == "1.31" else 1)
        assert all(("8760h0m0s" in note) == (series.name == "1.31") for note in notes)


def test_the_checkout_is_taken_before_the_packed_copy(
    tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kbuild, "__file__", str(tmp_path / "kbuild/__init__.py"))
    assert patches_folder() == copy
    packed = copy.rename(tmp_path / "away")
    (tmp_path / "kbuild").mkdir()
    packed = packed.rename(tmp_path / "kbuild/_patches")
    assert patches_folder() == packed
    shutil.rmtree(packed)
    with pytest.raises(PatchIndexBroken, match="it is missing"):
        patches_folder()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("about =", "abuot =", "abuot"),
        ("oldest =", "eldest =", "oldest"),
        ('oldest = "v1.13.0"', 'oldest = "v1.13.0"\nmore = 1', "more"),
        (">=1.13.0,", "=>1.13.0,", "Invalid specifier"),
        ("client-go-ca.patch", "gone.patch", "No such file"),
        ('text = "certutil', 'txet = "certutil', "txet"),
        (", days = 365", "", "days"),
        ('function = "NewSelfSignedCACert", ', "", "names either"),
        ('const = "CertificateValidity"', 'const = "X", field = "Y"', "names either"),
        ('lifetime = "leaf"', 'lifetime = "ca"', "both ca and leaf"),
        (
            '["client-go-ca.patch", "kubeadm-leaf.patch"]',
            '["client-go-ca.patch"]',
            "exactly the files",
        ),
        ("[[series]]", "[[series]", "it is not TOML"),
        ("days = 365", 'days = "x"', "days is not of the type"),
        ('text = "certutil.NewSignedCert("', "text = 1", "text is not of the type"),
        ('about = "CA and', 'about = 1 # "', "about is not of the type"),
        ('links = { "vendor/k8s.io/client-go" =', "links = { x = 1 } #", "is not a text"),
        ('links = { "vendor/k8s.io/client-go" =', "links = 1 #", "is not of the right type"),
        ("[series.stored_defaults]", "stored_defaults = 1\n[series.x]", "is not of the right type"),
        ('["kubeadm-stored-defaults.patch"]', '["gone.patch"]', "No such file"),
        ('["kubeadm-stored-defaults.patch"]', "[]\nmore = 1", "more"),
        ('text = "Duration: constants.Cert', 'txet = "Duration: constants.Cert', "txet"),
        ('keep = """', 'kept = """', "kept"),
        ('override = """\\\n', 'override = 1\nx = """', "unexpected"),
        ('oldest = "v1.13.0"', "oldest = " + "[" * 5000, "too deep"),
    ],
)
def test_a_broken_index_is_refused(copy: Path, old: str, new: str, reason: str) -> None:
    index = copy / INDEX
    text = index.read_text()
    assert old in text
    index.write_text(text.replace(old, new))
    with pytest.raises(PatchIndexBroken, match=reason) as caught:
        read_index(copy)
    assert str(index) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "no diff at all\n", "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+$unknown\n",
     "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+$ b\n", "--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+b\n",
     "--- a/x\n+++ b/x\n@@ -1,9 +1 @@\n-a\n+b\n"],
)  # fmt: skip
def test_a_broken_template_is_refused(copy: Path, text: str) -> None:
    (copy / "kubeadm-constants.patch").write_text(text)
    with pytest.raises(PatchIndexBroken):
        read_index(copy)
