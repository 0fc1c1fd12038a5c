import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from kbuild.base.errors import UnsupportedVersion
from kbuild.kubeadm.model import Tag
from kbuild.kubeadm.source.errors import BadVersion, TagNotFound
from kbuild.kubeadm.source.versions import full_tag, is_tag, missing, newest_of, since, stands_for


def tags(*names: str) -> list[Tag]:
    return [Tag(name=name, commit="0" * 40) for name in names]


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("v1.23.0", "v1.23.0"),
        ("1.23.0", "v1.23.0"),
        ("v1.31.0-rc.1", "v1.31.0-rc.1"),
        ("1.31.0-alpha.2", "v1.31.0-alpha.2"),
        ("1.23", None),
        ("v1.23", None),
        ("stable", None),
        ("latest", None),
    ],
)
def test_versions_as_people_type_them(text: str, tag: str | None) -> None:
    assert full_tag(text) == tag


@pytest.mark.parametrize(
    "text",
    ["", "v", "1", "newest", "1.23.x", "v1.23.0-dirty", "v1.23.0+k3s1", "1.23.0 ", "../1.2.3",
     "v1.23.0-rc1", "１.23.0", "1.23.0\n", "--upload-pack=x"],
)  # fmt: skip
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(BadVersion):
        full_tag(text)


@pytest.mark.parametrize("text", ["1.12.9", "v1.12", "0.1.0", "v1.13.0-rc.1"])
def test_what_is_too_old_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedVersion, match=r"v1\.13\.0"):
        full_tag(text)


@pytest.mark.slow
@given(st.integers(13, 99), st.integers(0, 99), st.sampled_from(["", "-rc.1", "-beta.0"]))
def test_every_tag_is_understood_and_stands_for_itself(minor: int, patch: int, pre: str) -> None:
    name = f"v1.{minor}.{patch}{pre}"
    if Version(name) < Version("1.13.0"):
        return
    assert is_tag(name)
    assert full_tag(name) == full_tag(name[1:]) == name
    [tag] = tags(name)
    assert stands_for(name, tag)
    assert stands_for(f"1.{minor}", tag)
    assert not stands_for(f"1.{minor + 1}", tag)


@given(st.text(max_size=12))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        tag = full_tag(text)
    except (BadVersion, UnsupportedVersion):
        return
    assert tag is None or is_tag(tag)


def test_a_minor_means_its_newest_release() -> None:
    offered = tags("v1.23.2", "v1.23.10", "v1.23.11-rc.0", "v1.24.0")
    assert newest_of("1.23", offered, "x").name == "v1.23.10"
    assert newest_of("1.25", tags("v1.25.0-alpha.1", "v1.25.0-rc.0"), "x").name == "v1.25.0-rc.0"
    with pytest.raises(TagNotFound):
        newest_of("1.26", offered, "x")


def test_stable_means_the_newest_release_and_latest_the_newest_tag() -> None:
    offered = tags("v1.24.0", "v1.23.10", "v1.25.0-rc.0")
    assert newest_of("stable", offered, "x").name == "v1.24.0"
    assert newest_of("latest", offered, "x").name == "v1.25.0-rc.0"
    assert newest_of("latest", offered[:2], "x").name == "v1.24.0"
    with pytest.raises(TagNotFound):
        newest_of("stable", offered[2:], "x")
    for tag in offered:
        assert stands_for("latest", tag)
        assert stands_for("stable", tag) != tag.version.is_prerelease
    for word in ("stable", "latest"):
        with pytest.raises(BadVersion):
            since(word, offered)


def test_a_missing_tag_gets_its_nearest() -> None:
    error = missing("v1.23.3", tags("v1.23.2", "v1.30.0"), "git://x")
    assert error.hint.endswith("; the nearest is v1.23.2")
