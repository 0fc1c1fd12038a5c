from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from kbuild.kubeadm.model import GoPin, SourceTree
from kbuild.kubeadm.toolchain.errors import GoTooOld, PinNotFound, PinsDisagree
from kbuild.kubeadm.toolchain.pin import (
    CROSS,
    DEPENDENCIES,
    GO_VERSION,
    demand_new_enough,
    go_name,
    is_go_version,
    read_pin,
)

ENTRY = """\
dependencies:
  - name: "golang: etcd release version"
    version: 1.2.3 # not ours
    refPaths:
    - path: cluster/images/etcd/Makefile
      match: x
  - name: "{name}"
    version: {version}
    refPaths:
    - path: .go-version
  - name: "golang: 1.<major>"
    version: 1.2
"""
UPSTREAM = "golang: upstream version"


def tree(folder: Path, files: dict[str, str]) -> SourceTree:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return SourceTree(path=folder, tag="v1.20.2", commit="0" * 40, origin="here")


def pin_of(files: dict[str, str]) -> GoPin:
    with TemporaryDirectory() as folder:
        return read_pin(tree(Path(folder), files))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("v1.9.2-1", "1.9.2"),
        ("v1.9.3-2\n", "1.9.3"),
        ("v1.13.5-1", "1.13.5"),
        ("v1.15.8-legacy-1", "1.15.8"),
        ("v1.15-1", "1.15"),
        ("v1.15.0-1", "1.15"),
        ("v1.16beta1-1", "1.16beta1"),
        ("v1.21.0-go1.16.9-buster.0", "1.16.9"),
        ("v1.27.0-go1.20.7-bullseye.0", "1.20.7"),
        ("v1.26.0-go1.20-bullseye.0", "1.20"),
        ("v1.26.0-go1.20rc1-bullseye.0", "1.20rc1"),
        ("v1.23.0-beta.1-go1.17.3-bullseye.0", "1.17.3"),
        ("v1.33.0-go1.24.4-bullseye.0\n", "1.24.4"),
    ],
)
def test_spellings_of_the_cross_image(text: str, version: str) -> None:
    assert pin_of({CROSS: text}) == GoPin(version=version, files=(CROSS,))


@pytest.mark.parametrize("name", [UPSTREAM, "golang"])
def test_the_entry_of_the_dependencies(name: str) -> None:
    text = ENTRY.format(name=name, version="1.16.8")
    assert pin_of({DEPENDENCIES: text}) == GoPin(version="1.16.8", files=(DEPENDENCIES,))


@pytest.mark.parametrize("version", ["1.20", '"1.20"', "1.20.0"])
def test_a_version_is_no_number(version: str) -> None:
    assert pin_of({DEPENDENCIES: ENTRY.format(name=UPSTREAM, version=version)}).version == "1.20"


def test_all_files_that_agree_are_named() -> None:
    files = {
        GO_VERSION: "1.20\n",
        DEPENDENCIES: ENTRY.format(name=UPSTREAM, version="1.20.0"),
        CROSS: "v1.27.0-go1.20.0-bullseye.0\n",
    }
    assert pin_of(files) == GoPin(version="1.20", files=(GO_VERSION, DEPENDENCIES, CROSS))


def test_dependencies_of_an_era_without_an_entry_for_go() -> None:
    files = {DEPENDENCIES: "dependencies:\n  - name: etcd\n    version: 3.4\n", CROSS: "v1.12.9-1"}
    assert pin_of(files) == GoPin(version="1.12.9", files=(CROSS,))


@pytest.mark.parametrize(
    "files",
    [
        {GO_VERSION: "1.20.1", CROSS: "v1.27.0-go1.20.2-bullseye.0"},
        {GO_VERSION: "1.20.1", DEPENDENCIES: ENTRY.format(name=UPSTREAM, version="1.20")},
        {DEPENDENCIES: ENTRY.format(name="golang", version="1.13.4"), CROSS: "v1.13.5-1"},
    ],
)
def test_files_that_disagree(files: dict[str, str]) -> None:
    with pytest.raises(PinsDisagree) as caught:
        pin_of(files)
    assert all(name in caught.value.happened for name in files)


def test_a_tree_without_any_file() -> None:
    with pytest.raises(PinNotFound, match=r"v1\.20\.2"):
        pin_of({"README": "1.20"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "files",
    [
        {GO_VERSION: ""},
        {GO_VERSION: "latest\n"},
        {GO_VERSION: "1.20.1\n1.20.2\n"},
        {GO_VERSION: "1.20.1/../x"},
        {GO_VERSION: "2.0"},
        {CROSS: ""},
        {CROSS: "v1.27.0"},
        {CROSS: "v1.27.0-gogo-bullseye.0"},
        {CROSS: "v1.27.0-go1-bullseye.0"},
        {CROSS: "v1.27.0-1\nv1.28.0-1"},
        {DEPENDENCIES: ""},
        {DEPENDENCIES: "dependencies: 3"},
        {DEPENDENCIES: "dependencies: [a, b]"},
        {DEPENDENCIES: "- a"},
        {DEPENDENCIES: "dependencies: [{name: golang}]"},
        {DEPENDENCIES: "dependencies: [{name: golang, version: [1.20]}]"},
        {DEPENDENCIES: "dependencies: [{name: golang, version: 2020-99-99}]"},
        {DEPENDENCIES: "dependencies: {"},
        {DEPENDENCIES: "[" * 5000},
        {DEPENDENCIES: ENTRY.format(name=UPSTREAM, version="latest")},
        {DEPENDENCIES: "dependencies:" + 2 * "\n- {name: golang, version: 1.20.1}"},
    ],
)
def test_a_file_of_nonsense_is_named(files: dict[str, str]) -> None:
    # A good file beside it does not help: which one would be right?
    good = {GO_VERSION: "1.20.1", CROSS: "v1.27.0-go1.20.1-bullseye.0"}
    with pytest.raises(PinNotFound) as caught:
        pin_of({**good, **files})
    assert next(iter(files)) in caught.value.details


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    here = tree(tmp_path, {})
    (tmp_path / GO_VERSION).write_bytes(b"\xff\xfe1.20")
    with pytest.raises(PinNotFound):
        read_pin(here)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    here = tree(tmp_path, {GO_VERSION: "1.20.1" + " " * 2000})
    with pytest.raises(PinNotFound) as caught:
        read_pin(here)
    assert caught.value.details == ".go-version: it is larger than 1024 bytes"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("1.9", "1.9"),
        ("1.19.0", "1.19"),
        ("1.20.0", "1.20"),
        ("1.20.14", "1.20.14"),
        ("1.21", "1.21.0"),
        ("1.21.0", "1.21.0"),
        ("1.21rc2", "1.21rc2"),
        ("1.100", "1.100.0"),
    ],
)
def test_names_that_go_gives(text: str, name: str) -> None:
    assert go_name(text) == name


