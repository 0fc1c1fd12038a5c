"""``kbuild pki components`` on the command line."""

import json
from pathlib import Path

import pytest

from tests.support.command import Done, run_here

TOML = """\
[nodes.m1]
addresses = ["192.0.2.11"]
roles = ["control-plane", "etcd"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pki.toml").write_text(TOML)
    return tmp_path


def components(folder: Path, *words: str) -> Done:
    return run_here("pki", "components", "--dir", folder, *words, "-q", cwd=folder)


def test_the_files_are_written_and_printed(folder: Path) -> None:
    done = components(folder, "--version", "v1.20.2", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    output = folder / "dist/components-v1.20.2"
    assert document["folder"] == "dist/components-v1.20.2"
    for file in document["files"]:
        assert (output / file["name"]).read_text() == file["content"]
    [proxy] = [each for each in document["components"] if each["name"] == "kube-proxy"]
    path = "/etc/kubernetes/pki/kube-proxy.kubeconfig"
    assert [(flag["name"], flag["value"]) for flag in proxy["flags"]] == [("kubeconfig", path)]
    assert proxy["files"] == [
        {"source": str(folder / "pki/kube-proxy.kubeconfig"), "path": path},
    ]


def test_only_what_it_wrote_is_replaced(folder: Path) -> None:
    words = ("--version", "v1.20.2", "--output", str(folder / "out"))
    assert components(folder, *words).returncode == 0
    assert "output-exists" in components(folder, *words, "--json").stderr
    assert components(folder, *words, "--force", "--signing-years", "3").returncode == 0
    manager = folder / "out/kube-controller-manager.service.d/20-kbuild-pki.conf"
    assert "--cluster-signing-duration=26280h" in manager.read_text()
    manager.write_text("ours")
    assert components(folder, *words, "--force").returncode == 80
    assert manager.read_text() == "ours"


def test_what_a_person_sees_names_the_components_and_the_next_step(folder: Path) -> None:
    done = components(folder, "--version", "v1.20.2")
    assert "kube-apiserver" in done.stdout
    assert "Begin with dist/components-v1.20.2/README.md." in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "version"),
        (("--version", "1.20"), "v1.23.0"),
        (("--version", "v1.20.2", "--use", "apiserver"), "USE=NAME"),
        (("--version", "v1.20.2", "--use", "apiservr=kubernetes"), "apiserver"),
        (("--version", "v1.20.2", "--on-node", "pki"), "absolute"),
        (("--version", "v1.20.2", "--signing-years", "0"), "1 to 292"),
    ],
)
def test_a_mistake_is_explained(folder: Path, words: tuple[str, ...], said: str) -> None:
    done = components(folder, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (folder / "dist").exists()
