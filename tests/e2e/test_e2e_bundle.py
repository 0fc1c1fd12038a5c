"""A bundle with the golang image: built in docker when no registry can give that image."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import docker
import pytest
import requests
from docker import DockerClient

from tests.e2e.command import GO_VERSION, VERSION, Kbuild
from tests.e2e.conftest import GitServer, remove_image
from tests.e2e.released import BINARY, GIT_DOCKER, Releases

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@contextlib.contextmanager
def gone_from_registry(image: str) -> Iterator[str]:
    """Have a registry without the manifest of an image, so that nobody can pull it; give its id."""
    host, _, path = image.partition("/")
    name, _, digest = path.partition("@")
    url = f"http://{host}/v2/{name}/manifests/{digest}"
    manifest = requests.get(url, headers={"Accept": MANIFEST}, timeout=5).content
    requests.delete(url, timeout=5).raise_for_status()
    try:
        yield str(json.loads(manifest)["config"]["digest"])
    finally:
        put = requests.put(url, manifest, headers={"Content-Type": MANIFEST}, timeout=5)
        put.raise_for_status()


def test_docker_builds_from_a_bundle_with_an_image_that_nobody_serves(
    kbuild: Kbuild,
    engine: DockerClient,
    golang_image: str,
    git_server: GitServer,
    releases: Releases,
) -> None:
    with_registry = releases[GIT_DOCKER]
    made = kbuild(
        *("bundle", "--version", VERSION, "--source", git_server.address, "--builder", "docker"),
        *("--go-version", GO_VERSION, "--image", golang_image, "--output", "b.tar", "--json"),
    )
    assert made.code == 0, made.stderr
    [image] = json.loads(made.stdout)["images"]
    assert image == {"go_version": GO_VERSION, "arch": "amd64", "image": golang_image}
    remove_image(engine, golang_image)
    kbuild.forget_built()
    with gone_from_registry(golang_image) as image_id:
        with pytest.raises(docker.errors.NotFound):
            engine.images.pull(golang_image)
        with pytest.raises(docker.errors.ImageNotFound):
            engine.images.get(image_id)
        try:
            done = kbuild.kubeadm(
                *("--bundle", "b.tar", "--image", golang_image, "--output", "out", "--json")
            )
        finally:
            remove_image(engine, image_id)
    assert done.code == 0, done.stderr
    assert "the bundle has the golang image" in done.stderr
    assert "compiled" not in done.stderr
    out = kbuild.home / "out"
    assert (out / BINARY).read_bytes() == with_registry.binary.read_bytes()
    then, now = (
        json.loads((folder / "provenance.json").read_text())
        for folder in (with_registry.folder, out)
    )
    assert dependency(now, "go") == dependency(then, "go")
    bundle = dependency(now, "source")["annotations"]["bundle"]
    assert bundle == json.loads(made.stdout)["sha256"]
    assert kbuild.work_left == []


def dependency(provenance: Any, name: str) -> Any:
    found = provenance["predicate"]["buildDefinition"]["resolvedDependencies"]
    return next(each for each in found if each["name"] == name)
