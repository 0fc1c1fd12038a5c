"""Runs the steps of action.yml as GitHub does, but for what `uses` another action."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
# The sandbox is there already, and nothing on this machine may be changed.
SUDO = '#!/bin/sh\necho "$@" >>"$RUNNER_TEMP/sudo"\n'
CONDITION = re.compile(r"inputs\.([\w-]+) (==|!=) '([^']*)'")

Outputs = dict[str, str]


@dataclass(slots=True)
class Run:
    """A run of the action in ``folder``, the caller's repository.

    ``outputs`` has those of each step. A step in it from the beginning is not run.
    """

    folder: Path
    inputs: Mapping[str, str]
    environment: Mapping[str, str]
    outputs: dict[str, Outputs] = field(default_factory=dict)
    printed: str = ""
    failed: str = ""

    def steps(self) -> "Run":
        """Run each step until one fails; its name is then in ``failed``."""
        unknown = set(self.inputs) - set(ACTION["inputs"])
        assert not unknown, unknown
        (self.folder / "bin").mkdir(parents=True, exist_ok=True)
        (self.folder / "bin/sudo").write_text(SUDO)
        (self.folder / "bin/sudo").chmod(0o755)
        self.temporary.mkdir(exist_ok=True)
        for step in ACTION["runs"]["steps"]:
            if self._is_wanted(step) and not self.failed:
                self._step(step)
        return self

    @property
    def temporary(self) -> Path:
        """Return the folder for temporary files of the runner."""
        return self.folder / "temporary"

    @property
    def action_outputs(self) -> Outputs:
        """Return the outputs of the action."""
        return {name: self._filled(one["value"]) for name, one in ACTION["outputs"].items()}

    def _step(self, step: dict[str, Any]) -> None:
        if "uses" in step:
            assert step["uses"].startswith("actions/setup-python@")
            self.outputs["python"] = {"python-path": sys.executable}
            return
        told = self.temporary / "output"
        told.write_text("")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("KBUILD_")},
                **self.environment,
                **{name: self._filled(value) for name, value in step["env"].items()},
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                "RUNNER_TEMP": str(self.temporary),
                "GITHUB_OUTPUT": str(told),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        self.printed += done.stdout + done.stderr
        self.failed = step["name"] if done.returncode else ""
        lines = [line.partition("=") for line in told.read_text().splitlines()]
        self.outputs[step.get("id", step["name"])] = {name: value for name, _, value in lines}

    def _is_wanted(self, step: dict[str, Any]) -> bool:
        if step.get("id") in self.outputs:
            return False
        if "if" not in step:
            return True
        found = CONDITION.fullmatch(step["if"])
        assert found is not None, step["if"]
        return (self._input(found[1]) == found[3]) is (found[2] == "==")

    def _input(self, name: str) -> str:
        return self.inputs.get(name, ACTION["inputs"][name].get("default", ""))

    def _filled(self, text: str) -> str:
        def value(found: re.Match[str]) -> str:
            match found[1].split("."):
                case ["inputs", name]:
                    return self._input(name)
                case ["steps", step, "outputs", name]:
                    return self.outputs.get(step, {}).get(name, "")
                case ["github", "action_path"]:
                    return str(ROOT)
                case _:
                    raise AssertionError(found[0])

        return re.sub(r"\$\{\{ ([\w.-]+) \}\}", value, text)
