"""From requests to releases: the stages in their order, and nothing else."""

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from kbuild.base import git
from kbuild.base.prefetch import prepared
from kbuild.base.progress import Progress
from kbuild.base.workspace import Workspace, open_workspace, remove
from kbuild.kubeadm.compile import choose_builder, compile_kubeadm, provide
from kbuild.kubeadm.compile.built import find_built, keep_built
from kbuild.kubeadm.model import (
    Binary,
    BuildRequest,
    PatchedTree,
    Release,
    SourceTree,
    Tag,
    Toolchain,
)
from kbuild.kubeadm.patching.apply import leave_stock, patch_tree
from kbuild.kubeadm.patching.series import Series, series_for
from kbuild.kubeadm.prove import prove_binary
from kbuild.kubeadm.prove.published import as_published, build_date_of, find_published
from kbuild.kubeadm.prove.stock import against_stock
from kbuild.kubeadm.source import fetch, resolve
from kbuild.kubeadm.source.versions import full_tag
from kbuild.kubeadm.toolchain import choose_go
from kbuild.kubeadm.toolchain.images import demand_digest
from kbuild.kubeadm.toolchain.pin import parse_go_version
from kbuild.release import demand_free, publish, reserve
from kbuild.release.packages import demand_tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a request would do, as far as it can be told without a side effect."""

    request: BuildRequest
    tag: Tag
    series: tuple[Series, ...]
    builder: str
    output: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    request: BuildRequest
    tag: Tag
    output: Path
    workspace: Workspace
    label: str
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.tag.name

    @contextlib.contextmanager
    def stage(self, name: str, progress: Progress) -> Iterator[None]:
        progress.stage(self.label + name)
        with self.timed(name):
            yield

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0) + time.monotonic() - began


def plan(requests: Sequence[BuildRequest], cache: Path, progress: Progress) -> tuple[Plan, ...]:
    """Tell what ``run`` would do; asks the source for the tags and leaves nothing behind."""
    builder = _check_first(requests, progress)
    with open_workspace(cache) as workspace, contextlib.ExitStack() as held:
        return tuple(
            Plan(
                request=job.request,
                tag=job.tag,
                series=series_for(job.tag.version),
                builder=builder,
                output=job.output,
            )
            for job in _jobs(requests, workspace, held, progress)
        )


def run(requests: Sequence[BuildRequest], cache: Path, progress: Progress) -> tuple[Release, ...]:
    """Build, prove and publish each request, in their order, as ``build`` does.

    Raises any KbuildError; the releases before it stay, and of its own nothing is left behind.
    """
    with open_workspace(cache) as workspace:
        return build(requests, workspace, progress)


def build(
    requests: Sequence[BuildRequest],
    workspace: Workspace,
    progress: Progress,
    *,
    independent: bool = False,
) -> tuple[Release, ...]:
    """Build, prove and publish each request, in their order, with the folders of this run.

    With ``independent`` nothing that an earlier run compiled is used, neither its binary nor Go's
    build cache.

    What the next one needs is downloaded while one is compiled. Raises any KbuildError; the
    releases before it stay.
    """
    builder = _check_first(requests, progress)
    with contextlib.ExitStack() as held:
        progress.stage("source")
        jobs = _jobs(requests, workspace, held, progress)
        ready = prepared(jobs, partial(_prepare, builder), progress, git.stop)
        trees = held.enter_context(ready)
        return tuple(_release(job, *next(trees), progress, independent=independent) for job in jobs)


def _check_first(requests: Sequence[BuildRequest], progress: Progress) -> str:
    # What is wrong with the request or this machine shows before anything is fetched.
    for request in requests:
        full_tag(request.version)
        if request.go_version is not None:
            parse_go_version(request.go_version)
        demand_tools(request.package)
    if requests[0].image is not None:
        demand_digest(requests[0].image)
    return choose_builder(requests[0], progress)


def _jobs(
    requests: Sequence[BuildRequest],
    workspace: Workspace,
    held: contextlib.ExitStack,
    progress: Progress,
) -> list[_Job]:
    jobs: dict[str, _Job] = {}
    for number, request in enumerate(requests):
        part = workspace.part(str(number))
        began = time.monotonic()
        tag = resolve(request, part, progress)
        if tag.name not in jobs:  # 1.20 and v1.20.2 may be the same
            output = _output(request, tag, several=len(requests) > 1)
            held.enter_context(reserve(output, request, tag, workspace))
            label = f"{tag.name} " if len(requests) > 1 else ""
            job = _Job(request=request, tag=tag, output=output, workspace=part, label=label)
            job.seconds["source"] = time.monotonic() - began
            jobs[tag.name] = job
    return list(jobs.values())


def _output(request: BuildRequest, tag: Tag, *, several: bool) -> Path:
    name = f"{tag.name}-stock" if request.stock else tag.name
    if request.layout == "tree":
        name = tag.name  # what is above it is an address to download from
    elif request.output is not None and not several:
        return request.output
    return (request.output or Path("dist")) / name


def _prepare(builder: str, job: _Job, progress: Progress) -> tuple[SourceTree, Toolchain]:
    with job.timed("source"):
        source = fetch(job.request, job.tag, job.workspace, progress)
    with job.stage("toolchain", progress):
        toolchain = choose_go(source, job.request, builder, job.workspace, progress)
        provide(toolchain, progress)
    return source, toolchain


def _release(
    job: _Job, source: SourceTree, toolchain: Toolchain, progress: Progress, *, independent: bool
) -> Release:
    request, published = job.request, None
    if request.stock:
        with job.stage("publisher", progress):
            published = find_published(job.tag, request, job.workspace, progress)
            date = request.build_date or build_date_of(published)
            request = replace(request, build_date=date)
    with job.stage("patch", progress):
        stock_tree = _stock_tree(source, toolchain, job) if request.against_stock else None
        tree = (
            leave_stock(source, toolchain)
            if request.stock
            else patch_tree(source, toolchain, request.lifetimes)
        )
    with job.stage("build", progress):
        found = None if independent else find_built(tree, request, job.workspace, progress)
        if found is None:
            demand_free(job.output, request)
        else:
            progress.say("nothing changed since the last time, so there is nothing to compile")
        request, binaries = _built(
            found, tree, request, job.workspace, progress, empty_cache=independent
        )
    stock: tuple[Binary, ...] = ()
    if stock_tree is not None:
        with job.stage("stock", progress):
            workspace = job.workspace.part("stock")
            apart = independent or request.independent
            found_stock = None if apart else find_built(stock_tree, request, workspace, progress)
            _, stock = _built(
                found_stock, stock_tree, request, workspace, progress, empty_cache=apart
            )
    with job.stage("prove", progress):
        proofs = {b.path: prove_binary(b, request, job.workspace, progress) for b in binaries}
        for patched, unpatched in zip(binaries, stock, strict=bool(stock)):
            proofs[patched.path] = against_stock(proofs[patched.path], patched, unpatched)
        if published is not None:
            proofs[binaries[0].path] = as_published(
                proofs[binaries[0].path], published, job.workspace
            )
    progress.stage(f"{job.label}release")
    released = publish(
        proofs, binaries, request, job.output, job.seconds, unchanged=found is not None
    )
    remove(job.workspace.work)
    return released


def _stock_tree(source: SourceTree, toolchain: Toolchain, job: _Job) -> PatchedTree:
    copy = job.workspace.work / "stock-tree"
    shutil.copytree(source.path, copy, symlinks=True)
    return leave_stock(replace(source, path=copy), toolchain)


def _built(
    found: tuple[datetime, tuple[Binary, ...]] | None,
    tree: PatchedTree,
    request: BuildRequest,
    workspace: Workspace,
    progress: Progress,
    *,
    empty_cache: bool,
) -> tuple[BuildRequest, tuple[Binary, ...]]:
    """Return the request with its date, and the binaries: those found, else newly compiled."""
    if found is not None:
        return replace(request, build_date=found[0]), found[1]
    began = datetime.now(UTC)
    date = request.build_date or began.replace(microsecond=0)
    request = replace(request, build_date=date)
    binaries = tuple(
        compile_kubeadm(tree, arch, request, workspace, progress, empty_cache=empty_cache)
        for arch in request.arches
    )
    keep_built(binaries, request, (began, datetime.now(UTC)), workspace)
    return request, binaries
