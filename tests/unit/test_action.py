"""The steps of action.yml, run by bash: what reaches kbuild, and what the caller gets."""

import re
import sys
from pathlib import Path

import pytest

from kbuild import settings
from tests.support.action import ACTION, ROOT, Run
from tests.support.repositories import make_repository

KBUILD = str(Path(sys.executable).with_name("kbuild"))
# Writes down what it is called with, and makes what a build makes.
STAND_IN = """\
#!/bin/sh
echo "$@" >>calls
case $1 in
kubeadm)
  env | grep ^KBUILD_ >>calls
  mkdir -p "$KBUILD_OUTPUT"
  touch "$KBUILD_OUTPUT/SHA256SUMS"
  ;;
sign)
  if [ "$3" = --key ]; then
    stat -c %a "$4" >>calls
    cat "$4" >>calls
    echo "$COSIGN_PASSWORD" >>calls
  fi
  ;;
esac
"""


def run(folder: Path, program: str | None = None, **inputs: str) -> Run:
    """Run all steps but the installation; ``program`` is the kbuild that would be installed."""
    if program is None:
        (folder / "stand-in").write_text(STAND_IN)
        (folder / "stand-in").chmod(0o755)
        program = str(folder / "stand-in")
    given = {name.replace("_", "-"): value for name, value in inputs.items()}
    environment = {"KBUILD_DRY_RUN": "true", "HOME": str(folder)} if program == KBUILD else {}
    return Run(folder, given, environment, {"install": {"kbuild": program}}).steps()


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_a_caller_gets_a_checked_release(tmp_path: Path) -> None:
    done = run(tmp_path, version="v1.31.2")
    assert done.failed == ""
    assert [call for call in calls(tmp_path) if not call.startswith("KBUILD_")] == [
        "kubeadm",
        "check dist/kubeadm",
    ]
    assert done.action_outputs == {
        "folder": "dist/kubeadm",
        "sums": "dist/kubeadm/SHA256SUMS",
        "kbuild": str(tmp_path / "stand-in"),
    }


def test_every_input_reaches_kbuild_as_it_stands(tmp_path: Path) -> None:
    payload = f"$(touch {tmp_path}/ran)`touch {tmp_path}/ran`\"; touch {tmp_path}/ran; '"
    special = {"signing", "prepare", "output", "key", "key-password"}
    inputs = {name.replace("-", "_"): payload for name in ACTION["inputs"] if name not in special}
    done = run(tmp_path, **inputs)
    assert done.failed == ""
    assert not (tmp_path / "ran").exists()
    told = [call for call in calls(tmp_path) if call.endswith(f"={payload}")]
    assert len(told) == len(inputs)
    for name in ("output", "signing", "key"):
        run(tmp_path, **{"version": "v1.31.2", "signing": "key", name: payload})
        assert not (tmp_path / "ran").exists()


def test_what_it_sets_is_known_to_kbuild() -> None:
    [build] = [s for s in ACTION["runs"]["steps"] if s.get("name") == "Build and prove"]
    for name in build["env"]:
        if name.startswith("KBUILD_"):
            assert name.removeprefix("KBUILD_").lower().replace("_", "-") in settings.names()


def test_every_input_and_output_is_used_and_told() -> None:
    text = (ROOT / "action.yml").read_text()
    for name, one in ACTION["inputs"].items():
        assert f"inputs.{name}" in text
        assert one["description"]
        assert one.get("required") or "default" in one
    page = (ROOT / "docs/ci.md").read_text()
    for name in (*ACTION["inputs"], *ACTION["outputs"]):
        assert re.search(rf"^\| .*`{name}`", page, re.MULTILINE), name


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "v1.31.2,v1.31.3"},
        {"output": "a\nkbuild=b"},
        {"output": "-delete"},  # an expression of find
        {"output": "(x"},
        {"output": ")"},
        {"output": "!"},
        {"output": ","},
        {"signing": "gpg"},
        {"signing": "key\nnone"},
        {"signing": "key", "key": ""},
    ],
)
def test_a_wrong_input_is_refused_before_anything_is_installed(
    tmp_path: Path, wrong: dict[str, str]
) -> None:
    done = run(tmp_path, **{"version": "v1.31.2", **wrong})
    assert done.failed == "Check the inputs"
    assert not (tmp_path / "calls").exists()
    assert not (done.temporary / "sudo").exists()


