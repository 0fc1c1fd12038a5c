"""From build requests to releases: build, prove and publish each tag."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kbuild.base import git
from kbuild.base.disk import remove
from kbuild.base.prefetch import prepared
from kbuild.base.progress import Progress
from kbuild.base.workspace import Workspace, open_workspace
from kbuild.kubeadm.api import (
    Examined,
    Job,
    Series,
    build_and_prove,
    check_request,
    choose_builder,
    examine,
    prepare,
    resolve,
    series_for,
)
from kbuild.kubeadm.model import Builder, BuildRequest, SourceTree, Tag, Toolchain
from kbuild.release.api import Release, demand_free, demand_tools, publish, reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a request would do. A stock build has no ``series``, because nothing is patched."""

    request: BuildRequest
    tag: Tag
    series: tuple[Series, ...]
    builder: Builder
    output: Path
    examined: Examined


def plan(requests: Sequence[BuildRequest], cache: Path, progress: Progress) -> tuple[Plan, ...]:
    """Return what ``run`` would do, after examining what it would use, as far as that is here.

    It asks the source for its tags, and leaves nothing behind but what it reads of a local source
    in the cache. Raises what ``run`` would raise.
    """
    builder = _check(requests, progress)
    with open_workspace(cache) as workspace, contextlib.ExitStack() as stack:
        progress.stage("source")
        return tuple(
            Plan(
                request=job.request,
                tag=job.tag,
                series=() if job.request.stock else series_for(job.tag.version),
                builder=builder,
                output=output,
                examined=examine(job, builder, progress),
            )
            for job, output in _jobs(requests, workspace, stack, progress)
        )


def run(requests: Sequence[BuildRequest], cache: Path, progress: Progress) -> tuple[Release, ...]:
    """Build, prove and publish each request in order, as ``build`` does.

    Raises any KbuildError. Then earlier releases stay, and nothing is left of the one that failed.
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
    """Build, prove and publish each request in order, with the directories of this run.

    With ``independent``, nothing that an earlier run compiled is used: no binary and no Go build
    cache. The inputs of the next request are downloaded while one is compiled. Raises any
    KbuildError; earlier releases stay.
    """
    builder = _check(requests, progress)
    with contextlib.ExitStack() as stack:
        progress.stage("source")
        jobs = _jobs(requests, workspace, stack, progress)
        only_jobs = [job for job, _ in jobs]
        ready = prepared(only_jobs, partial(prepare, builder), progress, git.stop)
        trees = stack.enter_context(ready)
        return tuple(
            _release(job, output, *next(trees), progress, independent=independent)
            for job, output in jobs
        )


def _check(requests: Sequence[BuildRequest], progress: Progress) -> Builder:
    # Problems of the request and of this machine are reported before anything is fetched.
    for request in requests:
        check_request(request)
        demand_tools(request.output.packages)
        if not request.stock:  # git applies the patches
            git.demand()
    return choose_builder(requests[0].go, progress)


def _jobs(
    requests: Sequence[BuildRequest],
    workspace: Workspace,
    stack: contextlib.ExitStack,
    progress: Progress,
) -> list[tuple[Job, Path]]:
    jobs: dict[str, tuple[Job, Path]] = {}
    for number, request in enumerate(requests):
        part = workspace.part(str(number))
        began = time.monotonic()
        tag = resolve(request, part, progress)
        if tag.name not in jobs:  # 1.20 and v1.20.2 may be the same
            output = _output(request, tag, several=len(requests) > 1)
            stack.enter_context(reserve(output, request, tag, workspace))
            label = f"{tag.name} " if len(requests) > 1 else ""
            job = Job(request=request, tag=tag, workspace=part, label=label)
            job.seconds["source"] = time.monotonic() - began
            jobs[tag.name] = job, output
    return list(jobs.values())


def _output(request: BuildRequest, tag: Tag, *, several: bool) -> Path:
    name = f"{tag.name}-stock" if request.stock else tag.name
    folder = request.output.folder
    if request.output.layout == "tree":
        name = tag.name  # the URL of a download is above it
    elif folder is not None and not several:
        return folder
    return (folder or Path("dist")) / name


def _release(
    job: Job,
    output: Path,
    source: SourceTree,
    toolchain: Toolchain,
    progress: Progress,
    *,
    independent: bool,
) -> Release:
    free = partial(demand_free, output, job.request.output)
    proven = build_and_prove(job, source, toolchain, free, progress, independent=independent)
    progress.stage(f"{job.label}release")
    released = publish(proven, job.request, output, job.seconds, progress)
    remove(job.workspace.work)
    return released
