"""From a request to a release: the stages in their order, and nothing else."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kbuild.build import choose_builder, compile_kubeadm
from kbuild.model import BuildRequest, Release, Tag
from kbuild.patching.apply import patch_tree
from kbuild.patching.series import Series, series_for
from kbuild.progress import Progress
from kbuild.prove import prove_binary
from kbuild.release import publish, reserve
from kbuild.source import fetch, resolve
from kbuild.source.versions import full_tag
from kbuild.toolchain import choose_go
from kbuild.toolchain.images import demand_digest
from kbuild.workspace import open_workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a request would do, as far as it can be told without a side effect."""

    tag: Tag
    series: tuple[Series, ...]
    builder: str
    output: Path


@dataclass(frozen=True, slots=True)
class _Stages:
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.progress.stage(name)
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


def plan(request: BuildRequest, cache: Path, progress: Progress) -> Plan:
    """Tell what ``run`` would do; asks the source for the tag and leaves nothing behind."""
    builder = _check_first(request, progress)
    with open_workspace(cache) as workspace:
        tag = resolve(request, workspace, progress)
        output = _output(request, tag)
        with reserve(output, request, cache):
            return Plan(tag=tag, series=series_for(tag.version), builder=builder, output=output)


def run(request: BuildRequest, cache: Path, progress: Progress) -> Release:
    """Build, prove and publish; raises any KbuildError and then leaves nothing behind."""
    stage = _Stages(progress)
    builder = _check_first(request, progress)
    with contextlib.ExitStack() as held:
        workspace = held.enter_context(open_workspace(cache))
        with stage("source"):
            tag = resolve(request, workspace, progress)
            output = _output(request, tag)
            held.enter_context(reserve(output, request, cache))
            source = fetch(request, tag, workspace, progress)
        with stage("toolchain"):
            toolchain = choose_go(source, request, builder, workspace, progress)
        with stage("patch"):
            tree = patch_tree(source, toolchain, request.lifetimes)
        with stage("build"):
            binaries = tuple(
                compile_kubeadm(tree, arch, request, workspace, progress) for arch in request.arches
            )
        with stage("prove"):
            proofs = {b.path: prove_binary(b, request, workspace, progress) for b in binaries}
        progress.stage("release")
        return publish(proofs, binaries, request, output, stage.seconds)


def _check_first(request: BuildRequest, progress: Progress) -> str:
    # What is wrong with the request or this machine shows before anything is fetched.
    full_tag(request.version)
    if request.image is not None:
        demand_digest(request.image)
    return choose_builder(request, progress)


def _output(request: BuildRequest, tag: Tag) -> Path:
    return request.output or Path("dist") / tag.name
