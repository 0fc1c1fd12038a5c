"""Bad input and broken surroundings: one clear error each, of its own kind, nothing left."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from docker import DockerClient

from tests.e2e.command import COMMIT, VERSION, Done, Kbuild, at_stage, main_job
from tests.e2e.conftest import GitServer, Options, remove_image
from tests.e2e.golang_image import containers, imported, push, root_file_system, write_fake_go
from tests.e2e.released import ARCHIVE_DOCKER, ARCHIVE_LOCAL, GIT_DOCKER, Releases
from tests.support.failures import kind_of
from tests.support.servers import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
ZEROS = "0" * 64
# Where an archive says what it is, with what `git archive` fills in.
IDENTITY = "kubernetes/hack/lib/version.sh"
IDENTITY_TEXT = f"""\
    KUBE_GIT_COMMIT='{COMMIT}'
  if [[ 'tag: {VERSION}' =~ tag:\\ (v[^ ,]+) ]]; then
"""


def assert_refused(kbuild: Kbuild, done: Done, code: int, kind: str) -> None:
    """See one error of this kind with a hint and its exit code, and that nothing was left."""
    assert (done.code, kind_of(done.stderr)) == (code, kind), done.stderr
    lines = done.stderr.splitlines()
    assert sum(line.startswith("hint: ") for line in lines) == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert kbuild.work_left == []
    assert not (kbuild.home / "dist").exists()


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (("--ca-years", "293"), "bad-setting"),
        (("--leaf-years", "0"), "bad-setting"),
        (("--leaf-years", "-1"), "bad-setting"),
        (("--ca-years", "1.5"), "bad-setting"),
        (("--ca-years", "99"), "leaf-outlives-ca"),  # the leaf's are 100
        (("--version", "nonsense"), "bad-version"),
        (("--arch", "riscv64"), "bad-setting"),
    ],
    ids=str,
)
def test_wrong_usage(kbuild: Kbuild, wrong: tuple[str, str], kind: str) -> None:
    assert_refused(kbuild, kbuild.kubeadm(*wrong), 2, kind)


def test_git_tag_of_another_commit(kbuild: Kbuild, ways: dict[str, Options]) -> None:
    done = kbuild.kubeadm(*ways[GIT_DOCKER][:-1], "--commit", "0" * 40)
    assert_refused(kbuild, done, 20, "commit-mismatch")


def test_archive_of_another_commit(kbuild: Kbuild, ways: dict[str, Options]) -> None:
    assert_refused(
        kbuild, kbuild.kubeadm(*ways[ARCHIVE_LOCAL], "--commit", "0" * 40), 20, "commit-mismatch"
    )


def test_missing_tag(kbuild: Kbuild, git_server: GitServer) -> None:
    done = kbuild.kubeadm("--source", git_server.address, "--version", "v1.20.3")
    assert_refused(kbuild, done, 20, "tag-not-found")


def test_git_server_down(kbuild: Kbuild) -> None:
    done = kbuild.kubeadm("--source", f"git://127.0.0.1:{free_port()}/kubernetes.git")
    assert_refused(kbuild, done, 20, "source-unreachable")


def test_wrong_sha256(kbuild: Kbuild, ways: dict[str, Options]) -> None:
    assert_refused(
        kbuild,
        kbuild.kubeadm(*ways[ARCHIVE_LOCAL], "--source-sha256", ZEROS),
        20,
        "source-checksum-mismatch",
    )


def test_archive_of_another_version(kbuild: Kbuild, ways: dict[str, Options]) -> None:
    assert_refused(
        kbuild,
        kbuild.kubeadm(*ways[ARCHIVE_LOCAL], "--version", "v1.20.3"),
        20,
        "wrong-archive-version",
    )


def test_truncated_archive(kbuild: Kbuild, kubernetes_archive: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.tar.gz"
    with kubernetes_archive.open("rb") as whole:
        half.write_bytes(whole.read(kubernetes_archive.stat().st_size // 2))
    assert_refused(kbuild, kbuild.kubeadm("--source", half), 20, "broken-archive")


def test_archive_that_leaves_its_folder(kbuild: Kbuild, tmp_path: Path) -> None:
    evil = tmp_path / "evil.tar.gz"
    with tarfile.open(evil, "w:gz") as tar:
        for name, text in ((IDENTITY, IDENTITY_TEXT), ("kubernetes/../../escaped", "text")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    assert_refused(kbuild, kbuild.kubeadm("--source", evil), 20, "unsafe-archive")
    assert list(kbuild.cache.parent.rglob("escaped")) == []


def test_engine_missing(kbuild: Kbuild, ways: dict[str, Options]) -> None:
    done = kbuild.kubeadm(*ways[ARCHIVE_DOCKER], DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert_refused(kbuild, done, 50, "engine-missing")


def test_engine_down(kbuild: Kbuild, ways: dict[str, Options]) -> None:
    host = f"tcp://127.0.0.1:{free_port()}"
    assert_refused(
        kbuild, kbuild.kubeadm(*ways[ARCHIVE_DOCKER], DOCKER_HOST=host), 50, "engine-down"
    )


def test_digest_that_does_not_exist(
    kbuild: Kbuild, ways: dict[str, Options], golang_image: str
) -> None:
    unknown = f"{golang_image.partition('@')[0]}@sha256:{ZEROS}"
    assert_refused(
        kbuild, kbuild.kubeadm(*ways[ARCHIVE_DOCKER], "--image", unknown), 30, "image-not-found"
    )


def test_image_without_digest(kbuild: Kbuild, ways: dict[str, Options], registry: str) -> None:
    image = f"{registry}/library/golang:1.15.15"
    assert_refused(
        kbuild, kbuild.kubeadm(*ways[ARCHIVE_DOCKER], "--image", image), 30, "image-without-digest"
    )


@pytest.fixture
def image_of_another_go(
    engine: DockerClient, registry: str, downloads: Path, tmp_path: Path
) -> Iterator[str]:
    root = root_file_system(downloads, tmp_path / "root")
    write_fake_go(root, "1.14")
    name = f"{registry}/library/golang:1.14"
    with imported(engine, root, None, name):
        by_digest = push(engine, name)
    yield by_digest
    remove_image(engine, by_digest)


def test_image_of_another_go(
    kbuild: Kbuild, ways: dict[str, Options], image_of_another_go: str, engine: DockerClient
) -> None:
    done = kbuild.kubeadm(*ways[ARCHIVE_DOCKER], "--image", image_of_another_go)
    assert_refused(kbuild, done, 30, "wrong-go")
    assert containers(engine, image_of_another_go) == []


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount an empty file system there."""
    folder.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", options, "kbuild-test", folder), check=True)
    try:
        yield folder
    finally:
        subprocess.run(("umount", folder), check=True)


