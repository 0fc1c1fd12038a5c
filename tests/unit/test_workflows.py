"""The workflow files: valid by GitHub's schema and by zizmor, pinned, and no tag is lost."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kbuild import settings
from tests.support.command import run_here

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTION = ROOT / "action.yml"
PROGRAMS = Path(sys.executable).parent
PINNED = re.compile(r"^\s*-? *uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
MOST_JOBS = 256  # of all matrices of a run, by GitHub's documentation of `strategy`

Jobs = dict[str, dict[str, Any]]


def read(path: Path) -> dict[Any, Any]:  # YAML takes the key `on` for true
    document: dict[Any, Any] = yaml.safe_load(path.read_text())
    return document


def jobs_of(name: str) -> Jobs:
    jobs: Jobs = read(ROOT / f".github/workflows/{name}.yml")["jobs"]
    return jobs


def test_there_are_four() -> None:
    assert [path.stem for path in WORKFLOWS] == ["build", "patches", "release", "test"]


@pytest.mark.slow
def test_they_are_valid_by_the_published_schema() -> None:
    check = [str(PROGRAMS / "check-jsonschema"), "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*check, *WORKFLOWS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_action_is_valid_by_the_published_schema() -> None:
    check = [str(PROGRAMS / "check-jsonschema"), "--builtin-schema", "vendor.github-actions"]
    done = subprocess.run([*check, ACTION], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_finds_nothing_of_weight() -> None:
    audit = [str(PROGRAMS / "zizmor"), "--offline", "--no-progress", "--min-severity", "medium"]
    done = subprocess.run([*audit, *WORKFLOWS, ACTION], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", [*WORKFLOWS, ACTION], ids=lambda path: path.stem)
def test_each_action_is_pinned_by_its_commit(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if re.search(r"\buses:", line)]
    assert lines
    for line in lines:
        assert PINNED.match(line) or line.strip() == "uses: ./.github/workflows/build.yml", line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_job_may_do_only_what_it_says(path: Path) -> None:
    document = read(path)
    assert document["permissions"] == {}
    for name, job in document["jobs"].items():
        assert "permissions" in job, name
        for step in job.get("steps", []):
            if str(step.get("uses", "")).startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_job_needs_of_another_is_there(path: Path) -> None:
    jobs: Jobs = read(path)["jobs"]
    for name, job in jobs.items():
        needed = job.get("needs", [])
        needed = [needed] if isinstance(needed, str) else needed
        assert set(needed) <= jobs.keys(), name
        used = set(re.findall(r"needs\.([\w-]+)\.outputs\.([\w-]+)", json.dumps(job)))
        for other, output in used:
            assert other in needed
            assert output in jobs[other]["outputs"]


def test_the_inputs_of_the_reusable_one_are_what_is_given() -> None:
    inputs = read(ROOT / ".github/workflows/build.yml")[True]["workflow_call"]["inputs"]
    given_ = jobs_of("release")["release"]["with"]
    assert set(given_) <= inputs.keys()
    assert {name for name, one in inputs.items() if one.get("required")} <= set(given_)


@pytest.mark.parametrize("path", [*WORKFLOWS, ACTION], ids=lambda path: path.stem)
def test_the_shell_in_it_is_shell(path: Path) -> None:
    document = read(path)
    for job in document.get("jobs", {"action": document.get("runs")}).values():
        for step in job.get("steps", []):
            if "run" in step:
                assert "${{" not in step["run"]
                subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)


@pytest.mark.slow
def test_what_it_calls_kbuild_with_is_known() -> None:
    text = "".join(path.read_text() for path in WORKFLOWS)
    commands = re.findall(r"\.venv/bin/kbuild (\w+)((?: +-?[\w./-]+)*)", text)
    assert {name for name, _ in commands} == {"check", "kubeadm", "sign", "versions"}
    for name, words in commands:
        shown = run_here(name, "--help")
        for flag in re.findall(r"--[a-z-]+", words):
            assert flag in shown.stdout, (name, flag)
    makefile = (ROOT / "Makefile").read_text()
    assert "make release" in text
    for name in ("LOCK", "VERSION"):
        assert re.search(rf"^ +{name}: ", text, re.MULTILINE)
        assert f"$({name})" in makefile
    for name in re.findall(r"^ +KBUILD_(\w+): ", text, re.MULTILINE):
        assert name.lower().replace("_", "-") in settings.names()


plan = runpy.run_path(str(ROOT / ".ci/plan"))["plan"]


@pytest.mark.slow
@given(
    minors=st.integers(1, 6),
    patches=st.integers(1, 20),
    limit=st.integers(1, 70),
    data=st.data(),
)
def test_no_tag_is_lost_and_none_done_twice(
    minors: int, patches: int, limit: int, data: st.DataObject
) -> None:
    tags = [f"v1.{24 + minor}.{patch}" for minor in range(minors) for patch in range(patches)]
    released = data.draw(st.sets(st.sampled_from(tags)))
    done: list[str] = []
    before = ""
    for _ in range(len(tags) + 1):
        now, before = plan(tags, released, before, limit)
        assert len(now) <= limit
        done += now  # and none of them succeeds: they must not keep the others from their turn
        if not before:
            break
    assert done == [tag for tag in reversed(tags) if tag not in released]


def test_a_run_has_no_more_jobs_than_it_may() -> None:
    usual = json.loads(
        read(ROOT / ".github/workflows/build.yml")[True]["workflow_call"]["inputs"]["arches"][
            "default"
        ]
    )
    limit = re.search(r'"--limit", type=int, default=(\d+)', (ROOT / ".ci/plan").read_text())
    assert limit is not None
    of_a_tag = sum(len(usual) if "strategy" in job else 1 for job in jobs_of("build").values())
    assert int(limit[1]) * of_a_tag <= MOST_JOBS


@pytest.mark.slow
def test_a_thousand_tags_are_planned_from_what_kbuild_prints(tmp_path: Path) -> None:
    tags = [f"v1.{24 + number // 25}.{number % 25}" for number in range(1000)]
    (tmp_path / "released").write_text(f"{tags[-1]}\n{tags[0]}\nv9.9.9\n")
    done = subprocess.run(
        [ROOT / ".ci/plan", tmp_path / "released"],
        input=json.dumps({"source": "x", "versions": [{"tag": tag} for tag in tags]}),
        capture_output=True,
        text=True,
        check=True,
    )
    first, last = done.stdout.splitlines()
    assert json.loads(first.removeprefix("tags=")) == tags[-2:-62:-1]
    assert last == f"before={tags[-61]}"


@pytest.mark.parametrize("missing", ["released", "versions"])
def test_a_plan_without_its_input_is_one_clear_line(missing: str, tmp_path: Path) -> None:
    if missing != "released":
        (tmp_path / "released").write_text("v1.31.2\n")
    done = subprocess.run(
        [ROOT / ".ci/plan", tmp_path / "released"],
        input='{"versions": []}' if missing == "released" else "no JSON",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert ("cannot be read" if missing == "released" else "is not the output") in done.stderr
