"""The README is true: its commands are understood, its tables are what the code says."""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kbuild.base import errors
from kbuild.base.errors import KbuildError
from kbuild.base.settings import key, options
from kbuild.cli.app import app
from kbuild.settings import Settings
from tests.bench import Figure, row

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^\$ (.+?)(?: +#.*)?$", README, re.MULTILINE)


def test_the_first_two_commands_are_the_main_job_and_the_tests() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("make ")}))
def test_every_make_target_exists(command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"^{target}:.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("kbuild ")}))
def test_every_flag_exists(command: str) -> None:
    words = shlex.split(command)[1:]
    subcommands = [word for word in words[:2] if re.fullmatch(r"[a-z]+", word)]
    shown = CliRunner().invoke(app, [*subcommands, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for flag in (word for word in words if word.startswith("--")):
        assert flag in shown.stdout


def test_the_figures_are_those_of_the_last_bench() -> None:
    latest = json.loads((ROOT / "bench/latest.json").read_text())
    names_of = [field.name for field in fields(Figure)]
    figures = [Figure(**{name: one[name] for name in names_of}) for one in latest["figures"]]
    assert "\n".join(row(figure) for figure in figures) in README
    assert f"{latest['machine']}; {latest['date']}" in README
    past = [figure.what for figure in figures if not figure.is_good]
    assert all(one["is_good"] is (one["what"] not in past) for one in latest["figures"])


def test_every_setting_is_in_its_table() -> None:
    table = README[README.index("| setting |") : README.index("`KBUILD_CONFIG` or")]
    told = [n for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) for n in row.split(", ")]
    assert {name.strip("`") for name in told} - {"setting", "---"} == set(
        map(key, options(Settings))
    )


def test_the_exit_codes_are_in_their_table() -> None:
    told = {
        int(code): text for code, text in re.findall(r"^\| (\d+) \| (.+) \|$", README, re.MULTILINE)
    }
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, KbuildError) and value is not KbuildError
    ]
    expected = {c.exit_code: str(c.__doc__).splitlines()[0] for c in classes if c.exit_code != 2}
    assert told == {
        0: "Done.",
        2: "A flag or a setting has a value that it cannot have.",
        **expected,
    }
