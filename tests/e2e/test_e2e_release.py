"""The set beside the binaries, from the real v1.20.2, used as those would who publish it."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from kbuild.base import sandbox
from kbuild.base.containers import cache_volume
from kbuild.base.files import sha256
from kbuild.kubeadm.compile.recipe import GOROOT, KUBE_ROOT
from kbuild.kubeadm.prove.gobinary import read_build_info, read_functions
from kbuild.release.recorded import artifacts
from kbuild.release.writer import list_files
from tests.e2e.command import COMMIT, GO_VERSION, KBUILD, NEXT_VERSION, VERSION, Kbuild
from tests.e2e.conftest import GitServer, Options
from tests.support.failures import kind_of
from tests.support.http import served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
HOLDERS = [
    "k8s.io/kubernetes/cmd/kubeadm/app/util/pkiutil.NewSignedCert",
    "k8s.io/kubernetes/vendor/k8s.io/client-go/util/cert.NewSelfSignedCACert",
]
LARGEST = 1 << 28  # bytes of an output of the compiler
DEB, RPM = "kubeadm-kbuild_1.20.2_amd64.deb", "kubeadm-kbuild-1.20.2-1.x86_64.rpm"

ARM_DEB, ARM_RPM = "kubeadm-kbuild_1.20.2_arm64.deb", "kubeadm-kbuild-1.20.2-1.aarch64.rpm"


def run(
    *command: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def shared(home: Path, warm_cache: Path) -> Kbuild:
    return Kbuild(home, warm_cache)


@pytest.fixture(scope="module")
def made(shared: Kbuild, git_server: GitServer, in_docker: Options) -> Path:
    """A release of two architectures with all that can be in it, from the git server, in docker."""
    done = shared.kubeadm(
        *("--source", git_server.address, *in_docker, "--arch", "amd64,arm64"),
        *("--package", "deb,rpm", "--against-stock"),
        *("--output", shared.home / "made"),
    )
    assert done.code == 0, done.stderr
    assert all(f"  {holder}" in done.stdout for holder in HOLDERS)
    return shared.home / "made"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def test_every_sum_is_accepted(made: Path) -> None:
    for program, sums in (("sha256sum", "SHA256SUMS"), ("sha512sum", "SHA512SUMS")):
        told = run(program, "--check", "--strict", sums, cwd=made)
        assert told.count(": OK\n") == 12
    bare = (made / "kubeadm-linux-arm64.sha256").read_text()
    assert bare == sha256(made / "kubeadm-linux-arm64")
    assert len([name for name in list_files(made) if name.endswith(".sha256")]) == 12


def test_check_accepts_it_and_finds_one_bit(shared: Kbuild, copy: Path) -> None:
    done = shared("check", copy)
    assert done.code == 0, done.stderr
    binary = bytearray((copy / "kubeadm-linux-amd64").read_bytes())
    binary[len(binary) // 2] ^= 4
    (copy / "kubeadm-linux-amd64").write_bytes(binary)
    done = shared("check", copy, "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.code, error["kind"]) == (90, "release-broken")
    assert "different: kubeadm-linux-amd64:" in error["details"]


def test_only_what_holds_a_lifetime_differs_from_stock(made: Path) -> None:
    for proof in json.loads((made / "proof.json").read_text())["binaries"]:
        assert proof["against_stock"]["functions"] == HOLDERS
        assert proof["against_stock"]["moved"] is False


def test_spdx_accepts_the_sboms_and_they_name_what_is_vendored(
    made: Path, kubernetes_archive: Path
) -> None:
    member = "kubernetes-*/vendor/modules.txt"
    text = run("tar", "--extract", "--to-stdout", "--wildcards", "-f", kubernetes_archive, member)
    vendored = {tuple(line.split()[-2:]) for line in text.splitlines() if line.startswith("# ")}
    for arch in ("amd64", "arm64"):
        path = made / f"kubeadm-{arch}.spdx.json"
        run(KBUILD.with_name("pyspdxtools"), "--infile", path)
        packages = json.loads(path.read_text())["packages"]
        names = {package["name"] for package in packages}
        assert {"kubeadm", "stdlib", "github.com/spf13/cobra", "k8s.io/client-go"} <= names
        assert len(names) > 50
        licenses = [package["licenseDeclared"] for package in packages]
        assert licenses.count("NOASSERTION") < 10
        client_go = next(package for package in packages if package["name"] == "k8s.io/client-go")
        [reference] = client_go["externalRefs"]
        assert reference["referenceLocator"] == "pkg:golang/k8s.io/client-go@v0.20.2"
        for package in packages:
            if package["name"] not in ("kubeadm", "stdlib") and "comment" not in package:
                assert (package["name"], package["versionInfo"]) in vendored


def test_gos_own_reading_of_a_binary_is_ours(goroot: Path, made: Path, tmp_path: Path) -> None:
    go = goroot / "bin/go"
    environment = {
        "GOROOT": str(goroot),
        "GOPATH": str(tmp_path / "go"),
        "GOCACHE": str(tmp_path / "cache"),
        "GO111MODULE": "off",
        "CGO_ENABLED": "0",
    }
    for binary in (go, made / "kubeadm-linux-amd64", made / "kubeadm-linux-arm64"):
        told = run(go, "version", binary, environment=environment)
        assert told.strip().endswith(f"go{read_build_info(binary).go_version}")
    (tmp_path / "main.go").write_text('package main\nfunc main() { println("x") }\n')
    program = tmp_path / "program"
    run(go, "build", "-o", program, tmp_path / "main.go", cwd=tmp_path, environment=environment)
    words = [
        line.split(maxsplit=2)
        for line in run(go, "tool", "nm", program, environment=environment).splitlines()
    ]
    symbols = {each[2]: int(each[0], 16) for each in words if each[1:2] in (["T"], ["t"])}
    ours = {function.name: function.address for function in read_functions(program)}
    assert len(ours) > 1000
    assert ours.items() <= symbols.items()


def test_the_deb_takes_the_place_of_the_stock_one_and_goes(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for folder in ("info", "updates", "triggers"):
        (root / "var/lib/dpkg" / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    stock = tmp_path / "stock"
    (stock / "DEBIAN").mkdir(parents=True)
    (stock / "DEBIAN/control").write_text(
        "Package: kubeadm\nVersion: 1.20.2-00\nArchitecture: amd64\nMaintainer: x\nDescription: x\n"
    )
    (stock / "usr/bin").mkdir(parents=True)
    (stock / "usr/bin/kubeadm").write_text("stock")
    run("dpkg-deb", "--build", stock, tmp_path / "stock.deb")
    dpkg = ("dpkg", f"--root={root}", "--force-not-root", "--force-bad-path")
    run(*dpkg, "--install", tmp_path / "stock.deb")
    assert (root / "usr/bin/kubeadm").read_text() == "stock"

    run(*dpkg, "--install", made / DEB)
    assert sha256(root / "usr/bin/kubeadm") == sha256(made / "kubeadm-linux-amd64")
    assert run(root / "usr/bin/kubeadm", "version", "--output", "short").strip() == VERSION
    drop_in = root / "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"
    assert "/var/lib/kubelet/kubeadm-flags.env" in drop_in.read_text()
    status = (root / "var/lib/dpkg/status").read_text()
    assert "Provides: kubeadm (= 1.20.2)\n" in status
    again = subprocess.run(
        [*dpkg, "--install", tmp_path / "stock.deb"], capture_output=True, text=True, check=False
    )
    assert again.returncode != 0
    assert "conflicting packages" in again.stderr

    run(*dpkg, "--purge", "kubeadm-kbuild")
    assert not (root / "usr/bin/kubeadm").exists()
    assert not drop_in.exists()


def test_the_rpm_is_installed_and_goes(made: Path, tmp_path: Path) -> None:
    rpm = ("rpm", "--root", tmp_path / "root")
    (tmp_path / "root").mkdir()
    run(*rpm, "--initdb")
    assert "kubeadm = 1.20.2\n" in run("rpm", "-qp", "--provides", made / RPM)
    assert run("rpm", "-qp", "--conflicts", made / RPM) == "kubeadm\n"
    run(*rpm, "--install", made / RPM)
    binary = tmp_path / "root/usr/bin/kubeadm"
    assert sha256(binary) == sha256(made / "kubeadm-linux-amd64")
    assert binary.stat().st_mode & 0o777 == 0o755
    run(*rpm, "--erase", "kubeadm-kbuild")
    assert not binary.exists()


@pytest.fixture(scope="module")
def key(home: Path) -> Path:
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", home / "ec.pem")
    convert = ("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", home / "ec.pem")
    run(*convert, "-out", home / "key.pem")
    run("openssl", "pkey", "-in", home / "key.pem", "-pubout", "-out", home / "key.pub")
    return home / "key.pem"


def test_openssl_verifies_what_kbuild_signed(
    shared: Kbuild, copy: Path, key: Path, tmp_path: Path
) -> None:
    assert shared("sign", copy, "--key", key).code == 0
    sums = json.loads((copy / "SHA256SUMS.sigstore.json").read_text())
    statement = json.loads((copy / "provenance.sigstore.json").read_text())["dsseEnvelope"]
    payload = base64.b64decode(statement["payload"])
    kind = statement["payloadType"]
    pae = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    assert payload == (copy / "provenance.json").read_bytes()
    for message, signature in (
        ((copy / "SHA256SUMS").read_bytes(), sums["messageSignature"]["signature"]),
        (pae, statement["signatures"][0]["sig"]),
    ):
        (tmp_path / "message").write_bytes(message)
        (tmp_path / "signature").write_bytes(base64.b64decode(signature))
        verify = ("openssl", "dgst", "-sha256", "-verify", copy / "cosign.pub", "-signature")
        told = run(*verify, tmp_path / "signature", tmp_path / "message")
        assert told == "Verified OK\n"


def test_a_signed_release_is_checked_by_its_key(shared: Kbuild, copy: Path, key: Path) -> None:
    public = key.with_name("key.pub")
    unsigned = shared("check", copy, "--key", public)
    assert (unsigned.code, kind_of(unsigned.stderr)) == (90, "release-broken")
    assert shared("sign", copy, "--key", key).code == 0
    done = shared("check", copy, "--key", public, "--json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["signer"]["trusted"] is True
    (copy / "proof.json").write_text("{}")
    damaged = shared("sign", copy, "--key", key)
    assert (damaged.code, kind_of(damaged.stderr)) == (90, "release-broken")


def test_without_an_identity_keyless_is_refused(shared: Kbuild, copy: Path) -> None:
    done = shared("sign", copy, "--keyless")
    assert (done.code, kind_of(done.stderr)) == (90, "keyless-failed")
    assert "Traceback" not in done.stderr
    assert not (copy / "cosign.pub").exists()


@pytest.fixture
def poisoned(made: Path, engine: DockerClient, golang_image: str) -> Iterator[dict[Path, bytes]]:
    """Let the docker builder's Go build cache lead to nothing but zeros; give its index.

    Each entry names an output that has the right size and the sha256 that is its name.
    """
    assert made.is_dir()  # this has filled the cache
    volume = engine.volumes.get(cache_volume(golang_image))
    gocache = Path(volume.attrs["Mountpoint"]) / "go"
    kept = gocache.with_name("kept")
    subprocess.run(("cp", "--archive", gocache, kept), check=True)
    planted = {}
    for entry in gocache.rglob("*-a"):
        content = entry.read_bytes()
        fields = content.split()
        # Other tests have flipped bits here. Go ignores such an entry.
        if len(fields) != 5 or not fields[3].isdigit() or int(fields[3]) > LARGEST:
            continue
        zeros = bytes(int(fields[3]))
        digest = hashlib.sha256(zeros).hexdigest()
        (entry.parents[1] / digest[:2] / f"{digest}-d").write_bytes(zeros)
        planted[entry] = content.replace(fields[2], digest.encode())
        entry.write_bytes(planted[entry])
    yield planted
    shutil.rmtree(gocache)
    kept.rename(gocache)


def test_a_rebuild_from_the_provenance_gives_the_same_bytes_and_uses_no_build_cache(
    made: Path,
    poisoned: dict[Path, bytes],
    git_server: GitServer,
    in_docker: Options,
    tmp_path: Path,
) -> None:
    # Of one architecture and without stock, because a rebuild compiles everything again.
    document = json.loads((made / "provenance.json").read_text())
    definition = document["predicate"]["buildDefinition"]
    definition["externalParameters"] |= {"arches": ["arm64"], "against_stock": False}
    keep = artifacts(definition["externalParameters"])
    document["subject"] = [each for each in document["subject"] if each["name"] in keep]
    (tmp_path / "provenance.json").write_text(json.dumps(document))
    assert len(poisoned) > 100
    kbuild = Kbuild(tmp_path, tmp_path / "cache")
    refused = kbuild("rebuild", tmp_path)
    assert (refused.code, kind_of(refused.stderr)) == (90, "address-not-allowed")
    assert "--source" in refused.stderr
    assert "--image" in refused.stderr
    done = kbuild("rebuild", tmp_path, "--source", git_server.address, *in_docker, "--json")
    assert done.code == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    assert {ARM_DEB, ARM_RPM, "kubeadm-linux-arm64", "kubeadm.patch"} <= set(files)
    assert files["kubeadm-linux-arm64"] == sha256(made / "kubeadm-linux-arm64")
    # A build that had used this cache would have removed it, and begun again.
    assert {entry: entry.read_bytes() for entry in poisoned} == poisoned


@pytest.fixture(scope="module")
def upstreams_own(kubernetes_archive: Path, goroot: Path, home: Path) -> Path:
    """A kubeadm that upstream's own script has built, where its release builds lie."""
    tree = home / "upstream"
    tree.mkdir()
    run("tar", "-xzf", kubernetes_archive, "--strip-components=1", "-C", tree)
    (tree / "version").write_text(
        f"KUBE_GIT_COMMIT='{COMMIT}'\nKUBE_GIT_TREE_STATE='clean'\n"
        f"KUBE_GIT_VERSION='{VERSION}'\nKUBE_GIT_MAJOR='1'\nKUBE_GIT_MINOR='20'\n"
    )
    # Not in kbuild's own sandbox: the script runs rsync, which needs a socketpair.
    command: list[str | Path] = ["bwrap", "--unshare-all", "--die-with-parent"]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for bind in sandbox.system_binds():
        command += ["--ro-bind", bind.source, str(bind.target)]
    command += ["--ro-bind", goroot, str(GOROOT), "--bind", tree, str(KUBE_ROOT)]
    command += ["--chdir", str(KUBE_ROOT), "hack/make-rules/build.sh", "cmd/kubeadm"]
    environment = {
        "PATH": f"{GOROOT}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp",
        "GOFLAGS": "",
        "KUBE_GIT_VERSION_FILE": str(KUBE_ROOT / "version"),
        "KUBE_OUTPUT_SUBPATH": "_output/dockerized",
        "SOURCE_DATE_EPOCH": "1610544359",
    }
    subprocess.run(command, env=environment, check=True)
    built = tree / "_output/dockerized/bin/linux/amd64/kubeadm"
    shutil.copyfile(built, home / "upstreams-own")
    shutil.rmtree(tree)
    return home / "upstreams-own"


