import json
from pathlib import Path

import pytest

from tests.support.command import run_here
from tests.support.failures import outcome
from tests.support.terminal import on_terminal

YEARS = ("--ca-years", "100", "--leaf-years", "50")


def test_the_files_are_written_and_explained(tmp_path: Path) -> None:
    done = run_here("config", "--version", "v1.33.3", *YEARS, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("A new cluster needs kubeadm.yaml only, and no build of kubeadm")
    folder = tmp_path / "dist/config-v1.33.3"
    for path in folder.iterdir():
        assert path.name in done.stdout


@pytest.mark.slow
def test_names_are_folded_on_a_narrow_terminal(tmp_path: Path) -> None:
    words = ("config", "--version", "v1.33.3", *YEARS, "--output", tmp_path / "out")
    shown = on_terminal(*words, width=80)
    assert "…" not in shown
    assert ".service.d/20-certificates.conf" in shown


def test_the_document_has_every_file(tmp_path: Path) -> None:
    words = ("--for", "living", "--output", "out", "--json")
    done = run_here("config", "--version", "1.20.2", *YEARS, *words, cwd=tmp_path)
    document = json.loads(done.stdout)
    assert (document["version"], document["for"]) == ("v1.20.2", "living")
    assert document["needs_build"] is True
    assert document["notes"]
    for file in document["files"]:
        assert (tmp_path / "out" / file["name"]).read_text() == file["content"]
        assert file["about"]


def test_settings_come_from_files_and_the_environment_too(tmp_path: Path) -> None:
    (tmp_path / "kbuild.toml").write_text(
        'ca-years = 100\noutput = "release"\n[config]\nfor = "living"\nleaf-years = 50\n'
    )
    environment = {"KBUILD_CONFIG_VERSION": "v1.24.0", "KBUILD_CONFIG_OUTPUT": "out"}
    done = run_here("config", "--json", cwd=tmp_path, **environment)
    assert json.loads(done.stdout)["for"] == "living"
    assert (tmp_path / "out/README.md").exists()
    done = run_here("config", cwd=tmp_path, **environment, KBUILD_CONFIG_FOR="nobody")
    assert outcome(done) == (2, "bad-setting")
    assert "KBUILD_CONFIG_FOR" in done.stderr


def test_a_stored_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "stored.yaml").write_text(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
    )
    words = ("--for", "living", "--kubelet-config", "stored.yaml", "--output", "out")
    done = run_here("config", "--version", "v1.20.2", *YEARS, *words, cwd=tmp_path)
    assert done.returncode == 0
    assert "+serverTLSBootstrap: true" in (tmp_path / "out/kubelet-config.diff").read_text()
    assert (tmp_path / "out/kubeadm-config.lines.yaml").exists()


def test_a_second_run_needs_force(tmp_path: Path) -> None:
    words = ("config", "--version", "v1.20.2", *YEARS)
    codes = [outcome(run_here(*words, *more, cwd=tmp_path)) for more in ((), (), ("--force",))]
    assert codes == [(0, ""), (80, "output-exists"), (0, "")]


@pytest.mark.parametrize("output", [".", "..", "/"])
def test_the_current_directory_is_no_output_and_the_error_says_what_is(
    tmp_path: Path, output: str
) -> None:
    words = ("config", "--version", "v1.20.2", *YEARS, "--force", "--output", output)
    done = run_here(*words, cwd=tmp_path)
    assert outcome(done) == (80, "not-writable")
    assert "it is the current directory or contains it" in done.stderr
    assert "give a new directory, such as --output config" in done.stderr


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ((), "missing-setting"),
        (("--version", "v1.20.2", "--ca-years", "100"), "missing-setting"),
        (("--version", "v1.20.2", "--ca-years", "10", "--leaf-years", "11"), "leaf-outlives-ca"),
        (("--version", "v1.20.2", "--ca-years", "293", "--leaf-years", "1"), "bad-setting"),
        (("--version", "v1.20.2", "--ca-years", "0", "--leaf-years", "0"), "bad-setting"),
        (("--version", "v1.12.10", *YEARS), "unsupported-version"),
        (("--version", "1.20", *YEARS), "bad-setting"),
        (("--version", "1.20.1,1.20.2", *YEARS), "bad-setting"),
        (("--version", "new", *YEARS), "bad-version"),
        (("--version", "v1.20.2", *YEARS, "--for", "old"), "bad-setting"),
        (("--version", "v1.20.2", *YEARS, "--kubelet-config", "x"), "bad-setting"),
        (
            ("--version", "v1.20.2", *YEARS, "--for", "living", "--kubeadm-config", "x"),
            "bad-stored-configuration",
        ),
    ],
    ids=range(12),
)
def test_bad_input_is_told_and_nothing_is_written(
    tmp_path: Path, words: tuple[str, ...], kind: str
) -> None:
    done = run_here("config", *words, cwd=tmp_path)
    assert outcome(done) == (2, kind)
    assert not any(tmp_path.iterdir())


def test_the_help_tells_it_from_the_file_of_settings() -> None:
    lines = {line.split()[0]: line for line in run_here("--help").stdout.splitlines() if line}
    assert "Kubernetes configuration" in lines["config"]
    assert "kbuild.toml" in lines["config-file"]
    done = run_here("config", "--help").stdout
    assert "Settings file. Default: kbuild.toml" in " ".join(done.split())


@pytest.mark.parametrize("words", [(), ("kubeadm",), ("cache",), ("nodes", "renew")], ids=str)
def test_h_is_help(words: tuple[str, ...]) -> None:
    assert run_here(*words, "-h").stdout == run_here(*words, "--help").stdout != ""
