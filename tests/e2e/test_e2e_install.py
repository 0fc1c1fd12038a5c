"""What a stranger installs: the action, the image, uvx, and what a Python that is too old says."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

from kbuild.base.errors import SandboxForbidden
from kbuild.base.sandbox import SANDBOX_ID
from kbuild.kubeadm.api import digest_of
from tests.e2e.command import BUILD_DATE, GO_VERSION, VERSION, YEARS, Kbuild, main_job
from tests.e2e.conftest import GitServer, remove_image
from tests.e2e.golang_image import SUITE, imported
from tests.e2e.released import BINARY, GIT_DOCKER, Released, Releases
from tests.support import debian
from tests.support.action import ROOT, Run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TAG = "CACHEDIR.TAG"
PROGRAMS = Path(sys.executable).parent
OLD_PYTHON = ("libc6", "libexpat1", "libpython3.9-minimal", "python3.9-minimal", "zlib1g")
IMAGE, STAGE, BASE = (f"kbuild-e2e-{name}:latest" for name in ("image", "stage", "base"))
# What Debian's image has, as far as kbuild, pip and apt-get's stand-in need it.
ESSENTIAL = (
    *("base-files", "bash", "coreutils", "dash", "debianutils", "dpkg", "findutils", "grep"),
    *("hostname", "libc-bin", "login", "mount", "sed", "tar", "util-linux"),
)
INSTALLED = ("bubblewrap", "ca-certificates", "git", "python3", "python3-venv")
# Installs nothing, and knows only packages that are there.
APT_GET = f"""\
#!/bin/sh
shift
for word; do
  case " {" ".join(INSTALLED)} " in
  *" $word "*) ;;
  *) case $word in -*) ;; *) echo "E: Unable to locate package $word" >&2; exit 100 ;; esac ;;
  esac
