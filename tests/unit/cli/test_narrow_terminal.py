"""Tables on a terminal of 80 columns: nothing that counts is cut off."""

import re
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from kbuild.cli.kubeadm import certificate_table
from kbuild.kubeadm.model import IssuedCertificate, Moment, Proof
from kbuild.kubeadm.toolchain import images
from tests.support.command import run_here
from tests.support.commands import commands
from tests.support.terminal import on_terminal

_STYLE = re.compile(r"\x1b\[[\d;]*m")
LONGEST = "pki/apiserver-kubelet-client.crt"


def issued(path: str, moment: Moment) -> IssuedCertificate:
    return IssuedCertificate(
        case="fresh-ca",
        moment=moment,
        kind="kubeconfig",
        path=path,
        subject="CN=x",
        not_before=datetime(2026, 11, 27, tzinfo=UTC),
        not_after=datetime(2126, 11, 3, 12, tzinfo=UTC),
        years=100,
    )


def test_the_certificates_of_a_proof_are_shown_with_their_dates() -> None:
    found = (issued(LONGEST, "issued"), issued(LONGEST, "renewed"), issued("admin.conf", "issued"))
    proof = Proof(
        path=Path("x"), arch="amd64", sha256="", ran="native", where="", certificates=found
    )
    written = StringIO()
    Console(file=written, width=80).print(certificate_table(proof))
    _, first, second = written.getvalue().splitlines()
    assert first.split() == [LONGEST, "kubeconfig", "100", "2126-11-03", "2126-11-03"]
    assert second.split(maxsplit=4) == [
        "admin.conf",
        "kubeconfig",
        "100",
        "2126-11-03",
        "not renewed",
    ]


@pytest.mark.slow
def test_pins_are_shown_whole() -> None:
    pin = images.shipped_pins()[0]
    shown = on_terminal("pins", "list", pin.go_version, width=80)
    assert "shipped" in shown
    assert "…" not in shown
    first, rest = shown.splitlines()[1:3]
    assert first.split()[2] + rest.strip() == pin.digest


@pytest.mark.slow
def test_a_plan_is_legible(tmp_path: Path) -> None:
    on_terminal("pki", "init", "--dir", tmp_path, width=80)
    shown = on_terminal("pki", "plan", "--dir", tmp_path, width=80)
    lines = [_STYLE.sub("", line) for line in shown.splitlines()]
    assert max(map(len, lines[:-1])) <= 80  # the last one has the path of the directory
    assert next(line for line in lines if line.startswith("kubernetes")).split() == [
        *("kubernetes", "missing", "ca", "100", "years")
    ]
    words = " ".join(" ".join(lines).split())
    assert "kubelet-worker1 for worker1, 192.0.2.21; from kubelet of pki.toml" in words


@pytest.mark.parametrize("path", sorted(commands()))
def test_help_cuts_no_word_in_80_columns(path: str) -> None:
    shown = run_here(*path.split()[1:], "--help", COLUMNS="80").stdout
    assert "--help" in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
