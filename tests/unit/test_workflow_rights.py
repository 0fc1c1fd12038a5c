"""Who may do what in the workflows: one job signs and publishes, and it builds nothing.

The steps are run as they stand in the YAML, by the shell that GitHub uses for `shell: bash`.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
DOCUMENTS: dict[str, Any] = {path.stem: yaml.safe_load(path.read_text()) for path in WORKFLOWS}
BUILD = DOCUMENTS["build"]["jobs"]
TAG = "v1.31.2"
PROGRAMS = Path(sys.executable).parent

Run = subprocess.CompletedProcess[str]


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each job that has steps; a job that calls a workflow only limits the rights of that."""
    for workflow, document in DOCUMENTS.items():
        for name, job in document["jobs"].items():
            if "steps" in job:
                yield f"{workflow}.{name}", job


def step(job: str, name: str) -> str:
    """Return the shell of a step of build.yml whose name begins with ``name``."""
    (found,) = [s for s in BUILD[job]["steps"] if str(s.get("name", "")).startswith(name)]
    return str(found["run"])


def shell(script: str, folder: Path, **environment: str) -> Run:
    bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    usual = {"RELEASE": "dist/release", "KBUILD_LAYOUT": "flat"}
    return subprocess.run(
        bash,
        cwd=folder,
        env=os.environ | usual | environment,
        capture_output=True,
        text=True,
        check=False,
    )


# The rights of a job.


@pytest.mark.parametrize("right", ["id-token", "attestations", "contents", "packages"])
def test_one_job_alone_has_the_right_to_sign_and_to_publish(right: str) -> None:
    having = {name for name, job in jobs() if job["permissions"].get(right) == "write"}
    assert having == ({"build.publish"} if right != "packages" else set())


def test_no_other_job_has_more_than_it_needs() -> None:
    assert {name: job["permissions"] for name, job in jobs() if name != "build.publish"} == {
        "build.single": {"contents": "read"},
        "build.all": {"contents": "read"},
        "patches.newest": {"contents": "read"},
        "patches.patch": {"contents": "read"},
        "patches.alarm": {"issues": "write"},
        "release.plan": {"contents": "read"},
        "release.next": {"actions": "write"},
        "test.test": {"contents": "read"},
    }


def test_the_job_that_signs_builds_nothing_and_runs_no_kubeadm() -> None:
    scripts = "\n".join(s.get("run", "") for s in BUILD["publish"]["steps"])
    assert set(re.findall(r"\bmake \w+", scripts)) == {"make setup"}
    assert set(re.findall(r"kbuild (\w+)(?! \d)", scripts)) == {"check", "sign"}
    assert not re.search(r"\b(docker|go|sudo|apt-get|curl|pip|chmod)\b", scripts)
    assert not re.search(r"(^|[\s/(])kubeadm-linux\S* ", scripts)
    used = {s["uses"].split("@")[0] for s in BUILD["publish"]["steps"] if "uses" in s}
    assert used == {
        "actions/attest-build-provenance",
        "actions/checkout",
        "actions/download-artifact",
        "actions/setup-python",
    }


def test_the_job_that_signs_waits_for_both_machines() -> None:
    assert set(BUILD["publish"]["needs"]) == {"single", "all"}
    assert [name for name, job in BUILD.items() if "needs" in job] == ["publish"]


def test_a_job_that_may_write_checks_out_no_code_or_that_of_its_own_workflow() -> None:
    for name, job in jobs():
        checkouts = [s for s in job["steps"] if "actions/checkout@" in s.get("uses", "")]
        if "write" in job["permissions"].values() and name != "build.publish":
            assert checkouts == [], name


# What a caller of build.yml may do.


@pytest.mark.parametrize("job", BUILD)
def test_a_callers_code_is_never_checked_out(job: str) -> None:
    steps = BUILD[job]["steps"]
    (at,) = [n for n, s in enumerate(steps) if "actions/checkout@" in s.get("uses", "")]
    assert steps[at]["with"]["repository"] == "${{ job.workflow_repository }}"
    assert steps[at]["with"]["ref"] == "${{ job.workflow_sha }}"
    assert steps[at + 1]["env"] == {"COMMIT": "${{ job.workflow_sha }}"}
    assert steps[at + 1]["run"] == step(job, "This must be the commit")


@pytest.mark.parametrize("claimed", ["", "0" * 40])
def test_code_of_another_commit_ends_the_job(tmp_path: Path, claimed: str) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "x"], check=True)
    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    script = step("publish", "This must be the commit")
    assert shell(script, tmp_path, COMMIT=head).returncode == 0
    assert shell(script, tmp_path, COMMIT=claimed).returncode != 0


