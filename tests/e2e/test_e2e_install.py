"""What a stranger installs: the action, the image, uvx, and what a Python that is too old says."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from kbuild.base.errors import SandboxForbidden
from tests.e2e.command import BUILD_DATE, GO_VERSION, VERSION, YEARS
from tests.e2e.conftest import remove_image
from tests.e2e.golang_image import SUITE, imported
from tests.e2e.released import Released
from tests.support import debian
from tests.support.action import ROOT, Run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

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
