"""The docker builder with an engine that only answers: what it is asked, and what is left."""

import io
import json
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kbuild.base.errors import EngineFailed, ImageNotFound, SandboxUnavailable
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.compile.errors import CompileFailed, NoBinary, OutOfMemory
from kbuild.kubeadm.compile.run import choose_builder, compile_kubeadm, provide
from kbuild.kubeadm.model import BuilderChoice, PatchedTree, SourceFile, Stamp
from kbuild.kubeadm.toolchain.layout import read_layout
from tests.support.fake_engine import Answer, FakeEngine, fake_engine
from tests.support.recorder import Recorder
from tests.support.registry import make_image
from tests.support.releases import make_request
from tests.unit.kubeadm.compile.conftest import patched_tree

IMAGE = "golang@sha256:" + "1" * 64
GO = "go version go1.15.5 linux/amd64\n"
PATCHED = "staging/src/k8s.io/client-go/util/cert/cert.go"
FILES = {
    "cmd/kubeadm/kubeadm.go": SourceFile(0o644, b"package main\n"),
    PATCHED: SourceFile(0o644, b"package cert // of the source\n"),
}
OK: Answer = (200, {})
GONE: Answer = (204, b"")


def tar_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"bin/{name.replace('_', '-')}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def printed(text: str) -> bytes:
    """Return what an engine streams of a container that prints ``text``."""
    data = text.encode()
    return struct.pack(">BxxxL", 1, len(data)) + data


def answers(text: str = GO, code: int = 0, made: bytes = b"") -> dict[str, list[Answer]]:
    """Return what an engine answers during a compile that prints ``text``."""
    about = {"Config": {"Tty": False}, "State": {}}
    return {
        "GET /containers/json": [(200, b"[]")],
        "GET /volumes": [(200, {"Volumes": []})],
        "GET /images/json": [(200, b"[]")],
        "GET /info": [(200, {"MemTotal": 8 << 30, "NCPU": 2})],
        "POST /volumes/create": [(201, {"Name": name}) for name in ("source", "made", "cache")],
        "DELETE /volumes/source": [GONE],
        "DELETE /volumes/made": [GONE],
        "DELETE /volumes/cache": [GONE],
        "POST /containers/create": [(201, {"Id": "holder"}), (201, {"Id": "build"})],
        "GET /containers/holder/json": [(200, {"Id": "holder", **about})],
        "GET /containers/build/json": [(200, {"Id": "build", **about})],
        "PUT /containers/holder/archive": [OK],
        "POST /containers/build/start": [GONE],
        "GET /containers/build/logs": [(200, printed(text))],
        "POST /containers/build/wait": [(200, {"StatusCode": code})],
        "GET /containers/build/archive": [(200, made or tar_of(kubeadm_amd64=b"kubeadm"))],
        "DELETE /containers/holder": [GONE],
        "DELETE /containers/build": [GONE],
    }


@pytest.fixture
def stamp() -> Stamp:
    return Stamp(build_date=datetime(2026, 1, 2, tzinfo=UTC), tree_state="dirty")


@pytest.fixture
def tree(tmp_path: Path) -> PatchedTree:
    folder = tmp_path / "tree"
    (folder / PATCHED).parent.mkdir(parents=True)
    (folder / PATCHED).write_text("package cert // patched\n")
    local = patched_tree(folder, tmp_path, FILES, "")
    toolchain = replace(local.toolchain, builder="docker", image=IMAGE, go_root=None)
    return replace(local, toolchain=toolchain)


class Compile:
    """Compiles with an engine of some answers."""

    def __init__(self, tree: PatchedTree, stamp: Stamp, workspace: Workspace) -> None:
        self.tree, self.stamp, self.workspace = tree, stamp, workspace
        self.progress = Recorder()
        self.patch = pytest.MonkeyPatch()

    def __call__(
        self, given: dict[str, list[Answer]], *, empty_cache: bool = False
    ) -> tuple[FakeEngine, bytes]:
        with fake_engine(given) as engine:
            self.patch.setenv("DOCKER_HOST", engine.address)
            self.engine = engine
            made = compile_kubeadm(
                *(self.tree, "amd64", self.stamp, self.workspace, self.progress),
                empty_cache=empty_cache,
            )
            return engine, made.path.read_bytes()


@pytest.fixture
def compiled(tree: PatchedTree, stamp: Stamp, workspace: Workspace) -> Iterator[Compile]:
    made = Compile(tree, stamp, workspace)
    yield made
    made.patch.undo()


def demand_nothing_left(engine: FakeEngine) -> None:
    for what in ("containers/holder", "containers/build", "volumes/source", "volumes/made"):
        assert f"DELETE /{what}" in engine.asked


def test_a_compile_in_a_container_brings_the_binary_and_leaves_nothing(compiled: Compile) -> None:
    engine, made = compiled(answers(f"{GO}kbuild: packages 2\nk8s.io/a\nk8s.io/kubernetes\n"))
    assert made == b"kubeadm"
    demand_nothing_left(engine)
    assert "DELETE /volumes/cache" not in engine.asked


