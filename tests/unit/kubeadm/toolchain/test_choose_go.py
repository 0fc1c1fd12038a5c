from pathlib import Path

import pytest

from kbuild.base.errors import BadSetting
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import GoPin, SourceTree
from kbuild.kubeadm.toolchain.choose import choose_go
from kbuild.kubeadm.toolchain.errors import PinNotFound, PinsDisagree, WrongGo
from tests.support.recorder import Recorder
from tests.unit.kubeadm.toolchain.conftest import MakeGo, RequestFor

IMAGE = "golang@sha256:" + "ab" * 32


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    path = tmp_path / "tree"
    path.mkdir()
    (path / ".go-version").write_text("1.15.5\n")
    return SourceTree(path=path, tag="v1.20.2", commit="0" * 40, origin="here")


def test_with_docker_it_is_an_image(
    tree: SourceTree, request_for: RequestFor, workspace: Workspace, recorder: Recorder
) -> None:
    chosen = choose_go(tree, request_for(image=IMAGE), "docker", workspace, recorder)
    assert (chosen.builder, chosen.image, chosen.go_root) == ("docker", IMAGE, None)
    assert (chosen.go_version, chosen.overridden) == ("1.15.5", False)
    assert recorder.said == ["Go 1.15.5, pinned in .go-version"]


def test_locally_it_is_a_goroot(
    tree: SourceTree,
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    make_go: MakeGo,
) -> None:
    root = make_go("1.15.5")
    chosen = choose_go(tree, request_for(go_root=root), "local", workspace, recorder)
    assert (chosen.builder, chosen.image, chosen.go_root) == ("local", None, root)
    assert chosen.pin == GoPin(version="1.15.5", files=(".go-version",))


def test_a_go_that_the_builder_does_not_use_is_named(
    tree: SourceTree,
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    make_go: MakeGo,
) -> None:
    both = request_for(image=IMAGE, go_root=make_go("1.15.5"))
    choose_go(tree, both, "docker", workspace, recorder)
    choose_go(tree, both, "local", workspace, recorder)
    in_docker, _, locally, _ = recorder.said
    assert in_docker.endswith("not from the Go root given")
    assert locally == "the local builder does not use the golang image given"


@pytest.mark.slow
def test_another_go_must_be_asked_for(
    tree: SourceTree,
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    make_go: MakeGo,
) -> None:
    root = make_go("1.15.15")
    with pytest.raises(WrongGo):
        choose_go(tree, request_for(go_root=root), "local", workspace, recorder)
    request = request_for(go_root=root, go_version="1.15.15")
    chosen = choose_go(tree, request, "local", workspace, recorder)
    assert (chosen.go_version, chosen.pin.version) == ("1.15.15", "1.15.5")
    assert chosen.overridden
    assert ["1.15.15" in said and "1.15.5" in said for said in recorder.said] == [True]


@pytest.mark.parametrize("text", [None, "nonsense"])
def test_a_tree_without_a_pin_needs_an_override(
    tree: SourceTree,
    request_for: RequestFor,
    workspace: Workspace,
    recorder: Recorder,
    text: str | None,
) -> None:
    pin = tree.path / ".go-version"
    pin.unlink() if text is None else pin.write_text(text)
    with pytest.raises(PinNotFound):
        choose_go(tree, request_for(image=IMAGE), "docker", workspace, recorder)
    request = request_for(image=IMAGE, go_version="1.19.0")
    chosen = choose_go(tree, request, "docker", workspace, recorder)
    assert chosen.go_version == "1.19"
    assert chosen.pin == GoPin(version="1.19", files=("--go-version",))


def test_pins_that_disagree_need_an_override(
    tree: SourceTree, request_for: RequestFor, workspace: Workspace, recorder: Recorder
) -> None:
    cross = tree.path / "build/build-image/cross/VERSION"
    cross.parent.mkdir(parents=True)
    cross.write_text("v1.15.8-legacy-1\n")
    with pytest.raises(PinsDisagree):
        choose_go(tree, request_for(image=IMAGE), "docker", workspace, recorder)
    request = request_for(image=IMAGE, go_version="1.15.8")
    chosen = choose_go(tree, request, "docker", workspace, recorder)
    assert chosen.pin.files == ("--go-version",)


@pytest.mark.parametrize("text", ["latest", "go1.19", "2.0", "", "1.19.x"])
def test_an_override_must_be_a_go(
    tree: SourceTree, request_for: RequestFor, workspace: Workspace, recorder: Recorder, text: str
) -> None:
    with pytest.raises(BadSetting, match="go-version"):
        choose_go(tree, request_for(go_version=text), "docker", workspace, recorder)
