"""Examine before a build what needs no network: a tree on this machine, and a GOROOT."""

from dataclasses import dataclass
from pathlib import Path

from kbuild.base.progress import Progress
from kbuild.kubeadm.build import Job
from kbuild.kubeadm.model import Builder, GoPin, SourceRequest, SourceTree, Toolchain
from kbuild.kubeadm.patching.apply import leave_stock, patch_tree
from kbuild.kubeadm.source.fetch import fetch
from kbuild.kubeadm.toolchain.archives import bundled_archive, demanded_version
from kbuild.kubeadm.toolchain.choose import wanted_go
from kbuild.kubeadm.toolchain.images import layout_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What was found before a build.

    ``pin`` is the Go that the tree pins, ``patches`` those that fit it; both are None if the tree
    was not examined. ``go_root`` is the version of the given GOROOT. ``left_out`` names what was
    not examined, and ``tree`` is what was.
    """

    pin: GoPin | None
    go: str | None
    go_root: str | None
    patches: tuple[str, ...] | None
    left_out: tuple[str, ...]
    tree: SourceTree | None = None


def examine(job: Job, builder: Builder, progress: Progress) -> Examined:
    """Examine what a build would use, without a network; raises what the build would raise.

    A git repository on this machine is copied to the cache, as a build does.
    """
    request = job.request
    if not is_here(request.source):
        found = _root(job, request.go.version)
        return Examined(
            pin=None,
            go=request.go.version,
            go_root=found,
            patches=None,
            left_out=("the files of the tag", "whether the patch fits them", "the Go that it pins"),
        )
    tree = fetch(request, job.tag, job.workspace, progress)
    pin, go_version = wanted_go(tree, request.go.version)
    found, archives, images = _root(job, go_version), request.go.archives, request.go.stored_images
    if found is None and archives is not None:
        bundled_archive(go_version, archives)
    if images is not None:
        layout_for(go_version, request.go, images)
    toolchain = Toolchain(builder=builder, pin=pin, go_version=go_version)
    patched = (
        leave_stock(tree, toolchain)
        if request.stock
        else patch_tree(tree, toolchain, request.lifetimes, request.stored_defaults)
    )
    return Examined(
        pin=pin,
        go=go_version,
        go_root=found,
        patches=tuple(patch.name for patch in patched.patches),
        left_out=() if found or archives or images else (f"Go {go_version} itself",),
        tree=tree,
    )


def is_here(source: SourceRequest) -> bool:
    """Return whether a source is on this machine: a repository, an archive or a bundle."""
    if source.bundled is not None or source.address.startswith("file://"):
        return True
    try:
        return "://" not in source.address and Path(source.address).expanduser().exists()
    except (OSError, RuntimeError):  # too long a name, or an unknown user: git's host:path
        return False


def _root(job: Job, wanted: str | None) -> str | None:
    """Return the version of the given GOROOT, if one is given.

    Raises WrongGo if it is not the ``wanted`` one, or GoNotFound.
    """
    root = job.request.go.root
    return None if root is None else demanded_version(wanted, root, job.workspace.work)
