"""From a tag to proven binaries: the order of the stages."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from kbuild.base.progress import Progress
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.compile.built import find_built, keep_built
from kbuild.kubeadm.compile.run import compile_kubeadm, provide
from kbuild.kubeadm.model import (
    Binary,
    Builder,
    BuildRequest,
    PatchedTree,
    ProvenBuild,
    Published,
    SourceTree,
    Stamp,
    Tag,
    Toolchain,
)
from kbuild.kubeadm.patching.apply import leave_stock, patch_tree
from kbuild.kubeadm.prove.binary import demand_arches, demand_run, prove_binary
from kbuild.kubeadm.prove.published import as_published, build_date_of, find_published
from kbuild.kubeadm.prove.stock import against_stock
from kbuild.kubeadm.source.fetch import fetch
from kbuild.kubeadm.source.versions import full_tag
from kbuild.kubeadm.toolchain.choose import choose_go
from kbuild.kubeadm.toolchain.images import demand_digest
from kbuild.kubeadm.toolchain.pin import parse_go_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The build of one tag: request, part of the work directory, and the seconds of each stage.

    ``label`` precedes the name of each stage if one run builds several tags.
    """

    request: BuildRequest
    tag: Tag
    workspace: Workspace
    label: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.tag.name

    @contextlib.contextmanager
    def stage(self, name: str, progress: Progress, *, of_arches: bool = False) -> Iterator[None]:
        """Announce a stage, and measure the block as its time.

        ``of_arches`` is for a stage that handles each architecture, which are announced too.
        """
        progress.stage(" ".join((self.label + name, *(self.request.arches if of_arches else ()))))
        with self.timed(name):
            yield

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to those of a stage."""
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0) + time.monotonic() - began


def check_request(request: BuildRequest) -> None:
    """Check a request; raises BadVersion, BadSetting, ImageWithoutDigest or CannotRun."""
    full_tag(request.version)
    if request.go.version is not None:
        parse_go_version(request.go.version)
    if request.go.image is not None:
        demand_digest(request.go.image)
    if request.require_proof:
        demand_arches(request.arches)


def prepare(builder: Builder, job: Job, progress: Progress) -> tuple[SourceTree, Toolchain]:
    """Fetch the source of a job, and the Go to build it with."""
    with job.timed("source"):
        source = fetch(job.request, job.tag, job.workspace, progress)
    with job.stage("toolchain", progress):
        toolchain = choose_go(source, job.request.go, builder, job.workspace, progress)
        toolchain = provide(toolchain, progress)
    return source, toolchain


def build_and_prove(
    job: Job,
    source: SourceTree,
    toolchain: Toolchain,
    before_compile: Callable[[], None],
    progress: Progress,
    *,
    independent: bool,
) -> ProvenBuild:
    """Patch, compile and prove kubeadm for each architecture of a job.

    With ``independent``, nothing that an earlier run compiled is used. ``before_compile`` is called
    before a compile. Raises any KbuildError.
    """
    request, published = job.request, None
    if request.stock:
        with job.stage("publisher", progress, of_arches=True):
            published = find_published(job.tag, request, job.workspace, progress)
            date = request.build_date or build_date_of(published)
            request = replace(request, build_date=date)
    with job.stage("patch", progress):
        stock_tree = _stock_tree(source, toolchain, job) if request.against_stock else None
        tree = _tree(source, toolchain, request)
    with job.stage("build", progress, of_arches=True):
        found = None if independent else find_built(tree, request, job.workspace, progress)
        if found is None:
            before_compile()
        else:
            progress.say("nothing changed since the last build, so nothing is compiled")
        binaries = found or _compiled(
            tree, request, job.workspace, progress, empty_cache=independent
        )
    stock: tuple[Binary, ...] = ()
    if stock_tree is not None:
        with job.stage("stock", progress, of_arches=True):
            request = replace(request, build_date=binaries[0].stamp.build_date)
            stock = _stock(stock_tree, request, job.workspace, progress, independent=independent)
    with job.stage("prove", progress, of_arches=True):
        return _proven(binaries, stock, published, job, progress, unchanged=found is not None)


def _tree(source: SourceTree, toolchain: Toolchain, request: BuildRequest) -> PatchedTree:
    if request.stock:
        return leave_stock(source, toolchain)
    return patch_tree(source, toolchain, request.lifetimes, request.stored_defaults)


def _stock_tree(source: SourceTree, toolchain: Toolchain, job: Job) -> PatchedTree:
    copy = job.workspace.work / "stock-tree"
    shutil.copytree(source.path, copy, symlinks=True)
    return leave_stock(replace(source, path=copy), toolchain)


def _stock(
    tree: PatchedTree,
    request: BuildRequest,
    workspace: Workspace,
    progress: Progress,
    *,
    independent: bool,
) -> tuple[Binary, ...]:
    workspace = workspace.part("stock")
    empty = independent or request.independent
    found = None if empty else find_built(tree, request, workspace, progress)
    return found or _compiled(tree, request, workspace, progress, empty_cache=empty)


def _compiled(
    tree: PatchedTree,
    request: BuildRequest,
    workspace: Workspace,
    progress: Progress,
    *,
    empty_cache: bool,
) -> tuple[Binary, ...]:
    began = datetime.now(UTC)
    date = request.build_date or began.replace(microsecond=0)
    stamp = Stamp(build_date=date, tree_state=request.tree_state)
    binaries = tuple(
        compile_kubeadm(tree, arch, stamp, workspace, progress, empty_cache=empty_cache)
        for arch in request.arches
    )
    keep_built(binaries, (began, datetime.now(UTC)), workspace)
    return binaries


def _proven(
    binaries: tuple[Binary, ...],
    stock: tuple[Binary, ...],
    published: Published | None,
    job: Job,
    progress: Progress,
    *,
    unchanged: bool,
) -> ProvenBuild:
    proven = [prove_binary(binary, job.workspace, progress) for binary in binaries]
    if job.request.require_proof:
        for each in proven:
            demand_run(each.proof)
    if stock:
        progress.advance("compare with stock", 0, None)
        proven = [
            against_stock(patched, unpatched)
            for patched, unpatched in zip(proven, stock, strict=True)
        ]
    if published is not None:
        proven = [as_published(each, published, job.workspace) for each in proven]
    return ProvenBuild(binaries=tuple(proven), unchanged=unchanged)
