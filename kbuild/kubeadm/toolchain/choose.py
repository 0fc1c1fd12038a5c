"""Choose the Go to build with: the version that the tree pins, from an image or a GOROOT."""

from kbuild.base.progress import Progress
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.model import Builder, GoPin, GoRequest, SourceTree, Toolchain
from kbuild.kubeadm.toolchain import archives, images
from kbuild.kubeadm.toolchain.errors import PinNotFound, PinsDisagree
from kbuild.kubeadm.toolchain.pin import demand_new_enough, parse_go_version, read_pin

OVERRIDE = "--go-version"


def choose_go(
    tree: SourceTree,
    request: GoRequest,
    builder: Builder,
    workspace: Workspace,
    progress: Progress,
) -> Toolchain:
    """Return the toolchain for a tree: an image by digest for docker, otherwise a GOROOT.

    Raises a ToolchainError, or BadSetting for an invalid --go-version.
    """
    pin, go_version = wanted_go(tree, request.version)
    image, layout = None, None
    if builder == "docker" and request.stored_images is not None:
        layout = images.layout_for(go_version, request, request.stored_images)
        image = layout.image
    elif builder == "docker":
        image = images.image_for(go_version, request, progress)
    toolchain = Toolchain(
        builder=builder,
        pin=pin,
        go_version=go_version,
        image=image,
        layout=layout,
        go_root=(
            archives.find_go(go_version, request, workspace, progress)
            if builder == "local"
            else None
        ),
    )
    _say_unused(request, builder, progress)
    if toolchain.overridden:
        progress.say(f"Go {go_version} as requested; the tag pins {pin.version}")
    else:
        progress.say(f"Go {go_version}, pinned in {', '.join(pin.files)}")
    return toolchain


def _say_unused(request: GoRequest, builder: Builder, progress: Progress) -> None:
    if builder == "docker" and request.root is not None:
        progress.say(
            "the docker builder takes Go from the golang image, not from the Go root given"
        )
    if builder == "local" and request.image is not None:
        progress.say("the local builder does not use the golang image given")


def wanted_go(tree: SourceTree, version: str | None) -> tuple[GoPin, str]:
    """Return the pin of a tree, and the Go version to build with: ``version``, or the pin's.

    Raises PinNotFound, PinsDisagree, GoTooOld or BadSetting.
    """
    override = parse_go_version(version) if version is not None else None
    if override is not None:
        demand_new_enough(override, tree)
    pin = _pin(tree, override)
    return pin, override or pin.version


def _pin(tree: SourceTree, override: str | None) -> GoPin:
    try:
        return read_pin(tree)
    except (PinNotFound, PinsDisagree):
        if override is None:
            raise
        return GoPin(version=override, files=(OVERRIDE,))