def test_an_input_is_never_a_command_of_make(tmp_path: Path) -> None:
    payload = f"$(shell touch {tmp_path}/ran)'; touch {tmp_path}/ran; '"
    given = {
        name: payload
        for name, value in DOCUMENTS["build"]["env"].items()
        if "inputs." in str(value)
    }
    assert len(given) == 11
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    for job in BUILD.values():
        environment = given | dict.fromkeys(job.get("env", {}), payload)
        for one in job["steps"]:
            given_here = environment | dict.fromkeys(one.get("env", {}), payload)
            if one.get("run", "").startswith("make "):
                script = one["run"].replace("make ", "make --dry-run ", 1)
                assert shell(script, tmp_path, **given_here).returncode == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("version", "is_tag"),
    [
        (TAG, True),
        ("v1.32.0-rc.1", True),
        ("1.31", False),
        ("v1.31", False),
        ("v1.31.2,v1.31.3", False),
        ("v1.31.2\nv1.31.3", False),
        ("--repo=x/y", False),
        ("v1.31.*", False),
    ],
)
def test_only_a_whole_tag_is_published(tmp_path: Path, version: str, is_tag: bool) -> None:
    done = shell(step("publish", "The version"), tmp_path, KBUILD_VERSION=version)
    assert (done.returncode == 0) is is_tag
    assert BUILD["publish"]["steps"][0]["run"] == step("publish", "The version")


def test_the_artifacts_of_one_tag_are_not_those_of_another() -> None:
    # `v1.31.0-*` would be the artifacts of v1.31.0-rc.1 too.
    (download,) = [s for s in BUILD["publish"]["steps"] if "pattern" in s.get("with", {})]
    assert download["with"]["pattern"] == "single-*-${{ inputs.version }}"
    uploads = [
        s["with"]["name"]
        for j in ("single", "all")
        for s in BUILD[j]["steps"]
        if "name" in s.get("with", {})
    ]
    assert uploads == [
        "single-${{ matrix.arch }}-${{ inputs.version }}",
        "all-${{ inputs.version }}",
    ]


def test_files_that_another_job_put_in_their_place_are_refused(tmp_path: Path) -> None:
    release = tmp_path / "dist/release"
    release.mkdir(parents=True)
    (release / "SHA256SUMS").write_text("genuine\n")
    output = tmp_path / "output"
    (told,) = [s["run"] for s in BUILD["all"]["steps"] if s.get("id") == "sums"]
    assert shell(told, tmp_path, GITHUB_OUTPUT=str(output)).returncode == 0
    sums = output.read_text().strip().removeprefix("sums=")
    script = step("publish", "The files must be")
    assert shell(script, tmp_path, SUMS=sums).returncode == 0
    (release / "SHA256SUMS").write_text("of somebody else\n")
    assert shell(script, tmp_path, SUMS=sums).returncode != 0
    assert shell(script, tmp_path, SUMS="").returncode != 0


# Two machines.

OF_BOTH = ("kubeadm.patch", "kubeadm.patch.sha256")
OF_EACH = (
    "kubeadm-linux-{}",
    "kubeadm-linux-{}.sha256",
    "kubeadm-{}.spdx.json",
    "kubeadm-kbuild_1.31.2_{}.deb",
    "kubeadm-kbuild-1.31.2-1.{}.rpm",
)
OF_A_RUN = ("build.json", "proof.json", "provenance.json", "build.json.sha256", "SHA256SUMS")
ARCHES = ("amd64", "arm64")


@pytest.fixture
def machines(tmp_path: Path) -> Path:
    """Make what the jobs `all` and `single` upload, where `publish` downloads it."""
    for arch in ARCHES:
        equal = [*OF_BOTH, *(name.format(arch) for name in OF_EACH)]
        for folder in ("dist/release", f"dist/single/single-{arch}-{TAG}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for name in equal:
                (tmp_path / folder / name).write_text(name)
            for name in OF_A_RUN:
                (tmp_path / folder / name).write_text(folder)
    return tmp_path


def compare(folder: Path) -> int:
    environment = {"ARCHES": " ".join(ARCHES), "KBUILD_VERSION": TAG}
    return shell(step("publish", "Two machines"), folder, **environment).returncode


def test_two_machines_that_built_the_same_are_accepted(machines: Path) -> None:
    assert compare(machines) == 0


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", [*OF_BOTH, *OF_EACH])
def test_every_file_that_should_be_equal_is_compared(machines: Path, name: str, arch: str) -> None:
    (machines / f"dist/single/single-{arch}-{TAG}" / name.format(arch)).write_text("other")
    assert compare(machines) != 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [OF_BOTH[0], *OF_EACH])
@pytest.mark.parametrize("folder", ["dist/release", f"dist/single/single-amd64-{TAG}"])
def test_a_file_that_one_machine_did_not_make_is_found(
    machines: Path, name: str, folder: str
) -> None:
    for path in machines.glob(f"{folder}/{name.format('amd64')}"):
        path.unlink()
    if name in OF_BOTH:
        shutil.rmtree(machines / f"dist/single/single-arm64-{TAG}")
    assert compare(machines) != 0


