"""What is loaded before kbuild has anything to do."""

import ast
import subprocess
import sys
from importlib import import_module

import pytest
import typer

from kbuild.cli.app import COMMANDS, module_of

# All that --help and --version may import, of kbuild's own and of what pip installed.
ALLOWED = {
    *("kbuild", "kbuild.cli", "kbuild.cli.main", "kbuild.cli.app", "kbuild.cli.boundary"),
    *("kbuild.base", "kbuild.base.errors", "kbuild.base.addresses"),
    *("typer", "annotated_doc", "shellingham"),
}
LOADED = """
import sys
before = set(sys.modules)
from kbuild.cli.main import main
sys.argv = ["kbuild", *sys.argv[1:]]
try:
    main()
except SystemExit:
    print(sorted(set(sys.modules) - before), file=sys.stderr)
"""


def loaded(*words: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words], check=True, capture_output=True, text=True
    )
    return set(ast.literal_eval(done.stderr.splitlines()[-1]))


def ours_and_installed(modules: set[str]) -> set[str]:
    return {
        name if name.startswith("kbuild") else name.partition(".")[0]
        for name in modules
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("_")
    }


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--help",), ("--version",), ()], ids=str)
def test_help_imports_what_it_shows_and_nothing_else(words: tuple[str, ...]) -> None:
    assert ours_and_installed(loaded(*words)) <= ALLOWED


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("kubeadm", "--version", "v1.20.2"),  # the lifetimes are missing
        ("pins", "list", "--json"),
        ("versions", "--source", "/dev/null/kubernetes"),  # which nobody can make
        ("kubeadm", "--help"),
        ("advise", "--version", "v1.23.0"),
    ],
    ids=str,
)
def test_what_is_slow_to_import_is_imported_where_it_is_used(words: tuple[str, ...]) -> None:
    slow = {"docker", "git", "cryptography", "requests", "tree_sitter"}
    assert not slow & ours_and_installed(loaded(*words))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_all_says_what_the_help_of_each_says(name: str) -> None:
    command = typer.main.get_command(import_module(module_of(name)).app)
    assert command.help == COMMANDS[name]
