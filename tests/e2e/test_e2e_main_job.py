"""The main job on the real v1.20.2, each way of building it, and what comes out."""

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from docker import DockerClient
from packaging.version import Version
from unidiff.patch import PatchSet

from kbuild.base.workspace import open_workspace
from kbuild.kubeadm.model import Lifetimes
from kbuild.kubeadm.prove.container import container_runner
from kbuild.kubeadm.prove.pki import prove_pki
from tests.e2e.command import BUILD_DATE, COMMIT, GO_VERSION, VERSION, YEARS, Kbuild
from tests.e2e.conftest import GitServer, Options
from tests.e2e.released import (
    ARCH,
    ARCHIVE_DOCKER,
    ARCHIVE_LOCAL,
    BINARY,
    CENTURY,
    GIT_DOCKER,
    Released,
    Releases,
    certificates,
    release,
)
from tests.support.failures import kind_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# What kubeadm v1.20 makes: CAs of the cluster, of etcd and of the front proxy, their seven leaves,
# and four kubeconfigs.
KINDS = {"ca": 3, "leaf": 7, "kubeconfig": 4}


@pytest.fixture(params=[GIT_DOCKER, ARCHIVE_DOCKER, ARCHIVE_LOCAL])
def released(request: pytest.FixtureRequest, releases: Releases) -> Released:
    return releases[request.param]


def test_sums_are_accepted_in_the_folder(released: Released) -> None:
    names = {path.name for path in released.folder.iterdir()}
    documents = ("kubeadm.patch", "proof.json", "build.json", "provenance.json")
    listed = {BINARY, f"kubeadm-{ARCH}.spdx.json", *documents}
    assert names == {*listed, *(f"{n}.sha256" for n in listed), "SHA256SUMS", "SHA512SUMS"}
    check = subprocess.run(
        ("sha256sum", "--check", "--strict", "SHA256SUMS"),
        cwd=released.folder,
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"{BINARY}: OK" in check.stdout.splitlines()


def test_every_certificate_of_the_proof_has_its_century(released: Released) -> None:
    found = list(certificates(released.json("proof.json")))
    for certificate in found:
        if (certificate["case"], certificate["kind"]) != ("old-ca", "ca"):
            assert released.issued_here(datetime.fromisoformat(certificate["not_after"]))
    fresh = Counter((each["moment"], each["kind"]) for each in found if each["case"] == "fresh-ca")
    for kind, count in KINDS.items():
        assert fresh["issued", kind] == count
    assert fresh["renewed", "leaf"] == KINDS["leaf"]
    # The kubelet renews its own.
    assert fresh["renewed", "kubeconfig"] >= KINDS["kubeconfig"] - 1
    assert any(each["case"] == "old-ca" for each in found)


def test_patch_changes_one_line_in_each_of_two_files(released: Released) -> None:
    patch = PatchSet((released.folder / "kubeadm.patch").read_text())
    assert sorted((file.path, file.added, file.removed) for file in patch) == [
        ("cmd/kubeadm/app/constants/constants.go", 1, 1),
        ("staging/src/k8s.io/client-go/util/cert/cert.go", 1, 1),
    ]


def test_binary_tells_what_it_is(
    released: Released, releases: Releases, git_server: GitServer
) -> None:
    output = run(released.binary, "version", "--output", "json")
    version = json.loads(output)["clientVersion"]
    commit = git_server.commit if released == releases[GIT_DOCKER] else COMMIT
    assert version["gitVersion"] == VERSION
    assert version["gitCommit"] == commit
    assert version["gitTreeState"] == "dirty"
    assert version["buildDate"] == BUILD_DATE
    assert version["goVersion"] == f"go{GO_VERSION}"
    assert version["platform"] == f"linux/{ARCH}"


def test_only_a_commit_from_git_counts_as_verified(released: Released, releases: Releases) -> None:
    from_git = released == releases[GIT_DOCKER]
    proof = released.json("build.json")["source"]["commit_proof"]
    assert proof == ("git-object" if from_git else "archive-claim")
    assert ("not verified" in released.done.stdout) != from_git
    definition = released.json("provenance.json")["predicate"]["buildDefinition"]
    [source] = [d for d in definition["resolvedDependencies"] if d["name"] == "source"]
    assert ("gitCommit" in source["digest"]) == from_git
    assert ("claimedCommit" in source["annotations"]) != from_git


# A CA's serial number is 0 up to v1.25.11, v1.26.6 and v1.27.3.
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_binary_issues_a_century(released: Released, tmp_path: Path) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    run(
        released.binary,
        *("init", "phase", "certs", "all", "--cert-dir", str(tmp_path)),
        *("--kubernetes-version", VERSION, "--apiserver-advertise-address", "192.0.2.1"),
    )
    ended = datetime.now(UTC)
    issued = [x509.load_pem_x509_certificate(p.read_bytes()) for p in tmp_path.rglob("*.crt")]
    assert len(issued) == KINDS["ca"] + KINDS["leaf"]
    assert all(began <= each.not_valid_after_utc - CENTURY <= ended for each in issued)


def test_verify_agrees(released: Released, kbuild: Kbuild) -> None:
    done = kbuild("verify", released.binary, *YEARS, "--version", VERSION)
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    ("years", "kind"),
    [
        (("--ca-years", "99", "--leaf-years", "99"), "wrong-lifetime"),
        (("--ca-years", "100", "--leaf-years", "99"), "wrong-lifetime"),
        (("--ca-years", "101", "--leaf-years", "100"), "wrong-lifetime"),
        ((*YEARS, "--version", "v1.20.3"), "wrong-version"),
    ],
)
def test_verify_refuses_what_was_not_built(
    releases: Releases, kbuild: Kbuild, years: tuple[str, ...], kind: str
) -> None:
    done = kbuild("verify", releases[ARCHIVE_LOCAL].binary, *years)
    assert (done.code, kind_of(done.stderr)) == (70, kind), done.stderr
    assert "Traceback" not in done.stderr


