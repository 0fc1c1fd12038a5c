"""Bits that flipped in a cache: the next run names them, and makes the same bytes as ever."""

import random
import subprocess
from pathlib import Path

import pytest
from docker import DockerClient

from kbuild.base.containers import cache_volume
from kbuild.base.workspace import open_workspace
from kbuild.kubeadm.toolchain.archives import digest_of
from tests.e2e.command import Kbuild
from tests.e2e.conftest import Options
from tests.e2e.released import ARCHIVE_DOCKER, ARCHIVE_LOCAL, BINARY, Releases

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

FLIPPED = 60


def flip(gocache: Path) -> None:
    """Flip a bit in sixty outputs and in sixty entries of the index."""
    chance = random.Random(1)
    for pattern in ("*/*-d", "*/*-a"):
        files = sorted(path for path in gocache.glob(pattern) if path.stat().st_size)
        for path in chance.sample(files, FLIPPED):
            content = bytearray(path.read_bytes())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            path.write_bytes(content)


@pytest.fixture
def local_gocache(releases: Releases, warm_cache: Path, goroot: Path, tmp_path: Path) -> Path:
    """Copy the local builder's Go build cache into a new cache, with the owners of its files."""
    assert releases[ARCHIVE_LOCAL].binary.is_file()  # it has filled the cache
    with open_workspace(warm_cache) as warm, open_workspace(tmp_path / "cache") as new:
        source, copy = (each.cache / "gocache" / digest_of(goroot) for each in (warm, new))
        subprocess.run(("cp", "--archive", source, copy), check=True)
    return copy


@pytest.fixture
def docker_gocache(releases: Releases, engine: DockerClient, golang_image: str) -> Path:
    """Return the volume of the docker builder's Go build cache, which root can write to."""
    assert releases[ARCHIVE_DOCKER].binary.is_file()
    volume = engine.volumes.get(cache_volume(golang_image))
    return Path(volume.attrs["Mountpoint"]) / "go"


def test_flipped_bits_in_the_local_build_cache(
    local_gocache: Path, releases: Releases, ways: dict[str, Options], tmp_path: Path
) -> None:
    flip(local_gocache)
    done = Kbuild(tmp_path, tmp_path / "cache").kubeadm(*ways[ARCHIVE_LOCAL], "--output", "made")
    assert done.code == 0, done.stderr
    assert f"{FLIPPED} entries of Go's build cache are damaged" in done.stderr
    assert (tmp_path / "made" / BINARY).read_bytes() == releases[ARCHIVE_LOCAL].binary.read_bytes()


def test_flipped_bits_in_the_build_cache_of_docker(
    docker_gocache: Path, releases: Releases, kbuild: Kbuild, ways: dict[str, Options]
) -> None:
    flip(docker_gocache)
    kbuild.forget_built()
    done = kbuild.kubeadm(*ways[ARCHIVE_DOCKER], "--output", "made")
    assert done.code == 0, done.stderr
    assert f"{FLIPPED} entries of Go's build cache are damaged" in done.stderr
    expected = releases[ARCHIVE_DOCKER].binary.read_bytes()
    assert (kbuild.home / "made" / BINARY).read_bytes() == expected
