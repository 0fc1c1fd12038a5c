"""What a cluster is made of, built once a machine: Kubernetes, a Debian, images in Docker."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import requests
from docker.errors import DockerException
from filelock import FileLock

from tests.support import debian
from tests.support.cluster.files import FILES, MASKED, PAUSE, RUNC, WANTED

VERSION = "v1.20.2"
COMMIT = "faecb196815e248d3ecfb03c680a4507229c2a56"
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
PROGRAMS = ("kubeadm", "kubelet", *COMPONENTS)
SUITE = "bookworm"
PACKAGES = (
    "ca-certificates",
    "conntrack",
    "docker.io",
    "etcd-client",
    "etcd-server",
    "ethtool",
    "haproxy",
    "iproute2",
    "iptables",
    "kmod",
    "kubernetes-client",
    "openssh-server",
    "openssl",
    "procps",
    "socat",
    "systemd",
    "systemd-sysv",
)
LEFT_OUT = ("doc", "info", "locale", "man")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DOCKER_SECONDS = 60


class BuildError(Exception):
    """Something that the cluster needs cannot be built; the text is what the command said."""


@dataclass(frozen=True, slots=True)
class Built:
    """Folders that every cluster on this machine shares, and that nothing writes to.

    ``root`` is the root file system of a node, ``docker`` a /var/lib/docker with all images.
    """

    root: Path
    docker: Path


def build(cache: Path) -> Built:
    """Build what is not there yet; safe to kill and repeat. Raises BuildError or DebianError."""
    home = cache / "cluster"
    home.mkdir(parents=True, exist_ok=True)
    source = hashlib.sha256()
    for name in ("build.py", "files.py"):
        source.update(Path(__file__).with_name(name).read_bytes())
    key = source.hexdigest()[:12]
    # The folders of other keys stay: nodes that run may stand on them.
    with FileLock(home / "lock"), ThreadPoolExecutor(2) as pool:
        # Compiling waits for the processors, Debian for the network and the disk.
        compiled = pool.submit(_programs, cache, home)
        base = pool.submit(_debian, cache, home)
        programs, plain = compiled.result(), base.result()
        root = debian.once(home / f"root-{key}", lambda new: _make_root(plain, programs, new))
        images = debian.once(home / f"docker-{key}", lambda new: _make_docker(root, programs, new))
    return Built(root, images)


def _programs(cache: Path, home: Path) -> Path:
    """Return a folder with stock programs of Kubernetes."""

    def make(new: Path) -> None:
        gopath = home / "gopath"
        source = gopath / "src/k8s.io/kubernetes"
        archive = debian.kubernetes(cache)
        debian.once(source, lambda folder: _unpack(archive, folder))
        environment = {
            "CGO_ENABLED": "0",
            "GO111MODULE": "off",
            "GOCACHE": str(home / "go-build"),
            "GOGC": "400",  # the compiler's own: less time for more memory
            "GOPATH": str(gopath),
            "GOROOT": str(debian.golang(cache, "1.15")),
            "HOME": str(home),
            "PATH": os.environ["PATH"],
        }
        go = f"{environment['GOROOT']}/bin/go"
        _generate_openapi(go, source, environment)
        # Cloud providers are half of what there is to compile, and none is here.
        options = ("-tags=providerless", "-gcflags=all=-dwarf=false", f"-ldflags=-s -w {_stamps()}")
        packages = [f"./cmd/{name}" for name in PROGRAMS]
        run((go, "build", *options, "-o", f"{new}/", *packages), cwd=source, env=environment)
        for folder in (gopath, home / "go-build"):  # of use to a build that was killed only
            shutil.rmtree(folder)

    return debian.once(home / f"kubernetes-{VERSION}", make)


def _unpack(archive: Path, folder: Path) -> None:
    run(("tar", "--extract", "--file", archive, "--strip-components=1", "--directory", folder))


def _stamps() -> str:
    """Return linker flags for the version, as hack/lib/version.sh of v1.20.2 makes them."""
    values = {
        "gitVersion": VERSION,
        "gitMajor": "1",
        "gitMinor": "20",
        "gitCommit": COMMIT,
        "gitTreeState": "clean",
        "buildDate": "2021-01-13T13:20:00Z",
    }
    packages = ("client-go/pkg/version", "component-base/version")
    return " ".join(
        f"-X k8s.io/kubernetes/vendor/k8s.io/{package}.{name}={value}"
        for package in packages
        for name, value in values.items()
    )


def _generate_openapi(go: str, source: Path, environment: dict[str, str]) -> None:
    """Write the generated file that the source lacks (Makefile.generated_files of v1.20.2)."""
    tool = source / "_openapi-gen"
    package = "./vendor/k8s.io/kube-openapi/cmd/openapi-gen"
    run((go, "build", "-o", tool, package), cwd=source, env=environment)
    command = (
        *(tool, "--logtostderr"),
        *("-i", ",".join(_openapi_packages(source))),
        *("-p", "k8s.io/kubernetes/pkg/generated/openapi", "-O", "zz_generated.openapi"),
        *("-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt", "-r", "_violations"),
    )
    run(command, cwd=source, env=environment)


def _openapi_packages(source: Path) -> list[str]:
    folders = set()
    for top, name in (("pkg", "pkg"), ("cmd", "cmd"), ("staging/src/k8s.io", "vendor/k8s.io")):
        for file in (source / top).rglob("*.go"):
            if not file.name.endswith("_test.go") and b"+k8s:openapi-gen=" in file.read_bytes():
                folders.add(f"{name}/{file.parent.relative_to(source / top)}")
    others = ("vendor/k8s.io/code-generator/", "vendor/k8s.io/sample-apiserver/")
    return sorted(f"k8s.io/kubernetes/{each}" for each in folders if not each.startswith(others))


def _debian(cache: Path, home: Path) -> Path:
    """Return a root file system with Debian's packages, as mmdebstrap leaves it."""
    cache.mkdir(parents=True, exist_ok=True)

    def make(new: Path) -> None:
        source = f"deb [signed-by={debian.KEYRING}] {debian.mirror()} {SUITE} main"
        options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
        command = (
            # What it mounts ends with it, even if it is killed.
            *("unshare", "--mount", "mmdebstrap", "--quiet", "--variant=minbase"),
            *(f"--include={','.join(PACKAGES)}", "--dpkgopt=force-unsafe-io", *options),
            *(SUITE, str(new), source),
        )
        run(command)

    names = hashlib.sha256(" ".join((*PACKAGES, *LEFT_OUT)).encode()).hexdigest()[:12]
    return debian.once(home / f"debian-{names}", make)