def test_a_key_is_in_a_private_file_and_gone_afterwards(tmp_path: Path) -> None:
    done = run(tmp_path, version="v1.31.2", signing="key", key="the key", key_password="secret")
    assert done.failed == ""
    told = calls(tmp_path)
    assert told[-4:-1] == ["600", "the key", "secret"]
    assert list(done.temporary.glob("key-*")) == []
    assert "secret" not in done.printed
    assert "the key" not in done.printed


@pytest.mark.parametrize("output", ["./-delete", "a (b)", "./!/x"])
def test_an_output_keeps_its_name(tmp_path: Path, output: str) -> None:
    done = run(tmp_path, version="v1.31.2", output=output)
    assert done.failed == ""
    assert done.action_outputs["sums"] == f"{output}/SHA256SUMS"


def test_an_absolute_output_keeps_its_name(tmp_path: Path) -> None:
    done = run(tmp_path, version="v1.31.2", output=str(tmp_path / "x"))
    assert done.action_outputs["folder"] == str(tmp_path / "x")


def test_keyless_needs_no_key(tmp_path: Path) -> None:
    run(tmp_path, version="v1.31.2", signing="keyless")
    assert calls(tmp_path)[-2:] == ["sign dist/kubeadm --keyless", "check dist/kubeadm"]


def test_another_release_in_the_output_is_neither_signed_nor_named(tmp_path: Path) -> None:
    (tmp_path / "dist/kubeadm/v1.30.0").mkdir(parents=True)
    (tmp_path / "dist/kubeadm/v1.30.0/SHA256SUMS").touch()
    done = run(tmp_path, version="v1.31.2", layout="tree", signing="keyless")
    assert done.failed == "Build and prove"
    assert "holds other releases too" in done.printed
    assert not [call for call in calls(tmp_path) if call.startswith("sign")]


@pytest.mark.parametrize(
    ("inputs", "installed"),
    [
        ({}, "bubblewrap"),
        ({"arches": "amd64,arm64"}, "bubblewrap qemu-user-static"),
        ({"packages": "deb,rpm"}, "bubblewrap rpm"),
        ({"packages": "deb"}, "bubblewrap"),
        ({"packages": "deb, rpm"}, "bubblewrap rpm"),
    ],
)
def test_what_is_needed_is_installed(
    tmp_path: Path, inputs: dict[str, str], installed: str
) -> None:
    done = run(tmp_path, version="v1.31.2", **inputs)
    told = (done.temporary / "sudo").read_text().splitlines()
    assert told[-1] == f"apt-get install --yes {installed}"


def test_a_runner_that_is_ready_is_left_alone(tmp_path: Path) -> None:
    done = run(tmp_path, version="v1.31.2", prepare="false")
    assert done.failed == ""
    assert not (done.temporary / "sudo").exists()


@pytest.mark.slow
def test_kbuild_itself_understands_the_inputs(tmp_path: Path) -> None:
    make_repository(tmp_path / "kubernetes", ("v1.20.2",))
    inputs = {"version": "v1.20.2", "ca_years": "30", "source": str(tmp_path / "kubernetes")}
    done = run(tmp_path, KBUILD, **inputs, leaf_years="20", layout="tree", builder="local")
    assert done.failed == "Check"  # a dry run has made nothing
    assert re.search(r"^ca years +30$", done.printed, re.MULTILINE)
    assert re.search(r"^leaf years +20$", done.printed, re.MULTILINE)
    assert re.search(r"^output +dist/kubeadm/v1.20.2$", done.printed, re.MULTILINE)
    wrong = run(tmp_path, KBUILD, **inputs | {"ca_years": "many"})
    assert wrong.failed == "Build and prove"
    assert "KBUILD_CA_YEARS" in wrong.printed
