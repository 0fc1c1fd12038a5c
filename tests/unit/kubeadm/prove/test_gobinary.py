import struct
import time
from pathlib import Path

import pytest

from kbuild.kubeadm.prove.errors import WrongBinary
from kbuild.kubeadm.prove.gobinary import (
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


def _table_of(names: bytes, offsets: list[int], *, count: int | None = None) -> bytes:
    """Return a function table of Go 1.20 whose entries have names at these offsets."""
    number = len(offsets)
    header = 8 + 8 * 8
    table = header + len(names)
    counts = (count or number, 0, BASE, header, 0, 0, 0, table)
    head = struct.pack("<I4B8Q", 0xFFFFFFF1, 0, 0, 1, 8, *counts)
    begin = 8 * number + 4
    index = b"".join(struct.pack("<2I", 0, begin + 8 * at) for at in range(number)) + bytes(4)
    return head + names + index + b"".join(struct.pack("<Ii", 0, at) for at in offsets)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        # 20,000 names of up to 20,000 bytes in a table of 400 kB would be 200 MB
        (_table_of(b"x" * 20_000 + b"\0", [*range(20_000)]), "damaged"),
        (_table_of(b"x\0", [0], count=2**40), "the limit is"),
    ],
    ids=["names that overlap", "functions without end"],
)
def test_a_function_table_takes_no_more_memory_than_its_size(
    table: bytes, reason: str, tmp_path: Path
) -> None:
    path = write_go_elf(tmp_path / "x", rodata=table)
    binary = bytearray(path.read_bytes())
    (headers,) = struct.unpack_from("<Q", binary, 40)
    # .gopclntab, the third section, now lies where .rodata, the second one, does.
    place = binary[headers + 2 * 64 + 24 : headers + 2 * 64 + 40]
    binary[headers + 3 * 64 + 24 : headers + 3 * 64 + 40] = place
    begun = time.process_time()
    with pytest.raises(WrongBinary, match=reason):
        read_functions(bytes(binary))
    assert time.process_time() - begun < 5


def test_functions_out_of_order_are_refused(tmp_path: Path) -> None:
    path = write_go_elf(tmp_path / "x", pclntab="1.2")
    binary = path.read_bytes()
    entry = struct.pack("<Q", BASE)
    at = binary.index(entry, binary.index(struct.pack("<I4BQ", 0xFFFFFFFB, 0, 0, 1, 8, 4)))
    swapped = binary[:at] + struct.pack("<Q", BASE + 64) + binary[at + 8 :]
    with pytest.raises(WrongBinary, match="order of addresses"):
        read_functions(swapped)


def test_sections_that_overlap_are_not_read_many_times(tmp_path: Path) -> None:
    binary = bytearray(write_go_elf(tmp_path / "x").read_bytes())
    (headers,) = struct.unpack_from("<Q", binary, 40)
    for number in (1, 2, 3):
        struct.pack_into("<2Q", binary, headers + number * 64 + 24, 0, len(binary))
    with pytest.raises(WrongBinary, match="sections overlap"):
        read_sections(bytes(binary))


def test_the_bytes_of_a_binary_give_what_its_file_gives(tmp_path: Path) -> None:
    path = write_go_elf(tmp_path / "x")
    for read in (read_build_info, read_functions, read_sections):
        assert read(path.read_bytes()) == read(path)