@pytest.mark.parametrize(
    "text", ["", "1", "go1.20", "1.20.", "v1.20", "1.20.1.1", "１.20", "1.20\n"]
)
def test_texts_that_are_no_go(text: str) -> None:
    assert not is_go_version(text)


minors = st.integers(0, 60)
micros = st.integers(0, 30)
suffixes = st.sampled_from(["", "rc1", "beta2"])
versions = st.one_of(
    st.builds("1.{}".format, minors),
    st.builds("1.{}.{}".format, minors, micros),
    st.builds("1.{}{}".format, minors, suffixes),
)


@pytest.mark.slow
@given(versions)
def test_a_name_stays_the_same_version(version: str) -> None:
    name = go_name(version)
    assert is_go_version(name)
    assert Version(name) == Version(version)
    assert go_name(name) == name


@pytest.mark.slow
@given(versions, versions)
def test_a_release_has_one_name(one: str, other: str) -> None:
    assert (go_name(one) == go_name(other)) == (Version(one) == Version(other))


@pytest.mark.slow
@given(versions, st.integers(1, 9), st.sampled_from(["", "legacy-"]))
def test_old_cross_images(version: str, revision: int, word: str) -> None:
    assert pin_of({CROSS: f"v{version}-{word}{revision}\n"}).version == go_name(version)


@pytest.mark.slow
@given(versions, minors, st.sampled_from(["", "-alpha.1", "-rc.0"]), st.integers(0, 9))
def test_new_cross_images(version: str, minor: int, pre: str, revision: int) -> None:
    text = f"v1.{minor}.0{pre}-go{version}-bookworm.{revision}\n"
    assert pin_of({CROSS: text}).version == go_name(version)


@pytest.mark.slow
@given(st.text(max_size=40))
def test_any_text_gives_a_version_or_an_error(text: str) -> None:
    for file in (GO_VERSION, DEPENDENCIES, CROSS):
        try:
            assert is_go_version(pin_of({file: text}).version)
        except PinNotFound:
            continue


@pytest.mark.parametrize("text", [f"1.{'9' * 5000}", f"1.20.{'9' * 5000}", f"1.20rc{'9' * 5000}"])
def test_a_version_of_thousands_of_digits_is_none(text: str) -> None:
    assert not is_go_version(text)
    with pytest.raises(PinNotFound):
        pin_of({GO_VERSION: text})


@pytest.mark.slow
@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n"
        + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
        + f"dependencies: [{{name: '{UPSTREAM}', version: *a39}}]\n",
        f"%YAML {'9' * 5000}.1\n---\ndependencies: []\n",
        "[" * 100_000,
        "dependencies:\n- version: " + "[" * 20_000 + "\r" + "[" * 20_000,
        "dependencies: 1",
    ],
    ids=["aliases", "digits", "deep", "deep inside", "type"],
)
def test_dependencies_of_any_yaml_are_read_soon(text: str) -> None:
    with pytest.raises(PinNotFound):
        pin_of({DEPENDENCIES: text})


@pytest.mark.parametrize(
    ("go_version", "files", "needed"),
    [
        ("1.15.15", {"go.mod": "module k8s.io/kubernetes\n\ngo 1.15\n"}, None),
        ("1.14.12", {"go.mod": "module k8s.io/kubernetes\n\ngo 1.15\n"}, "1.15"),
        ("1.15", {"go.mod": "go 1.15 // Go\n"}, None),
        ("1.21rc3", {"go.mod": "go 1.21\n"}, None),
        ("1.22.3", {"go.mod": "go 1.22.0\n", "go.work": "go 1.22.4\n"}, "1.22.4"),
        ("1.22.4", {"go.mod": "go 1.22.0\n", "go.work": "go 1.22.4\n"}, None),
        ("1.9", {"go.mod": "go 1.10\n"}, "1.10"),
        ("1.9", {"go.mod": "module x\n"}, None),
        ("1.9", {"go.mod": "go one\n"}, None),
        ("1.9", {}, None),
    ],
)
def test_a_go_that_is_older_than_the_tree_needs_is_too_old(
    go_version: str, files: dict[str, str], needed: str | None, tmp_path: Path
) -> None:
    if needed is None:
        demand_new_enough(go_version, tree(tmp_path, files))
        return
    with pytest.raises(GoTooOld) as caught:
        demand_new_enough(go_version, tree(tmp_path, files))
    assert f"needs Go {needed}" in caught.value.happened
