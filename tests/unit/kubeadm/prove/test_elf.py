import contextlib
import struct
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbuild.base.errors import WrongBinary
from kbuild.kubeadm.prove.elf import read_arch

MACHINES = {"amd64": 62, "arm64": 183, "arm": 40, "ppc64le": 21, "s390x": 22}
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3


def elf(
    path: Path, machine: int, *, kind: int = 2, segment: int = PT_LOAD, big: bool = False
) -> Path:
    order = ">" if big else "<"
    ident = b"\x7fELF" + bytes([2, 2 if big else 1, 1, 0]) + bytes(8)
    header = struct.pack(
        order + "HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    program = struct.pack(order + "IIQQQQQQ", segment, 5, 0, 0, 0, 0, 0, 4096)
    path.write_bytes(ident + header + program)
    return path


@pytest.mark.parametrize("arch", MACHINES)
def test_a_static_executable_tells_its_architecture(arch: str, tmp_path: Path) -> None:
    path = elf(tmp_path / "kubeadm", MACHINES[arch], big=arch == "s390x")
    assert read_arch(path) == arch


@pytest.mark.parametrize("segment", [PT_DYNAMIC, PT_INTERP])
def test_a_dynamic_executable_is_refused(segment: int, tmp_path: Path) -> None:
    with pytest.raises(WrongBinary, match="dynamically linked"):
        read_arch(elf(tmp_path / "kubeadm", MACHINES["amd64"], segment=segment))


def test_a_shared_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongBinary, match="position-independent"):
        read_arch(elf(tmp_path / "kubeadm", MACHINES["amd64"], kind=3))


def test_big_endian_ppc64_is_not_ppc64le(tmp_path: Path) -> None:
    with pytest.raises(WrongBinary, match="EM_PPC64"):
        read_arch(elf(tmp_path / "kubeadm", MACHINES["ppc64le"], big=True))


def test_an_unknown_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongBinary, match="EM_RISCV"):
        read_arch(elf(tmp_path / "kubeadm", 243))


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01\x01"])
def test_what_is_no_elf_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "kubeadm"
    path.write_bytes(content)
    with pytest.raises(WrongBinary, match="ELF file"):
        read_arch(path)


def test_this_python_is_dynamic() -> None:
    with pytest.raises(WrongBinary):
        read_arch(Path(sys.executable).resolve())


@pytest.mark.parametrize("offset", [54, 60], ids=["segments", "sections"])
def test_more_headers_than_any_go_binary_has_are_refused(offset: int, tmp_path: Path) -> None:
    path = elf(tmp_path / "kubeadm", MACHINES["amd64"])
    number = struct.pack("<2H", 56, 0xFFFF) if offset == 54 else struct.pack("<H", 0xFFFF)
    content = path.read_bytes()
    with pytest.raises(WrongBinary, match="65535 headers"):
        read_arch(content[:offset] + number + content[offset + len(number) :])


@pytest.mark.parametrize("field", [32, 40], ids=["segments", "sections"])
def test_headers_beyond_the_end_are_refused(field: int, tmp_path: Path) -> None:
    content = elf(tmp_path / "kubeadm", MACHINES["amd64"]).read_bytes()
    changed = bytearray(content)
    struct.pack_into("<Q", changed, field, 2**63 + 5)
    struct.pack_into("<H", changed, 60, 1)
    with pytest.raises(WrongBinary, match="ELF file"):
        read_arch(bytes(changed))


@settings(max_examples=300)
@given(changes=st.dictionaries(st.integers(0, 119), st.integers(0, 255), max_size=8))
def test_headers_of_any_content_are_read_or_refused(changes: dict[int, int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = bytearray(elf(Path(folder) / "kubeadm", MACHINES["amd64"]).read_bytes())
    for at, value in changes.items():
        content[at] = value
    with contextlib.suppress(WrongBinary):
        assert read_arch(bytes(content)) in MACHINES