@root_only
@pytest.mark.parametrize("way", [ARCHIVE_LOCAL, GIT_DOCKER])
def test_full_disk(way: str, ways: dict[str, Options], tmp_path: Path) -> None:
    options = [option for option in ways[way] if option != "--json"]
    with mounted(tmp_path / "small", "size=20m") as cache:
        kbuild = Kbuild(tmp_path, cache)
        assert_refused(kbuild, kbuild.kubeadm(*options), 80, "disk-full")


@root_only
def test_read_only_output(kbuild: Kbuild, ways: dict[str, Options], tmp_path: Path) -> None:
    with mounted(tmp_path / "read-only", "ro") as folder:
        done = kbuild.kubeadm(*ways[ARCHIVE_LOCAL], "--output", folder / "out")
    assert_refused(kbuild, done, 80, "not-writable")


def test_output_that_exists(kbuild: Kbuild, ways: dict[str, Options], tmp_path: Path) -> None:
    kept = tmp_path / "out/kept"
    kept.parent.mkdir()
    kept.write_text("mine")
    done = kbuild.kubeadm(*ways[ARCHIVE_LOCAL], "--output", kept.parent)
    assert_refused(kbuild, done, 80, "output-exists")
    assert kept.read_text() == "mine"


def test_error_with_json_is_one_document(kbuild: Kbuild, kubernetes_archive: Path) -> None:
    done = kbuild.kubeadm("--source", kubernetes_archive, "--source-sha256", ZEROS, "--json")
    assert done.code == 20
    error = json.loads(done.stdout)["error"]
    assert (error["exit_code"], error["kind"]) == (20, "source-checksum-mismatch")


def test_two_builds_at_once(
    kbuild: Kbuild, releases: Releases, ways: dict[str, Options], tmp_path: Path
) -> None:
    same = (*ways[ARCHIVE_LOCAL], "--output", tmp_path / "out")
    assert releases[ARCHIVE_LOCAL].binary.is_file()  # the cache is warm now
    kbuild.forget_built()
    first = kbuild.start(*main_job(*same))
    with at_stage(first, "toolchain"):
        second = kbuild.kubeadm(*same)
        other = kbuild.kubeadm(*ways[ARCHIVE_LOCAL], "--output", tmp_path / "other")
        assert first.wait(300) == 0
    assert (second.code, kind_of(second.stderr)) == (80, "output-busy"), second.stderr
    assert other.code == 0, other.stderr
    assert kbuild.work_left == []
    names = [sorted(path.name for path in (tmp_path / out).iterdir()) for out in ("out", "other")]
    assert names[0] == names[1]
