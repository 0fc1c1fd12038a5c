"""What the end-to-end tests share: real input, real servers, one warm cache."""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker import DockerClient

from kbuild.base.containers import CACHE_VOLUME
from kbuild.base.sandbox import SANDBOX_ID
from kbuild.base.workspace import open_workspace
from tests.e2e.command import GO_VERSION, NEXT_VERSION, VERSION, Kbuild
from tests.e2e.golang_image import containers, imported, push, root_file_system
from tests.e2e.released import (
    ARCHIVE_DOCKER,
    ARCHIVE_LOCAL,
    GIT_DOCKER,
    Released,
    Releases,
    release,
)
from tests.e2e.repository import add_tag, write_tagged_repository
from tests.support import debian, servers
from tests.support.cluster.cluster import Cluster, running
from tests.support.cluster.lab import left

Options = tuple[str | Path, ...]
DECOY = "not for kbuild to read\n"


@dataclass(frozen=True, slots=True)
class GitServer:
    """A repository on a git server, and the commit of v1.20.2 in it."""

    address: str
    commit: str


@pytest.fixture(scope="session")
def downloads() -> Path:
    return debian.default_cache()


@pytest.fixture(scope="session")
def kubernetes_archive(downloads: Path) -> Path:
    return debian.kubernetes(downloads)


@pytest.fixture(scope="session")
def goroot(downloads: Path) -> Path:
    return debian.golang(downloads, "1.15")


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    with servers.running_engine():
        client = docker.from_env(timeout=300)
        try:
            yield client
        finally:
            client.close()