def test_a_machine_that_made_nothing_is_found(machines: Path) -> None:
    shutil.rmtree(machines / f"dist/single/single-arm64-{TAG}")
    for path in (machines / "dist/release").glob("*arm64*"):
        path.unlink()
    assert compare(machines) != 0


@pytest.fixture
def trees(machines: Path) -> Path:
    """Make the same with the layout tree, where each architecture has a file of the same name."""
    for folder in (machines / "dist/release", *(machines / "dist/single").iterdir()):
        for name in sorted(folder.iterdir()):
            binary = re.match(r"kubeadm-linux-(\w+)(.*)", name.name)
            under = f"bin/linux/{binary[1]}/kubeadm{binary[2]}" if binary else name.name
            moved = folder / TAG / under
            moved.parent.mkdir(parents=True, exist_ok=True)
            name.rename(moved)
    return machines


def compare_trees(folder: Path) -> int:
    environment = {"ARCHES": " ".join(ARCHES), "KBUILD_VERSION": TAG, "KBUILD_LAYOUT": "tree"}
    return shell(step("publish", "Two machines"), folder, **environment).returncode


def test_with_the_layout_tree_each_architecture_is_compared_too(trees: Path) -> None:
    assert compare_trees(trees) == 0
    binary = trees / f"dist/single/single-arm64-{TAG}/{TAG}/bin/linux/arm64/kubeadm"
    binary.write_text("other")
    assert compare_trees(trees) != 0
    binary.unlink()
    assert compare_trees(trees) != 0


def test_both_machines_make_packages() -> None:
    inputs = DOCUMENTS["build"][True]["workflow_call"]["inputs"]
    assert DOCUMENTS["build"]["env"]["KBUILD_PACKAGE"] == "${{ inputs.packages }}"
    assert inputs["packages"]["default"] == "deb,rpm"


@pytest.mark.parametrize("job", BUILD)
@pytest.mark.parametrize(
    ("signing", "source", "may"),
    [
        ("keyless", "", True),
        ("key", "https://mirror.example/k.git", True),
        ("none", "https://mirror.example/k.git", True),
        ("keyless", "https://mirror.example/k.git", False),
        ("", "", False),
        ("keyless\nnone", "https://mirror.example/k.git", False),
    ],
)
def test_this_workflow_signs_keyless_only_what_is_made_of_upstreams_source(
    tmp_path: Path, job: str, signing: str, source: str, may: bool
) -> None:
    done = shell(step(job, "A keyless"), tmp_path, SIGNING=signing, KBUILD_SOURCE=source)
    assert (done.returncode == 0) is may
    steps = BUILD["publish"]["steps"]
    [attest] = [s for s in steps if "actions/attest-build-provenance@" in s.get("uses", "")]
    assert attest["if"] == "inputs.signing == 'keyless'"


KBUILD_THAT_TELLS = """#!/bin/sh
echo "$@" >>calls
case $1 in sign) touch dist/release/cosign.pub; [ "$4" = "" ] || stat -c %a "$4" >>calls;; esac
"""


@pytest.mark.parametrize(
    ("signing", "told"),
    [
        ("none", ["check"]),
        ("keyless", ["check", "sign dist/release --keyless", "check"]),
        ("key", ["check", "sign dist/release --key", "600", "check"]),
    ],
)
def test_a_release_is_signed_as_asked_and_no_key_is_left(
    tmp_path: Path, signing: str, told: list[str]
) -> None:
    (tmp_path / "dist/release").mkdir(parents=True)
    (tmp_path / "temporary").mkdir()
    program = tmp_path / ".venv/bin/kbuild"
    program.parent.mkdir(parents=True)
    program.write_text(KBUILD_THAT_TELLS)
    program.chmod(0o755)
    done = shell(
        step("publish", "Sign"),
        tmp_path,
        RUNNER_TEMP=str(tmp_path / "temporary"),
        SIGNING=signing,
        KEY="not to be shown",
        IDENTITY="https://example.org/w",
        ARCHES="amd64",
        KBUILD_VERSION=TAG,
        KBUILD_CA_YEARS="100",
        KBUILD_LEAF_YEARS="100",
    )
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.startswith(start) for call, start in zip(calls, told, strict=True)] == [
        True
    ] * len(told)
    assert "not to be shown" not in done.stdout + done.stderr + "".join(calls)
    assert [path.name for path in (tmp_path / "temporary").iterdir()] == (
        ["cosign.pub"] if signing == "key" else []
    )


# Publishing.


