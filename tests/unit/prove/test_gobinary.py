from pathlib import Path

import pytest

from kbuild.errors import WrongBinary
from kbuild.prove.gobinary import (
    BuildInfo,
    Module,
    package_of,
    read_build_info,
    read_functions,
    read_sections,
)
from tests.support.goelf import BASE, FUNCTIONS, write_go_elf


def test_the_modules_are_those_that_were_compiled(tmp_path: Path) -> None:
    info = read_build_info(write_go_elf(tmp_path / "x"))
    assert info.go_version == "1.15.15"
    assert info.modules == (
        Module("github.com/spf13/cobra", "v1.1.1"),
        Module("github.com/PuerkitoBio/purell", "v1.1.1"),
        Module("k8s.io/client-go", "v0.0.0", "./staging/src/k8s.io/client-go"),
    )


def test_a_gopath_build_names_no_modules(tmp_path: Path) -> None:
    info = read_build_info(write_go_elf(tmp_path / "x", modules=""))
    assert info == BuildInfo(go_version="1.15.15")


@pytest.mark.parametrize("form", ["1.2", "1.16", "1.18", "1.20", "1.26"])
def test_functions_are_read_from_every_form_of_the_table(tmp_path: Path, form: str) -> None:
    found = read_functions(write_go_elf(tmp_path / "x", pclntab=form))
    assert {function.name: function.code for function in found} == FUNCTIONS
    assert found[0].address == BASE


@pytest.mark.parametrize(
    ("symbol", "package"),
    [
        ("main.main", "main"),
        ("k8s.io/client-go/util/cert.NewSelfSignedCACert", "k8s.io/client-go/util/cert"),
        ("gopkg.in/yaml%2ev2.(*decoder).scalar", "gopkg.in/yaml.v2"),
        ("k8s.io/x/set.Set[go.shape.string].Has", "k8s.io/x/set"),
        ("github.com/a/b.(*T).c.func1", "github.com/a/b"),
    ],
)
def test_the_package_of_a_symbol(symbol: str, package: str) -> None:
    assert package_of(symbol) == package


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF" + bytes(60)])
def test_what_is_no_go_binary_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    for read in (read_build_info, read_functions, read_sections):
        with pytest.raises(WrongBinary):
            read(path)


def test_a_cut_binary_is_refused_or_read_but_never_a_fault(tmp_path: Path) -> None:
    whole = write_go_elf(tmp_path / "x").read_bytes()
    for size in range(0, len(whole), 61):
        (tmp_path / "cut").write_bytes(whole[:size])
        for read in (read_build_info, read_functions, read_sections):
            try:
                read(tmp_path / "cut")
            except WrongBinary:
                continue