def _make_root(plain: Path, programs: Path, root: Path) -> None:
    root.rmdir()
    run(("cp", "--archive", "--link", plain, root))
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()  # every node has its own
    (root / "var/lib/docker").mkdir()
    for unit in MASKED:
        _link(root / "etc/systemd/system" / unit, "/dev/null")
    for unit in WANTED:
        wants = root / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(exist_ok=True)
        _link(wants / unit, f"/lib/systemd/system/{unit}")
    for path, text in FILES.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)  # it may be a second name of a file of the plain Debian
        file.write_text(text)
    (root / RUNC).chmod(0o755)
    for name in ("kubeadm", "kubelet"):
        shutil.copy2(programs / name, root / "usr/bin" / name)


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _make_docker(root: Path, programs: Path, new: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kbuild-") as scratch, _engine(new, scratch) as client:
        folder = Path(scratch)
        for name in COMPONENTS:
            archive = _archive(folder / name, {f"usr/local/bin/{name}": programs / name})
            _import(client, archive, f"k8s.gcr.io/{name}:{VERSION}")
        etcd = {path.lstrip("/"): root / path.lstrip("/") for path in _libraries(root)}
        for name in ("etcd", "etcdctl"):
            etcd[f"usr/local/bin/{name}"] = root / "usr/bin" / name
        _import(client, _archive(folder / "etcd", etcd), "k8s.gcr.io/etcd:3.4.13-0")
        (folder / "pause.c").write_text(PAUSE)
        run(("gcc", "-static", "-Os", "-s", "-o", folder / "pause", folder / "pause.c"))
        archive = _archive(folder / "image", {"pause": folder / "pause"})
        # No pod of the other two runs, but kubeadm looks for them, and pulls what it does not find.
        for name in ("pause:3.2", f"kube-proxy:{VERSION}", "coredns:1.7.0"):
            _import(client, archive, f"k8s.gcr.io/{name}", 'ENTRYPOINT ["/pause"]')


def _libraries(root: Path) -> list[str]:
    said = run(("chroot", root, "ldd", "/usr/bin/etcd", "/usr/bin/etcdctl"))
    words = {word for line in said.splitlines() for word in line.split()}
    return sorted(word for word in words if word.startswith("/") and not word.endswith(":"))


def _archive(path: Path, files: dict[str, Path]) -> Path:
    archive = path.with_name(f"{path.name}.tar")
    with tarfile.open(archive, "w", dereference=True) as tar:
        for name, file in files.items():
            tar.add(file, name)
    return archive


def _import(client: docker.DockerClient, archive: Path, name: str, *changes: str) -> None:
    repository, _, tag = name.rpartition(":")
    client.api.import_image_from_file(
        str(archive), repository=repository, tag=tag, changes=[f"ENV PATH={PATH}", *changes]
    )
    client.images.get(name)


@contextmanager
def _engine(data: Path, scratch: str) -> Iterator[docker.DockerClient]:
    """Run a Docker for a short time, away from the machine's network and its own Docker."""
    address = f"unix://{scratch}/socket"
    command = (
        *("unshare", "--mount", "--net", "dockerd", f"--data-root={data}", f"--host={address}"),
        *(f"--exec-root={scratch}/exec", f"--pidfile={scratch}/pid", "--storage-driver=overlay2"),
        *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
    )
    with (
        Path(scratch, "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            wait(lambda: _answers(address), DOCKER_SECONDS, "dockerd")
            client = docker.DockerClient(address, version="1.41", timeout=300)
            try:
                yield client
            finally:
                client.close()
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    if not Path(address.removeprefix("unix://")).exists():
        return False
    client = docker.DockerClient(address, version="1.41")
    try:
        return bool(client.ping())
    except (DockerException, requests.RequestException):
        return False
    finally:
        client.close()


def wait(ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something is so; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            msg = f"{what}: nothing after {seconds:.0f} s"
            raise TimeoutError(msg)
        time.sleep(0.1)


def run(
    command: Sequence[str | Path], cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    """Run a command and return what it prints; raises BuildError."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        words = " ".join(map(str, command))[:300]
        said = done.stdout[-1000:] + done.stderr[-4000:]
        msg = f"`{words}` failed with exit code {done.returncode}:\n{said}"
        raise BuildError(msg)
    return done.stdout