@pytest.fixture
def gh(tmp_path: Path) -> Path:
    """Make a gh that writes down what it is called with, and lists the releases in `found`."""
    (tmp_path / "dist/release").mkdir(parents=True)
    (tmp_path / "dist/release/kubeadm.patch").touch()
    program = tmp_path / "bin/gh"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\necho "$@" >>calls\ncase "$*" in *--paginate*) cat found;; esac\n'
    )
    program.chmod(0o755)
    return tmp_path


def publish(folder: Path, found: str | None, **environment: str) -> tuple[int, list[str]]:
    if found is not None:
        (folder / "found").write_text(found)
    done = shell(
        step("publish", "Publish all files"),
        folder,
        PATH=f"{folder}/bin:{os.environ['PATH']}",
        GITHUB_REPOSITORY="o/r",
        GITHUB_SHA="0" * 40,
        KBUILD_VERSION=TAG,
        KBUILD_CA_YEARS="100",
        KBUILD_LEAF_YEARS="100",
        **environment,
    )
    calls = (folder / "calls").read_text().splitlines()[1:]
    return done.returncode, [" ".join(call.split()[:4]) for call in calls]


CREATED = [f"release create {TAG} --repo", f"release edit {TAG} --repo"]


def test_a_release_appears_with_all_its_files(gh: Path) -> None:
    assert publish(gh, "") == (0, CREATED)


def test_with_the_layout_tree_one_archive_is_published(gh: Path) -> None:
    release = gh / f"dist/release/{TAG}"
    (release / "bin").mkdir(parents=True)
    (release / "kubeadm.patch").touch()
    environment = {"KBUILD_LAYOUT": "tree", "RELEASE": f"dist/release/{TAG}"}
    assert publish(gh, "", **environment) == (0, CREATED)
    [created] = [line for line in (gh / "calls").read_text().splitlines() if "create" in line]
    assert created.endswith(f"dist/release/{TAG}/kubeadm.patch dist/kubeadm-{TAG}.tar")
    listed = subprocess.run(
        ["tar", "--list", "--file", gh / f"dist/kubeadm-{TAG}.tar"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{TAG}/kubeadm.patch" in listed.stdout.splitlines()


@pytest.mark.parametrize("found", ["false 7\n", "true 6\nfalse 7\n", "false 7\ntrue 8\n"])
def test_a_published_release_is_never_deleted_or_replaced(gh: Path, found: str) -> None:
    assert publish(gh, found) == (1, [])


def test_the_drafts_of_a_run_that_died_are_deleted_by_their_id(gh: Path) -> None:
    deleted = [f"api --method DELETE repos/o/r/releases/{number}" for number in (7, 8)]
    assert publish(gh, "true 7\ntrue 8\n") == (0, [*deleted, *CREATED])


def test_nothing_is_published_where_the_releases_cannot_be_listed(gh: Path) -> None:
    assert publish(gh, None) == (1, [])


def test_no_workflow_deletes_a_release_by_its_tag() -> None:
    for path in WORKFLOWS:
        assert "gh release delete" not in path.read_text()


# What the jobs install.


@pytest.mark.parametrize("workflow", DOCUMENTS)
def test_a_workflow_installs_only_what_is_locked_by_hash(workflow: str) -> None:
    text = (ROOT / f".github/workflows/{workflow}.yml").read_text()
    assert not re.search(r"\bpip3? |\bpipx\b|\buv\b|\bnpm\b|--group", text)
    lock = DOCUMENTS[workflow]["env"]["LOCK"]
    assert lock == f"locks/{'dev' if workflow == 'test' else 'release'}.txt"
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", "setup"],
        cwd=ROOT,
        env=os.environ | {"LOCK": lock},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installs = [line for line in made.splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert f"--require-hashes --only-binary :all: --requirement {lock}" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]


def test_a_job_that_runs_kubeadm_has_the_sandbox() -> None:
    for name, job in jobs():
        scripts = "\n".join(s.get("run", "") for s in job["steps"])
        if re.search(r"kbuild kubeadm$|make release", scripts, re.MULTILINE):
            assert re.search(r"apt-get install --yes .*\bbubblewrap\b", scripts), name
            assert "kernel.apparmor_restrict_unprivileged_userns=0" in scripts, name


@pytest.mark.slow
def test_dependabot_watches_the_actions_and_the_locks() -> None:
    path = ROOT / ".github/dependabot.yml"
    check = [str(PROGRAMS / "check-jsonschema"), "--builtin-schema", "vendor.dependabot"]
    done = subprocess.run([*check, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = yaml.safe_load(path.read_text())
    watched = {one["package-ecosystem"]: one for one in document["updates"]}
    assert watched["github-actions"]["directory"] == "/"
    assert watched["pip"]["directory"] == "/locks"
    assert ("docker" in watched) is any(ROOT.glob("**/Dockerfile"))