def test_stock_is_byte_for_byte_what_upstreams_own_script_builds(
    shared: Kbuild,
    kubernetes_archive: Path,
    locally: Options,
    in_docker: Options,
    upstreams_own: Path,
    tmp_path: Path,
) -> None:
    site = tmp_path / "site"
    place = site / VERSION / "bin/linux/amd64"
    place.mkdir(parents=True)
    stock = (
        *("kubeadm", "--version", VERSION, "--stock", "--go-version", GO_VERSION),
        *("--source", kubernetes_archive, "--layout", "tree"),
    )
    with served(site) as address:
        to_site = (*stock, "--release-site", address)
        publish(upstreams_own, place)
        done = shared(*to_site, *in_docker, "--output", tmp_path / "ours", "--json")
        assert done.code == 0, done.stderr
        [proof] = json.loads(done.stdout)["binaries"]
        assert proof["sha256"] == sha256(upstreams_own)
        assert proof["published"]["url"] == f"{address}/{VERSION}/bin/linux/amd64/kubeadm"
        assert {c["years"] for c in proof["certificates"]} == {1, 10}

        # What --layout tree made is such a site itself.
        with served(tmp_path / "ours") as mirror:
            done = shared(*stock, "--release-site", mirror, *locally, "--output", tmp_path / "next")
            assert done.code == 0, done.stderr
        (place / "kubeadm.sha256").write_text("0" * 64)
        done = shared(*to_site, *locally, "--output", tmp_path / "last")
        assert (done.code, kind_of(done.stderr)) == (70, "publisher-failed")
    assert shared("check", tmp_path / "ours").code == 0


