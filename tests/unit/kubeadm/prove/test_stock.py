import struct
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kbuild.kubeadm.model import (
    Binary,
    GoPin,
    Lifetimes,
    PatchedTree,
    Proof,
    ProvenBinary,
    SourceTree,
    Stamp,
    StockDifference,
    Toolchain,
)
from kbuild.kubeadm.prove.errors import StockDiffers
from kbuild.kubeadm.prove.stock import against_stock
from tests.support.goelf import BASE, write_go_elf

HOLDER = "k8s.io/kubernetes/vendor/k8s.io/client-go/util/cert.NewSelfSignedCACert"
LITERAL = "k8s.io/kubernetes/cmd/kubeadm/app/cmd.newCmdUserKubeConfig.func1"
YEAR = 365 * 24 * 3600 * 10**9


def binary(path: Path, arch: str, ca: int, leaf: int) -> Binary:
    source = SourceTree(path=path.parent, tag="v1.20.2", commit="f" * 40, origin="x")
    toolchain = Toolchain(builder="local", pin=GoPin(version="1.15.5", files=()), go_version="1")
    lifetimes = Lifetimes(ca_years=ca, leaf_years=leaf)
    tree = PatchedTree(source=source, toolchain=toolchain, lifetimes=lifetimes, patches=(), diff="")
    stamp = Stamp(build_date=datetime(2026, 1, 2, tzinfo=UTC), tree_state="dirty")
    return Binary(path=path, arch=arch, sha256=path.name, tree=tree, stamp=stamp, command=())


def compare(
    folder: Path,
    ours: dict[str, bytes],
    theirs: dict[str, bytes],
    arch: str = "amd64",
    data: tuple[bytes, bytes] = (bytes(64), bytes(64)),
    fips: tuple[bytes, bytes] = (b"", b""),
) -> StockDifference:
    patched = write_go_elf(folder / "patched", ours, arch=arch, rodata=data[0], fips=fips[0])
    stock = write_go_elf(folder / "stock", theirs, arch=arch, rodata=data[1], fips=fips[1])
    proof = Proof(path=patched, arch=arch, sha256="", ran=None, where="")
    proven = ProvenBinary(binary=binary(patched, arch, 100, 50), proof=proof)
    found = against_stock(proven, binary(stock, arch, 10, 1)).proof.against_stock
    assert found is not None
    assert found.stock_sha256 == "stock"
    return found


def test_what_holds_a_lifetime_may_differ_and_is_named(tmp_path: Path) -> None:
    ours = {"main.main": bytes(16), HOLDER: b"\x01" * 16, LITERAL: b"\x01" * 16}
    theirs = {"main.main": bytes(16), HOLDER: b"\x02" * 16, LITERAL: b"\x02" * 16}
    found = compare(tmp_path, ours, theirs)
    assert found.functions == (LITERAL, HOLDER)
    assert not found.moved


def test_what_is_the_same_is_not_named(tmp_path: Path) -> None:
    same = {"main.main": bytes(16), HOLDER: bytes(16)}
    assert compare(tmp_path, same, same).functions == ()


@pytest.mark.parametrize(
    "name",
    ["main.main", f"{HOLDER}2", "k8s.io/client-go/util/cert.NewSelfSignedCACertX", "crypto/x509.f"],
)
def test_any_other_function_that_differs_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(StockDiffers, match=name.rpartition("/")[2]):
        compare(tmp_path, {name: b"\x01" * 16}, {name: b"\x02" * 16})