done
"""
ALLOWED = ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined")


def test_the_action_builds_proves_signs_and_checks(
    tmp_path: Path,
    warm_cache: Path,
    kubernetes_archive: Path,
    goroot: Path,
    local_release: Released,
) -> None:
    key = subprocess.run(
        ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    inputs = {
        "version": VERSION,
        "source": str(kubernetes_archive),
        "builder": "local",
        "layout": "tree",
        "signing": "key",
        "key": key,
        "build-date": BUILD_DATE,
    }
    environment = {
        "KBUILD_CACHE_DIR": str(warm_cache),
        "KBUILD_GO_ROOT": str(goroot),
        "KBUILD_GO_VERSION": GO_VERSION,
        "HOME": str(tmp_path),
    }
    done = Run(tmp_path, inputs, environment).steps()
    assert done.failed == "", done.printed
    folder = tmp_path / done.action_outputs["folder"]
    assert (tmp_path / done.action_outputs["sums"]).is_file()
    assert (folder / "SHA256SUMS.sigstore.json").is_file()
    assert key not in done.printed
    kubeadm = folder / "bin/linux/amd64/kubeadm"
    assert kubeadm.read_bytes() == local_release.binary.read_bytes()
    program = Path(done.action_outputs["kbuild"])
    assert program.is_relative_to(done.temporary)
    shutil.rmtree(done.temporary)


def test_uvx_runs_a_clone(tmp_path: Path) -> None:
    done = subprocess.run(
        (PROGRAMS / "uvx", "--python", sys.executable, "--from", ROOT, "kbuild", "--version"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kbuild ")


def test_a_python_that_is_too_old_says_so_in_one_line(downloads: Path, tmp_path: Path) -> None:
    root = debian.unpack(downloads, "bullseye", OLD_PYTHON, tmp_path)
    done = subprocess.run(
        (root / "usr/bin/python3.9", "-B", "-m", "kbuild", "--help"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kbuild needs Python 3.11 or newer, this is 3.9.")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def base(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a Debian like its image, with this machine's settings of pip."""
    root = tmp_path_factory.mktemp("base") / "root"
    debian.unpack_with_dependencies(downloads, SUITE, (*ESSENTIAL, *INSTALLED), root)
    for name in ("etc/xdg", "tmp", "var/lib/apt/lists"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for path in (Path("/etc/pip.conf"), Path("/etc/xdg/pip")):
        if path.exists():
            subprocess.run(("cp", "-rL", path, root / path.relative_to("/")), check=True)
    shutil.rmtree(root / "etc/ssl/certs", ignore_errors=True)
    (root / "etc/ssl").mkdir(exist_ok=True)
    subprocess.run(("cp", "-rL", "/etc/ssl/certs", root / "etc/ssl/certs"), check=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "usr/bin/apt-get").write_text(APT_GET)
    (root / "usr/bin/apt-get").chmod(0o755)
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def image(engine: DockerClient, base: Path) -> Iterator[str]:
    try:
        with imported(engine, base, None, BASE):
            for name, target in ((STAGE, "build"), (IMAGE, None)):
                engine.images.build(
                    path=str(ROOT),
                    tag=name,
                    target=target,
                    buildargs={"BASE": BASE},
                    network_mode="host",
                    forcerm=True,
                )
            yield IMAGE
            remove_image(engine, IMAGE)
            remove_image(engine, STAGE)
    finally:
        for name in (IMAGE, STAGE, BASE):
            remove_image(engine, name)


@pytest.mark.timeout(1500)
def test_the_image_builds_from_a_bundle_without_a_network(
    kbuild: Kbuild,
    engine: DockerClient,
    image: str,
    git_server: GitServer,
    goroot: Path,
    local_release: Released,
    releases: Releases,
) -> None:
    go = ("--go-root", goroot, "--go-version", GO_VERSION)
    source = ("--source", git_server.address)
    bundle = kbuild.home / "b.tar"
    made = kbuild("bundle", "--version", VERSION, *source, *go, "--output", bundle, "--json")
    assert made.code == 0, made.stderr
    cache = kbuild.home / "cache"
    gocache = Path("v1/gocache", digest_of(goroot))
    shutil.copytree(kbuild.cache / gocache, cache / gocache)
    shutil.copy(kbuild.cache / TAG, cache)  # it is no cache of kbuild without
    user = os.geteuid() or SANDBOX_ID  # the image refuses to build as root
    for path in (kbuild.home, *cache.rglob("*"), cache):
        os.chown(path, user, -1)
    job = main_job("--bundle", "b.tar", "--output", "out", "--json")
    code, printed = in_container(engine, image, user, kbuild.home, cache, *job)
    assert code == 0, printed
    out = kbuild.home / "out"
    with_network = releases[GIT_DOCKER]
    assert (out / BINARY).read_bytes() == with_network.binary.read_bytes()
    [proof] = json.loads((out / "proof.json").read_text())["binaries"]
    assert (proof["ran"], proof["where"]) == ("native", "sandbox")
    provenance = json.loads((out / "provenance.json").read_text())
    source_of, go_of = (dependencies(provenance)[name] for name in ("source", "go"))
    assert source_of["uri"] == f"git+{git_server.address}@refs/tags/{VERSION}"
    assert source_of["digest"] == {"gitCommit": git_server.commit}
    assert source_of["annotations"]["bundle"] == json.loads(made.stdout)["sha256"]
    assert go_of == dependencies(local_release.json("provenance.json"))["go"]


def dependencies(provenance: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = provenance["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {each["name"]: each for each in found}


def in_container(
    engine: DockerClient, image: str, user: int, work: Path, cache: Path, *words: str | Path
) -> tuple[int, str]:
    """Run the image as docs/ci.md says, without a network; return its exit code and output."""
    host = engine.api.create_host_config(
        binds={str(work): {"bind": "/work"}, str(cache): {"bind": "/cache"}},
        network_mode="none",
        security_opt=list(ALLOWED[:2]),
    )
    # What `docker run` makes of systempaths=unconfined.
    host |= {"MaskedPaths": [], "ReadonlyPaths": []}
    made = engine.api.create_container(image, [*map(str, words)], user=str(user), host_config=host)
    container = engine.containers.get(made["Id"])
    try:
        container.start()
        code = container.wait(timeout=900)["StatusCode"]
        return code, container.logs().decode()
    finally:
        container.remove(force=True, v=True)


def test_without_the_flags_nothing_is_fetched_and_the_flags_are_told(
    engine: DockerClient, image: str
) -> None:
    nowhere = ("--source", "https://192.0.2.1/kubernetes.git", "--stall-timeout", "1")
    container = engine.containers.create(
        image, ["kubeadm", "--version", VERSION, *YEARS, *nowhere], network_mode="none"
    )
    try:
        container.start()
        code = container.wait()["StatusCode"]
        printed = container.logs().decode()
    finally:
        container.remove(force=True, v=True)
    assert code == SandboxForbidden.exit_code
    assert printed.startswith("error[sandbox-forbidden]: ")
    for option in ALLOWED:
        assert f"--security-opt {option}" in printed