def test_a_publishers_that_is_another_is_told_with_what_differs(
    shared: Kbuild, made: Path, kubernetes_archive: Path, locally: Options, tmp_path: Path
) -> None:
    place = tmp_path / "site" / VERSION / "bin/linux/amd64"
    place.mkdir(parents=True)
    publish(made / "kubeadm-linux-amd64", place)  # it is patched
    with served(tmp_path / "site") as address:
        done = shared(
            *("kubeadm", "--version", VERSION, "--stock", "--go-version", GO_VERSION),
            *("--source", kubernetes_archive, *locally),
            *("--release-site", address, "--output", tmp_path / "ours"),
        )
    assert (done.code, kind_of(done.stderr)) == (70, "not-as-published")
    assert not (tmp_path / "ours").exists()
    assert "gitTreeState: clean here, dirty there" in done.stderr
    assert all(holder in done.stderr for holder in HOLDERS)


def publish(binary: Path, place: Path) -> None:
    shutil.copyfile(binary, place / "kubeadm")
    (place / "kubeadm.sha256").write_text(sha256(binary))


def test_make_release_does_it_all_in_a_plain_shell(
    shared: Kbuild, kubernetes_archive: Path, golang_image: str, key: Path, tmp_path: Path
) -> None:
    told = run(
        *("make", "release", f"VERSION={VERSION}", "ARCHES=amd64 arm64", f"KEY={key}"),
        f"OUTPUT={tmp_path / 'out'}",
        cwd=ROOT,
        environment={
            "KBUILD_SOURCE": str(kubernetes_archive),
            "KBUILD_BUILDER": "docker",
            "KBUILD_IMAGE": golang_image,
            "KBUILD_GO_VERSION": GO_VERSION,
            "KBUILD_CACHE_DIR": str(shared.cache),
        },
    )
    assert "files, all consistent" in told
    names = list_files(tmp_path / "out")
    assert {"kubeadm-linux-amd64", "kubeadm-linux-arm64", "cosign.pub"} <= set(names)


