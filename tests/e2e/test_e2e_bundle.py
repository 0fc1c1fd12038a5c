"""A bundle of the real v1.20.2 and of Debian's Go, built from where there is no network at all."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.command import GO_VERSION, VERSION, Kbuild
from tests.e2e.conftest import GitServer
from tests.e2e.released import BINARY, Released

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_a_build_from_a_bundle_needs_no_network(
    kbuild: Kbuild, git_server: GitServer, goroot: Path, local_release: Released
) -> None:
    source = ("--source", git_server.address)
    go = ("--go-root", goroot, "--go-version", GO_VERSION)
    made = kbuild("bundle", "--version", VERSION, *source, *go, "--output", "b.tar", "--json")
    assert made.code == 0, made.stderr
    assert json.loads(made.stdout)["tags"] == {VERSION: git_server.commit}
    kbuild.forget_built()  # so that the next run compiles
    # Not even loopback is up in a new network namespace.
    apart = replace(kbuild, inside=("unshare", "--net"))
    asked = apart("versions", *source)
    assert asked.code == 20, asked.stdout
    done = apart.kubeadm(
        *("--bundle", "b.tar", "--builder", "local", "--go-version", GO_VERSION, "--output", "out")
    )
    assert done.code == 0, done.stderr
    assert (kbuild.home / "out" / BINARY).read_bytes() == local_release.binary.read_bytes()
    provenance = json.loads((kbuild.home / "out/provenance.json").read_text())
    then = local_release.json("provenance.json")
    source_of, go_of = _inputs(provenance)["source"], _inputs(provenance)["go"]
    assert source_of["uri"] == f"git+{git_server.address}@refs/tags/{VERSION}"
    assert source_of["digest"] == {"gitCommit": git_server.commit}
    assert source_of["annotations"]["bundle"] == json.loads(made.stdout)["sha256"]
    assert go_of == _inputs(then)["go"]
    assert kbuild.work_left == []


def _inputs(provenance: dict) -> dict:  # type: ignore[type-arg]
    found = provenance["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {each["name"]: each for each in found}
