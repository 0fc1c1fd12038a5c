"""Completion, as the shells ask for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kbuild.base.settings import flag, options
from kbuild.cli.options import completion
from kbuild.settings import KINDS
from tests.support.commands import commands

KBUILD = Path(sys.executable).with_name("kbuild")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("kbuild kub", ["kubeadm"]),
        ("kbuild kubeadm --lea", ["--leaf-years"]),
        ("kbuild nodes roll", ["rollback"]),
        ("kbuild nodes renew --inv", ["--inventory"]),
        ("kbuild pki rotate-ca --step b", ["begin", "back"]),
        ("kbuild pki add-host --role ", ["control-plane", "etcd", "worker", "vip"]),
        ("kbuild kubeadm --arch amd64,ar", ["amd64,arm64", "amd64,arm"]),
        ("kbuild export kube", ["kubespray", "kubekey"]),
    ],
)
def test_bash_is_offered_commands_and_options(typed: str, offered: list[str]) -> None:
    asked = {
        "_KBUILD_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    done = subprocess.run(
        [KBUILD], env=os.environ | asked, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == offered


OF_A_FIXED_SET = [
    (kind.command, name, declared.choices)
    for kind in KINDS
    for name, declared in options(kind).items()
    if declared.choices
]


@pytest.mark.parametrize(("command", "name", "choices"), OF_A_FIXED_SET, ids=str)
def test_every_option_of_a_fixed_set_offers_its_values(
    command: str, name: str, choices: tuple[str, ...]
) -> None:
    typer_command = commands()[f"kbuild {command}"]
    [shown] = [each for each in typer_command.params if flag(name) in each.opts]
    context = typer_command.context_class(typer_command, info_name=command)
    assert [item.value for item in shown.shell_complete(context, "")] == list(choices)
    last = choices[-1]
    assert [item.value for item in shown.shell_complete(context, last)] == [last]


def test_the_options_of_a_fixed_set_are_known() -> None:
    known = {"arch", "builder", "for_", "layout", "package", "role", "step", "stored_defaults"}
    assert {name for _, name, _ in OF_A_FIXED_SET} == known | {"stored_values", "tree_state"}


def test_the_tools_of_export_are_offered() -> None:
    export = commands()["kbuild export"]
    context = export.context_class(export, info_name="export")
    offered = export.params[0].shell_complete(context, "kube")
    assert [item.value for item in offered] == ["kubespray", "kubekey"]


def test_a_list_is_continued_after_a_comma_without_what_it_has() -> None:
    offer = completion(("amd64", "arm", "arm64"))
    assert offer("") == ["amd64", "arm", "arm64"]
    assert offer("arm,a") == ["arm,amd64", "arm,arm64"]