def test_an_image_from_a_bundle_is_loaded_and_run_by_its_id(
    compiled: Compile, tmp_path: Path
) -> None:
    image = make_image("amd64")
    blobs = {digest: tmp_path / digest for digest in image.blobs}
    for digest, path in blobs.items():
        path.write_bytes(image.blobs[digest])
    layout = read_layout(IMAGE, "amd64", lambda blob: blobs.get(blob.digest, blobs[image.digest]))
    toolchain = replace(compiled.tree.toolchain, layout=layout)
    absent: Answer = (404, {"message": "no such image"})
    there: Answer = (200, {"Id": layout.config})
    engine: dict[str, list[Answer]] = {
        f"GET /images/{layout.config}/json": [absent, there],
        f"GET /images/{layout.manifest}/json": [absent],
        "POST /images/load": [(200, [{"stream": "Loaded"}])],
    }
    with fake_engine(engine) as fake, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", fake.address)
        provided = provide(toolchain, compiled.progress)
    assert "POST /images/create" not in fake.asked
    assert (provided.image, provided.image_id) == (IMAGE, layout.config)
    compiled.tree = replace(compiled.tree, toolchain=provided)
    fake, _ = compiled(answers())
    created = [json.loads(body)["Image"] for body in fake.sent["POST /containers/create"]]
    assert created == [layout.config, layout.config]


def test_the_source_with_the_patch_over_it_is_loaded(compiled: Compile) -> None:
    engine, _ = compiled(answers())
    loaded: dict[str, bytes] = {}
    for body in engine.sent["PUT /containers/holder/archive"]:
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    name = member.name.rpartition("k8s.io/kubernetes/")[2]
                    loaded[name] = file.read()
    assert loaded["cmd/kubeadm/kubeadm.go"] == b"package main\n"
    assert loaded[PATCHED] == b"package cert // patched\n"


def test_what_compiles_has_no_network_no_rights_and_no_root_to_write_to(compiled: Compile) -> None:
    engine, _ = compiled(answers())
    holder, build = map(json.loads, engine.sent["POST /containers/create"])
    assert holder["Entrypoint"] == ["true"]
    assert "POST /containers/holder/start" not in engine.asked
    host = build["HostConfig"]
    assert build["User"] not in ("", "0", "0:0")
    assert build["Image"] == IMAGE
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert 0 < host["Memory"] == host["MemorySwap"]
    assert [bind.rpartition(":")[2] for bind in host["Binds"]].count("ro") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "code", "error"),
    [
        ("undefined: x", 2, CompileFailed),
        ("compile: signal: killed", 1, OutOfMemory),
        ("", 137, OutOfMemory),
    ],
)
def test_a_compile_that_fails_is_an_error_and_leaves_nothing(
    text: str, code: int, error: type[Exception], compiled: Compile
) -> None:
    with pytest.raises(error):
        compiled(answers(f"{GO}{text}\n", code))
    demand_nothing_left(compiled.engine)
    assert "GET /containers/build/archive" not in compiled.engine.asked


def test_a_container_without_the_binary_is_an_error(compiled: Compile) -> None:
    with pytest.raises(NoBinary):
        compiled(answers(made=tar_of(other=b"x")))
    demand_nothing_left(compiled.engine)


def test_an_independent_build_gets_a_cache_of_its_own_that_is_removed(compiled: Compile) -> None:
    engine, _ = compiled(answers(), empty_cache=True)
    demand_nothing_left(engine)
    assert "DELETE /volumes/cache" in engine.asked


@pytest.mark.slow
def test_a_build_cache_that_cannot_be_used_is_removed_and_made_again(compiled: Compile) -> None:
    given, good = answers("open /cache/go/00: not a directory\n", 1), answers()
    given["GET /containers/build/logs"] += good["GET /containers/build/logs"]
    given["POST /containers/build/wait"] += good["POST /containers/build/wait"]
    given["POST /containers/create"] *= 2
    [volume] = {
        bind.partition(":")[0] for bind in _binds(compiled) if bind.startswith("kbuild-gocache-")
    }
    given[f"GET /volumes/{volume}"] = [(200, {"Name": volume})]
    given[f"DELETE /volumes/{volume}"] = [GONE]
    engine, made = compiled(given)
    assert made == b"kubeadm"
    assert f"DELETE /volumes/{volume}" in engine.asked
    assert "Go's build cache cannot be used, compiling again with an empty one" in (
        compiled.progress.said
    )


def _binds(compiled: Compile) -> list[str]:
    engine, _ = compiled(answers())
    binds: list[str] = json.loads(engine.sent["POST /containers/create"][1])["HostConfig"]["Binds"]
    return binds


def test_an_image_that_is_gone_is_told(compiled: Compile) -> None:
    given = answers()
    given["POST /containers/create"] = [(404, {"message": f"No such image: {IMAGE}"})]
    with pytest.raises(ImageNotFound):
        compiled(given)
    assert "DELETE /volumes/source" in compiled.engine.asked


def test_an_engine_that_breaks_off_is_told(compiled: Compile) -> None:
    given = answers()
    given["GET /containers/build/logs"] = [(200, [None])]
    given["POST /containers/build/wait"] = [(500, {"message": "the engine is shutting down"})]
    with pytest.raises(EngineFailed):
        compiled(given)
    demand_nothing_left(compiled.engine)


@pytest.mark.parametrize("builder", ["auto", "docker"])
def test_docker_is_chosen_where_an_engine_answers(
    builder: BuilderChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_engine({}) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        assert choose_builder(make_request(builder=builder).go, Recorder()) == "docker"


@pytest.mark.parametrize("builder", ["auto", "local"])
def test_a_local_builder_without_a_sandbox_is_refused_before_anything_is_fetched(
    builder: BuilderChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.base.sandbox.why_unavailable", lambda: "unshare failed")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(SandboxUnavailable, match="the local builder: unshare failed"):
        choose_builder(make_request(builder=builder).go, Recorder())