@pytest.fixture(scope="session")
def other_volumes(engine: DockerClient) -> Iterator[set[str]]:
    """Give the volumes that this machine has; any others are removed in the end."""
    before = volumes(engine)
    yield before
    for name in volumes(engine) - before:
        engine.volumes.get(name).remove()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("registry")
    with servers.running_registry(folder) as address:
        yield address
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def root_files(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return root_file_system(downloads, tmp_path_factory.mktemp("image") / "root")


@pytest.fixture(scope="session")
def golang_image(
    engine: DockerClient,
    other_volumes: set[str],  # noqa: ARG001  # known before anything is built
    registry: str,
    root_files: Path,
    goroot: Path,
) -> Iterator[str]:
    """Give a golang image by digest; only the registry has it when the tests begin."""
    name = f"{registry}/library/golang:{GO_VERSION}"
    with imported(engine, root_files, goroot, name):
        by_digest = push(engine, name)
    yield by_digest
    remove_image(engine, by_digest)


@pytest.fixture(scope="session")
def git_server(
    kubernetes_archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GitServer]:
    folder = tmp_path_factory.mktemp("git")
    scratch = tmp_path_factory.mktemp("tree")
    repository = folder / "kubernetes.git"
    commit = write_tagged_repository(kubernetes_archive, VERSION, repository, scratch)
    shutil.rmtree(scratch)
    add_tag(repository, NEXT_VERSION, "cmd/kubeadm/kubeadm.go", "// a line more")
    with servers.running_git(folder) as address:
        yield GitServer(f"{address}/kubernetes.git", commit)


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a cache of kbuild, with the Go build caches in $E2E_GOCACHE, which `make demo` made."""
    folder = tmp_path_factory.mktemp("cache")
    if filled := os.environ.get("E2E_GOCACHE"):
        with open_workspace(folder) as workspace:
            gocache = shutil.copytree(filled, workspace.cache / "gocache", dirs_exist_ok=True)
        for path in gocache.rglob("*"):
            os.chown(path, os.geteuid() or SANDBOX_ID, -1)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def in_docker(golang_image: str) -> Options:
    return ("--builder", "docker", "--image", golang_image)


@pytest.fixture(scope="session")
def locally(goroot: Path) -> Options:
    return ("--builder", "local", "--go-root", goroot)


@pytest.fixture(scope="session")
def ways(
    kubernetes_archive: Path, git_server: GitServer, in_docker: Options, locally: Options
) -> dict[str, Options]:
    return {
        GIT_DOCKER: ("--source", git_server.address, *in_docker, "--json"),
        ARCHIVE_DOCKER: ("--source", kubernetes_archive, *in_docker),
        ARCHIVE_LOCAL: ("--source", kubernetes_archive, *locally),
    }


@pytest.fixture(scope="session")
def releases(
    tmp_path_factory: pytest.TempPathFactory, warm_cache: Path, ways: dict[str, Options]
) -> Releases:
    """Give the main job's releases, each made when it is first asked for."""
    return Releases(Kbuild(tmp_path_factory.mktemp("releases"), warm_cache), ways)


@pytest.fixture(scope="session")
def local_release(
    tmp_path_factory: pytest.TempPathFactory,
    warm_cache: Path,
    kubernetes_archive: Path,
    locally: Options,
) -> Released:
    """Give a release of a hundred years that needed no engine."""
    kbuild = Kbuild(tmp_path_factory.mktemp("release"), warm_cache)
    return release(kbuild, kbuild.home / VERSION, "--source", kubernetes_archive, *locally)


@pytest.fixture(scope="session")
def cluster(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a cluster that all stories share: each leaves it healthy; none of it is left after."""
    state = tmp_path_factory.mktemp("cluster")
    with running(downloads, state) as cluster:
        yield cluster
    assert left(state) == []


@pytest.fixture
def on_nodes(cluster: Cluster, tmp_path: Path, warm_cache: Path) -> Kbuild:
    """Give kbuild in the network of the cluster, with its hosts in the environment."""
    return on_nodes_of(cluster, tmp_path, warm_cache)


def on_nodes_of(cluster: Cluster, tmp_path: Path, warm_cache: Path) -> Kbuild:
    """Return kbuild in the network of a cluster, with its hosts in the environment."""
    environment = {
        "KBUILD_SSH_CONFIG": str(cluster.ssh_config),
        "KBUILD_KNOWN_HOSTS": str(cluster.known_hosts),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    return Kbuild(tmp_path, warm_cache, environment, cluster.lab.inside)


@pytest.fixture
def with_ours(on_nodes: Kbuild, cluster: Cluster, local_release: Released) -> None:
    """Have a kubeadm of a century on all nodes, so that a story can be run without the others."""
    hosts = ("--hosts", ",".join(cluster.names), "--yes")
    done = on_nodes("nodes", "install", local_release.folder, *hosts)
    assert done.code == 0, done.stderr


@pytest.fixture(scope="session")
def left_in_engine(
    engine: DockerClient, other_volumes: set[str], golang_image: str
) -> Callable[[], list[str]]:
    """Give what lists the containers and volumes that runs have left, but for Go's build caches."""

    def left() -> list[str]:
        made = volumes(engine) - other_volumes
        temporary = [name for name in sorted(made) if not name.startswith(CACHE_VOLUME)]
        return containers(engine, golang_image) + temporary

    return left


@pytest.fixture
def kbuild(tmp_path: Path, warm_cache: Path) -> Kbuild:
    """Give kbuild with the cache that most tests share, in an empty folder."""
    return Kbuild(tmp_path, warm_cache)


@pytest.fixture(scope="session", autouse=True)
def etc_kubernetes() -> Iterator[Path]:
    """Play a control plane where we may, and see that no run ever wrote to it.

    Several sessions may play it at once: the last one removes it.
    """
    folder = Path("/etc/kubernetes")
    admin = folder / "admin.conf"
    # One of ours is still there after a run that was killed.
    decoy = admin.is_file() and admin.read_text() == DECOY
    if os.geteuid() != 0 or (folder.exists() and not decoy):
        yield from unchanged(folder)
        return
    if not decoy:
        (folder / "pki").mkdir(parents=True)
        (folder / "pki/ca.crt").write_text(DECOY)
        admin.write_text(DECOY)
    with admin.open() as played:
        fcntl.flock(played, fcntl.LOCK_SH)
        try:
            yield from unchanged(folder)
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(played, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)


def unchanged(folder: Path) -> Iterator[Path]:
    """Give a folder, and see that it is the same in the end."""
    before = fingerprint(folder)
    yield folder
    assert fingerprint(folder) == before


def fingerprint(folder: Path) -> str:
    """Return a digest of names, modes, times and contents below a folder that may not exist."""
    digest = hashlib.sha256()
    for path in sorted([folder, *folder.rglob("*")]):
        if path.exists():
            status = path.stat()
            facts = (path, status.st_mode, status.st_uid, status.st_mtime_ns, status.st_ino)
            digest.update(repr(facts).encode())
            digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def volumes(engine: DockerClient) -> set[str]:
    """Return the names of an engine's volumes."""
    return {str(volume.name) for volume in engine.volumes.list()}


def remove_image(engine: DockerClient, name: str) -> None:
    """Remove an image that may not be there."""
    try:
        engine.images.remove(name, force=True)
    except docker.errors.ImageNotFound:
        return
