"""The examples of docs/ci.md are valid and pinned, and call what exists."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kbuild.base.errors import SandboxForbidden
from tests.support.action import ACTION
from tests.unit.test_readme import parse
from tests.unit.test_workflows import PROGRAMS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/ci.md").read_text()
ARGUMENTS = re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("kbuild/**/*.py")]
# Installs a package of PyPI by its name: kbuild, kbuild[extra], kbuild==1.
BY_NAME = re.compile(
    r"(?:(?:pipx?|uvx|tool) (?:install|--from|run)|uvx)(?: -\S+)* ['\"]?kbuild(?![\w/.-])(?! @)"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def example(key: str) -> Any:
    """Return the YAML example that has a key on its top level."""
    [found] = [one for one in map(yaml.safe_load, blocks("yaml")) if key in one]
    return found


def workflows() -> list[dict[str, Any]]:
    return [one for one in map(yaml.safe_load, blocks("yaml")) if "jobs" in one]


def test_the_workflows_are_valid_by_the_published_schema(tmp_path: Path) -> None:
    texts = [text for text in blocks("yaml") if "jobs:" in text]
    assert len(texts) == 2
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.yml").write_text(text)
    check = [str(PROGRAMS / "check-jsonschema"), "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run(
        [*check, *tmp_path.iterdir()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_gitlab_job_is_valid_by_the_published_schema(tmp_path: Path) -> None:
    (tmp_path / "gitlab.yml").write_text(yaml.safe_dump(example("kubeadm")))
    check = [str(PROGRAMS / "check-jsonschema"), "--builtin-schema", "vendor.gitlab-ci"]
    done = subprocess.run(
        [*check, tmp_path / "gitlab.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_step_has_inputs_and_outputs_of_the_action() -> None:
    [steps] = [
        job["steps"] for one in workflows() for job in one["jobs"].values() if "steps" in job
    ]
    [step] = [step for step in steps if "kbuild@" in step["uses"]]
    assert set(step["with"]) <= set(ACTION["inputs"])
    assert set(re.findall(r"outputs\.([\w-]+)", str(steps))) <= set(ACTION["outputs"])


def test_the_call_has_inputs_and_all_rights_of_the_workflow() -> None:
    [job] = [job for one in workflows() for job in one["jobs"].values() if "uses" in job]
    called = yaml.safe_load((ROOT / ".github/workflows/build.yml").read_text())
    inputs = called[True]["workflow_call"]["inputs"]
    assert set(job["with"]) <= set(inputs)
    assert {name for name, one in inputs.items() if one.get("required")} <= set(job["with"])
    assert job["permissions"] == called["jobs"]["publish"]["permissions"]
    told = PAGE[PAGE.index("## GitHub: a release") : PAGE.index("## GitLab")]
    for name in inputs:
        assert f"`{name}`" in told or f"  {name}: " in told, name


def test_nothing_is_used_at_a_branch() -> None:
    used = re.findall(r"uses: (\S+)", PAGE)
    assert len(used) == 3
    assert all(re.fullmatch(r"\S+@[0-9a-f]{40}", one) for one in used)
    for one in workflows():
        assert one["permissions"] == {}


def scripts() -> list[str]:
    job = example("kubeadm")["kubeadm"]
    return ["\n".join([*job["before_script"], *job["script"]]), *blocks("sh")]


@pytest.mark.parametrize("script", scripts())
def test_a_script_is_shell_and_its_options_exist(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    called = [line for line in script.splitlines() if line.startswith("venv/bin/kbuild ")]
    assert len(called) >= 2
    for line in called:
        parse(shlex.join(shlex.split(line.removeprefix("venv/bin/"))))
    [install] = [line for line in script.splitlines() if "--requirement" in line]
    assert "--require-hashes --only-binary :all: --requirement kbuild/locks/release.txt" in install


def test_the_options_of_the_container_are_those_of_the_hint() -> None:
    [session] = blocks("console")
    options = re.findall(r"--security-opt \S+", SandboxForbidden.todo)
    assert len(options) == 3
    assert set(re.findall(r"--security-opt \S+", session)) == {one.strip(",;") for one in options}
    [command] = re.findall(r"^ +kbuild (kubeadm .*)$", session, re.MULTILINE)
    parse(f"kbuild {command}")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_of_the_image_is_told(name: str) -> None:
    assert re.search(rf"^\| `{name}` \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_is_told_to_install_a_package_that_is_not_ours(path: Path) -> None:
    assert BY_NAME.findall(path.read_text()) == []


def test_a_package_that_is_not_ours_is_found() -> None:
    for text in ("pip install kbuild", "pip install 'kbuild[keyless]'", "pipx install kbuild==1"):
        assert BY_NAME.search(text), text
    for text in ("uvx --from kbuild kbuild --help", "uv tool install -q kbuild", "uvx kbuild -h"):
        assert BY_NAME.search(text), text
    ours = "uvx --from git+https://example.org/kbuild kbuild --help"
    for text in (ours, "pipx install git+https://example.org/kbuild", "pip install '.[keyless]'"):
        assert not BY_NAME.search(text), text