def test_json_is_one_document(releases: Releases) -> None:
    stdout = releases[GIT_DOCKER].done.stdout
    assert isinstance(json.loads(stdout), dict)


def test_git_run_records_its_commit_and_image(
    releases: Releases, git_server: GitServer, golang_image: str
) -> None:
    build = (releases[GIT_DOCKER].folder / "build.json").read_text()
    assert git_server.commit in build
    assert golang_image in build


def test_nothing_is_left(
    released: Released, kbuild: Kbuild, left_in_engine: Callable[[], list[str]]
) -> None:
    assert released.folder.is_dir()
    assert kbuild.work_left == []
    assert left_in_engine() == []


def test_the_proof_needs_no_namespaces_where_an_engine_is(
    releases: Releases, engine: DockerClient, tmp_path: Path
) -> None:
    binary = releases[ARCHIVE_LOCAL].binary
    with (
        open_workspace(tmp_path) as workspace,
        container_runner(binary, ARCH, workspace) as runner,
    ):
        assert runner is not None
        lifetimes = Lifetimes(ca_years=100, leaf_years=100)
        seen = prove_pki("old-ca", runner, Version(VERSION), lifetimes)
    assert Counter(each.moment for each in seen) == {"issued": 11, "renewed": 10}
    assert [image for image in engine.images.list() if "kbuild-proof" in str(image.tags)] == []


def test_docker_and_local_give_the_same_bytes(releases: Releases) -> None:
    docker_, local = releases[ARCHIVE_DOCKER], releases[ARCHIVE_LOCAL]
    assert docker_.binary.read_bytes() == local.binary.read_bytes()


def test_only_the_lifetimes_differ_from_a_stock_that_was_built_without_the_build_cache(
    releases: Releases, ways: dict[str, Options], kbuild: Kbuild
) -> None:
    options = (*ways[ARCHIVE_LOCAL], "--against-stock", "--independent")
    again = release(kbuild, kbuild.home / "out", *options)
    [proof] = again.json("proof.json")["binaries"]
    assert proof["against_stock"]["moved"] is False
    assert len(proof["against_stock"]["functions"]) == 2
    assert again.binary.read_bytes() == releases[ARCHIVE_LOCAL].binary.read_bytes()


def run(*command: str | Path) -> str:
    """Run a command and give what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