@pytest.mark.parametrize("names", [("a.a", "b.b", "c.c"), ("b.b", "a.a")])
def test_functions_too_few_too_many_or_in_another_order_are_an_error(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    with pytest.raises(StockDiffers):
        compare(tmp_path, dict.fromkeys(names, bytes(16)), {"a.a": bytes(16), "b.b": bytes(16)})


def word(years: float) -> bytes:
    return struct.pack("<q", int(years * YEAR))


@pytest.mark.parametrize(("ours", "stock"), [(100, 10), (50, 1), (50, 10)])
def test_a_lifetime_among_the_data_may_differ(tmp_path: Path, ours: int, stock: int) -> None:
    same = {"main.main": bytes(16)}
    data = (bytes(16) + word(ours) + bytes(8), bytes(16) + word(stock) + bytes(8))
    assert compare(tmp_path, same, same, data=data).functions == ()


@pytest.mark.parametrize(("ours", "stock"), [(99, 10), (100, 9), (100.001, 10), (0, 10)])
def test_any_other_data_that_differs_is_an_error(tmp_path: Path, ours: float, stock: int) -> None:
    same = {"main.main": bytes(16)}
    data = (bytes(16) + word(ours) + bytes(8), bytes(16) + word(stock) + bytes(8))
    with pytest.raises(StockDiffers, match="rodata"):
        compare(tmp_path, same, same, data=data)


def call_x86(at: int, target: int) -> bytes:
    return b"\xe8" + struct.pack("<i", target - (at + 5)) + b"\xc3" * 11


def call_arm64(at: int, target: int) -> bytes:
    return struct.pack("<I", 0x94000000 | (target - at) // 4 & 0x3FFFFFF) + b"\x1f\x20\x03\xd5" * 3


CALLS = {"amd64": call_x86, "arm64": call_arm64}


def calling(arch: str, holder: bytes, callee: int) -> dict[str, bytes]:
    """Return a caller, a holder of some size, and two functions behind it; one is called."""
    target = BASE + 16 + len(holder) + 16 * callee
    return {
        "main.main": CALLS[arch](BASE, target),
        HOLDER: holder,
        "main.one": b"\x90" * 16,
        "main.two": b"\x91" * 16,
    }


@pytest.mark.parametrize("arch", CALLS)
def test_where_the_linker_moved_something_calls_must_lead_to_the_same(
    tmp_path: Path, arch: str
) -> None:
    ours = calling(arch, b"\x01" * 80, 0)
    found = compare(tmp_path, ours, calling(arch, b"\x02" * 32, 0), arch)
    assert found.functions == (HOLDER,)
    assert found.moved
    with pytest.raises(StockDiffers, match=r"main\.main"):
        compare(tmp_path, ours, calling(arch, b"\x02" * 32, 1), arch)


def test_an_architecture_that_is_not_seen_through_is_an_error_where_something_moved(
    tmp_path: Path,
) -> None:
    ours, theirs = ({"a.a": bytes([n] * 16)} for n in (1, 2))
    with pytest.raises(StockDiffers):
        compare(tmp_path, ours, theirs, "ppc64le")


def load(at: int, address: int) -> bytes:
    """Return `MOVQ address(PC), AX` at an address."""
    return b"\x48\x8b\x05" + struct.pack("<i", address - (at + 7)) + b"\xc3" * 9


def test_where_data_moved_what_code_reads_must_be_the_same(tmp_path: Path) -> None:
    rodata = BASE + 16  # sections follow one another
    number = struct.pack("<d", 2.5)
    theirs = word(10) + word(1) + number + bytes(40)
    ours = word(100) + number + bytes(48)
    code = [{"main.main": load(BASE, rodata + at)} for at in (8, 16)]
    found = compare(tmp_path, code[0], code[1], data=(ours, theirs))
    assert found.moved
    other = word(100) + struct.pack("<d", 2.75) + bytes(48)
    with pytest.raises(StockDiffers, match=r"main\.main"):
        compare(tmp_path, code[0], code[1], data=(other, theirs))


def test_where_code_moved_gos_digest_of_it_may_differ(tmp_path: Path) -> None:
    data, fips = (bytes(64), bytes(80)), (b"\x01" * 64, b"\x02" * 64)
    digest = [BASE + 16 + len(each) + 16 for each in data]
    ours, theirs = ({"main.main": load(BASE, at)} for at in digest)
    found = compare(tmp_path, ours, theirs, data=data, fips=fips)
    assert (found.functions, found.moved) == ((), True)
    theirs = {"main.main": load(BASE, digest[1] + 8)}
    with pytest.raises(StockDiffers, match=r"main\.main"):
        compare(tmp_path, ours, theirs, data=data, fips=fips)
