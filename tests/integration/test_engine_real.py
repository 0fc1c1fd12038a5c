"""The real engine and a real registry on loopback."""

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbuild.base import engine, network
from kbuild.base.errors import ImageNotFound, RegistryUnreachable
from tests.support.recorder import Recorder
from tests.support.servers import free_port, running_registry

pytestmark = pytest.mark.docker

CONTENT = 300_000  # bytes; enough for the engine to tell about its download


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "FIRST_WAIT", 0.0)


@pytest.fixture
def client() -> Iterator["engine.Client"]:
    with contextlib.closing(engine.connect()) as made:
        yield made


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with running_registry(tmp_path) as address:
        yield address


@pytest.fixture
def pushed(client: "engine.Client", registry: str) -> Iterator[tuple[str, str]]:
    """Have an image in the registry and not in the engine; give its repository and digest."""
    repository = f"{registry}/kbuild-test/golang"
    name = f"{repository}:1.20.0"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = CONTENT
        tar.addfile(entry, io.BytesIO(os.urandom(CONTENT)))
    client.api.import_image_from_data(archive.getvalue(), repository=repository, tag="1.20.0")
    try:
        for event in client.images.push(repository, tag="1.20.0", stream=True, decode=True):
            assert "error" not in event
        (by_digest,) = client.images.get(name).attrs["RepoDigests"]
    finally:
        client.images.remove(name, force=True)
    yield repository, str(by_digest).rpartition("@")[2]
    for image in client.images.list():
        if any(ref.startswith(repository) for ref in image.attrs["RepoDigests"] or ()):
            client.images.remove(str(image.id), force=True)


def test_a_tag_is_resolved_and_pulled_by_digest(
    client: "engine.Client", pushed: tuple[str, str]
) -> None:
    repository, digest = pushed
    assert engine.registry_digest(client, f"{repository}:1.20.0") == digest
    image = f"{repository}@{digest}"
    first = Recorder()
    engine.pull(client, image, first)
    assert client.images.get(image).attrs["RepoDigests"] == [image]
    assert first.said == [f"pulling {image}"]
    _, done, total = next(each for each in reversed(first.advances) if each[2])
    assert done == total
    again = Recorder()
    engine.pull(client, image, again)
    assert (again.said, again.advances) == ([], [])


def test_a_digest_that_does_not_exist(client: "engine.Client", registry: str) -> None:
    with pytest.raises(ImageNotFound, match="sha256:0000"):
        engine.pull(client, f"{registry}/golang@sha256:{'0' * 64}", Recorder())


def test_a_tag_that_does_not_exist(client: "engine.Client", registry: str) -> None:
    with pytest.raises(ImageNotFound, match=r"golang:1\.20\.0"):
        engine.registry_digest(client, f"{registry}/golang:1.20.0")


def test_a_registry_that_is_down(client: "engine.Client") -> None:
    repository, recorder = f"127.0.0.1:{free_port()}/golang", Recorder()
    with pytest.raises(RegistryUnreachable):
        engine.registry_digest(client, f"{repository}:1.20.0")
    with pytest.raises(RegistryUnreachable):
        engine.pull(client, f"{repository}@sha256:{'0' * 64}", recorder)
    assert sum("again" in said for said in recorder.said) == network.ATTEMPTS - 1


def test_the_engine_tells_its_architecture(client: "engine.Client") -> None:
    assert engine.arch(client) in {"amd64", "arm64", "arm", "ppc64le", "s390x"}
    assert engine.why_unavailable() is None
