import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from kbuild.base.files import sha256
from kbuild.cli.app import app
from kbuild.release.export import TOOLS, snippet
from kbuild.release.provenance import Statement, read_provenance
from tests.support.failures import kind_of
from tests.support.http import served
from tests.support.releases import make_release

MIRROR = "https://mirror.example.invalid/kubeadm"
ANSIBLE = Path(sys.executable).with_name("ansible")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A release of each layout, served: flat/ is a release, v1.20.2/ of the layout tree."""
    folder = tmp_path_factory.mktemp("mirror")
    make_release(folder / "work", folder / "site/flat")
    make_release(folder / "work2", folder / "site/v1.20.2", layout="tree")
    with served(folder / "site") as address:
        yield folder / "site", address


def statement(mirror: tuple[Path, str], layout: str) -> Statement:
    name = "flat" if layout == "flat" else "v1.20.2"
    return read_provenance(mirror[0] / name / "provenance.json")


def base(mirror: tuple[Path, str], layout: str) -> str:
    return f"{mirror[1]}/flat" if layout == "flat" else mirror[1]


def run(script: str, folder: Path, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh"],
        input=script,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": path},
    )


@pytest.mark.parametrize(
    ("layout", "address"),
    [
        ("flat", f"{MIRROR}/kubeadm-linux-{{{{ image_arch }}}}"),
        ("tree", f"{MIRROR}/v1.20.2/bin/linux/{{{{ image_arch }}}}/kubeadm"),
    ],
)
def test_kubespray_gets_address_and_checksums(
    mirror: tuple[Path, str], layout: str, address: str
) -> None:
    told = yaml.safe_load(snippet("kubespray", statement(mirror, layout), MIRROR))
    assert told["kubeadm_download_url"] == address
    subjects = statement(mirror, layout).subjects
    sums = [d["sha256"] for name, d in subjects.items() if "linux" in name]
    assert len(sums) == 2
    assert all(value in told["kubeadm_binary_checksum"] for value in sums)
    assert set(told) == {"kubeadm_download_url", "kubeadm_binary_checksum"}


@pytest.mark.parametrize("version", ["v1.31.0-rc.1", "v1.31.0", "v1.40.2"])
def test_kubespray_gets_the_two_lifetimes_from_1_31_on(
    mirror: tuple[Path, str], version: str
) -> None:
    found = statement(mirror, "flat")
    found.asked["version"] = version
    told = yaml.safe_load(snippet("kubespray", found, MIRROR))
    assert told["kube_cert_validity_period"] == "87600h"
    assert told["kube_ca_cert_validity_period"] == "876000h"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"stored_defaults": "override"}, "defaults, which this kubeadm overrides"),
        ({"stored_defaults": "keep"}, "which beats what is compiled in"),
        ({}, "which beats what is compiled in"),
    ],
)
def test_kubespray_is_told_what_stored_lifetimes_do(
    mirror: tuple[Path, str], asked: dict[str, str], told: str
) -> None:
    found = statement(mirror, "flat")
    del found.asked["stored_defaults"]
    found.asked.update(asked, version="v1.33.3")
    text = snippet("kubespray", found, MIRROR)
    assert told in text
    assert yaml.safe_load(text)["kube_cert_validity_period"] == "87600h"


@pytest.mark.e2e  # needs ansible-core
@pytest.mark.parametrize(
    ("kube_version", "checksum"),
    # As roles/download/tasks/download_file.yml up to v2.27, and since v2.28.
    [
        ("v1.20.2", "{{ 'sha256:' + kubeadm_binary_checksum }}"),
        ("1.20.2", "{{ kubeadm_binary_checksum }}"),
    ],
)
def test_ansible_downloads_what_kubespray_is_told(
    mirror: tuple[Path, str], kube_version: str, checksum: str, tmp_path: Path
) -> None:
    text = snippet("kubespray", statement(mirror, "flat"), base(mirror, "flat"))
    (tmp_path / "all.yml").write_text(text)

    def download(version: str, sum_of: str) -> tuple[int, str]:
        (tmp_path / "kubeadm").unlink(missing_ok=True)
        done = subprocess.run(
            [
                *(ANSIBLE, "localhost", "-m", "get_url", "-e", f"@{tmp_path}/all.yml"),
                *("-e", json.dumps({"kube_version": version, "image_arch": "arm64"})),
                *("-e", "ansible_python_interpreter=auto_silent"),
                "-a",
                f"url={{{{ kubeadm_download_url }}}} checksum={sum_of} dest={tmp_path}/kubeadm",
            ],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
        )
        return done.returncode, done.stdout + done.stderr

    code, said = download(kube_version, checksum)
    assert code == 0, said
    assert sha256(tmp_path / "kubeadm") == sha256(mirror[0] / "flat/kubeadm-linux-arm64")
    code, said = download(kube_version.replace("20.2", "20.3"), checksum)
    assert code != 0, said
    assert not (tmp_path / "kubeadm").exists()


def test_an_address_that_ends_with_the_tag_has_it_once(mirror: tuple[Path, str]) -> None:
    for end in ("", "/", "/v1.20.2", "/v1.20.2/"):
        told = yaml.safe_load(snippet("kubespray", statement(mirror, "tree"), f"{MIRROR}{end}"))
        expected = f"{MIRROR}/v1.20.2/bin/linux/{{{{ image_arch }}}}/kubeadm"
        assert told["kubeadm_download_url"] == expected


@pytest.mark.e2e
def test_kubekey_v3_is_refused(mirror: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "kk").write_text("#!/bin/sh\necho 'kk version: &version.Info{v3.1.10}'\n")
    (tmp_path / "kk").chmod(0o755)
    done = run(snippet("kubekey", statement(mirror, "flat"), base(mirror, "flat")), tmp_path)
    assert done.returncode == 1
    assert "KubeKey v3" in done.stderr
    assert not list(tmp_path.rglob("kubeadm"))


@pytest.mark.e2e  # needs curl
@pytest.mark.parametrize("layout", ["flat", "tree"])
def test_kubekeys_snippet_puts_the_binaries_in_their_place(
    mirror: tuple[Path, str], layout: str, tmp_path: Path
) -> None:
    text = snippet("kubekey", statement(mirror, layout), base(mirror, layout))
    done = run(text, tmp_path)
    assert done.returncode == 0, done.stderr
    for arch in ("amd64", "arm64"):
        path = tmp_path / f"kubekey/kube/v1.20.2/{arch}/kubeadm"
        assert sha256(path) == sha256(mirror[0] / f"flat/kubeadm-linux-{arch}")
        assert path.stat().st_mode & 0o111
    assert "kubernetes_ca: { date: 876000h }" in text


@pytest.mark.e2e  # needs curl
def test_kubekey_is_never_left_with_another_binary(
    mirror: tuple[Path, str], tmp_path: Path
) -> None:
    found = statement(mirror, "flat")
    found.subjects["kubeadm-linux-amd64"]["sha256"] = "0" * 64  # type: ignore[index]
    done = run(snippet("kubekey", found, base(mirror, "flat")), tmp_path)
    assert done.returncode != 0
    assert not list(tmp_path.rglob("kubeadm"))


@pytest.mark.e2e  # needs curl
def test_sealos_builds_an_image_of_each_architecture(
    mirror: tuple[Path, str], tmp_path: Path
) -> None:
    (tmp_path / "sealos").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/called\n')
    (tmp_path / "sealos").chmod(0o755)
    text = snippet("sealos", statement(mirror, "tree"), base(mirror, "tree"))
    done = run(text, tmp_path, f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "called").read_text().splitlines()
    assert [call.split()[2] for call in calls] == ["linux/amd64", "linux/arm64"]
    kubefile = (tmp_path / "Kubefile-arm64").read_text()
    assert kubefile == "FROM labring/kubernetes:v1.20.2\nCOPY bin/arm64/kubeadm bin/kubeadm\n"
    assert (tmp_path / "bin/arm64/kubeadm").is_file()


@pytest.mark.e2e  # needs curl
def test_cloud_init_installs_what_fits_the_machine(
    mirror: tuple[Path, str], tmp_path: Path
) -> None:
    text = snippet("cloud-init", statement(mirror, "flat"), base(mirror, "flat"))
    assert text.startswith("#cloud-config\n")
    told = yaml.safe_load(text)
    [file] = told["write_files"]
    assert told["runcmd"] == [[file["path"]]]
    script = file["content"].replace("/usr/bin/kubeadm", f"{tmp_path}/kubeadm")
    for machine, arch in (("x86_64", "amd64"), ("aarch64", "arm64")):
        (tmp_path / "uname").write_text(f"#!/bin/sh\necho {machine}\n")
        (tmp_path / "uname").chmod(0o755)
        done = run(script, tmp_path, f"{tmp_path}:/usr/bin:/bin")
        assert done.returncode == 0, done.stderr
        assert sha256(tmp_path / "kubeadm") == sha256(mirror[0] / f"flat/kubeadm-linux-{arch}")
    (tmp_path / "uname").write_text("#!/bin/sh\necho riscv64\n")
    assert run(script, tmp_path, f"{tmp_path}:/usr/bin:/bin").returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_the_command_prints_the_snippet_and_nothing_else(
    mirror: tuple[Path, str], tool: str
) -> None:
    words = ["export", tool, str(mirror[0] / "flat"), "--base-url", MIRROR]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.stdout == snippet(tool, statement(mirror, "flat"), MIRROR)
    done = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(done.stdout)["tool"] == tool


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["kubespray", "-h"]])
def test_help_needs_nothing_else(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["export", *words])
    assert (done.exit_code, "--base-url" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (["export", "ansible", ".", "--base-url", MIRROR], 2, "bad-setting"),
        (["export", "ansible"], 2, "bad-setting"),
        (["export", ""], 2, "bad-setting"),
        (["export", "kubespray"], 2, "usage"),
        (["export", "kubespray", ".", "--base-url", "ftp://x"], 2, "bad-setting"),
        (["export", "kubespray", ".", "--base-url", "https://x/$(reboot)"], 2, "bad-setting"),
        (["export", "kubespray", ".", "--base-url", "https://x/'"], 2, "bad-setting"),
        (["export", "kubespray", ".", "--base-url", "https:////x"], 2, "bad-setting"),
        # The terminal shows no credential, so the snippet would be silently another one.
        (["export", "kubespray", ".", "--base-url", "https://u:p@x/y"], 2, "bad-setting"),
        (["export", "kubespray", ".", "--base-url", "https://token@x/y"], 2, "bad-setting"),
        (["export", "kubespray", ".", "--base-url", "https://x:8443/@v/y"], 2, "bad-setting"),
        (["export", "kubespray", ".", "--base-url", MIRROR], 90, "not-a-release"),
        (["export", "kubespray", "."], 2, "missing-setting"),
    ],
    ids=lambda words: "-".join(words[1:]) if isinstance(words, list) else None,
)
def test_what_cannot_be_exported_is_told(
    words: list[str], code: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, kind_of(done.stderr)) == (code, kind)


def test_a_damaged_release_is_not_exported(tmp_path: Path) -> None:
    folder = make_release(tmp_path / "work", tmp_path / "out")
    (folder / "kubeadm-linux-amd64").write_bytes(b"other")
    words = ["export", "kubespray", str(folder), "--base-url", MIRROR]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, kind_of(done.stderr)) == (90, "release-broken")
    assert done.stdout == ""