def test_make_release_asks_which(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "release", f"OUTPUT={tmp_path / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "VERSION=" in done.stderr


def test_the_plan_has_each_tag_without_a_release(
    shared: Kbuild, git_server: GitServer, tmp_path: Path
) -> None:
    done = shared("versions", "--source", git_server.address, "--since", "1.20", "--json")
    (tmp_path / "released").write_text(f"{VERSION}\n")
    plan = subprocess.run(
        [ROOT / ".ci/plan", tmp_path / "released"],
        input=done.stdout,
        capture_output=True,
        text=True,
        check=True,
    )
    assert plan.stdout == f'tags=["{NEXT_VERSION}"]\nbefore=\n'


def test_cloud_init_puts_the_real_one_in_its_place(
    shared: Kbuild, made: Path, tmp_path: Path
) -> None:
    with served(made) as address:
        done = shared("export", "cloud-init", made, "--base-url", address)
        assert done.code == 0, done.stderr
        lines = done.stdout.splitlines()
        begin = lines.index("      #!/bin/sh")
        end = lines.index("runcmd:")
        script = "\n".join(line.strip() for line in lines[begin:end])
        run("sh", "-c", script.replace("/usr/bin/kubeadm", f"{tmp_path}/kubeadm"))
    version = run(tmp_path / "kubeadm", "version", "--output", "short")
    assert version.strip() == VERSION
