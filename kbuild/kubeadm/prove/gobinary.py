"""Read what Go writes into a stripped binary: the build info and the table of functions.

Formats: src/debug/buildinfo/buildinfo.go and src/debug/gosym/pclntab.go of Go 1.25.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from elftools.elf.constants import SH_FLAGS

from kbuild.kubeadm.prove.elf import Content, Elf, opened

_INFO_MAGIC = b"\xff Go buildinf:"
_INLINE = 2  # flag: the strings follow, since Go 1.18
_SENTINEL = 16  # bytes around the module text
_GO_1_16, _GO_1_18, _GO_1_20 = 0xFFFFFFFA, 0xFFFFFFF0, 0xFFFFFFF1
_GO_1_2 = 0xFFFFFFFB
_HEADER = 8
_DEP_FIELDS = 2  # path and version
# Far above any Kubernetes binary; a hostile one must not decide how much memory is used.
_MAX_FUNCTIONS = 500_000
_MAX_INFO = 4 * 1024 * 1024  # bytes of build info


class Module(NamedTuple):
    """A module and its version; ``local`` is the directory of the main module that replaces it."""

    path: str
    version: str
    local: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    """The build info of a binary: ``go_version`` without ``go``, and the modules in it, if any.

    Before Go 1.13 there is none, and a build in GOPATH mode names no modules.
    """

    go_version: str = ""
    modules: tuple[Module, ...] = ()


class Section(NamedTuple):
    """A section of an ELF file; ``data`` is empty if the section has no bytes in the file."""

    name: str
    address: int
    size: int
    data: bytes
    little: bool


class Function(NamedTuple):
    """A function's symbol name, its address, and its code up to where the next one begins."""

    name: str
    address: int
    code: bytes

    @property
    def package(self) -> str:
        """Return the import path of its package: ``k8s.io/client-go/util/cert``."""
        return package_of(self.name)


def package_of(symbol: str) -> str:
    """Return the import path of a symbol; the linker writes dots in its last part as %2e."""
    folder, slash, rest = symbol.partition("[")[0].rpartition("/")
    return (folder + slash + rest.partition(".")[0]).replace("%2e", ".")


def read_build_info(binary: Content) -> BuildInfo:
    """Return the build info of a Go binary, empty if it has none.

    Raises WrongBinary when it is no ELF file or its build info is damaged.
    """
    with opened(binary) as elf:
        section = elf.section(".go.buildinfo")
        if section is None:
            return BuildInfo()
        if section.size > _MAX_INFO:
            _fail("its build info is too large")
        data = elf.data(section)
        if not data.startswith(_INFO_MAGIC):
            _fail("its build info is damaged")
        size, flags = data[14], data[15]
        if flags & _INLINE:
            go_version, rest = _counted(data[32:])
            modules, _ = _counted(rest)
        else:
            go_version, modules = (
                _string(elf, _word(elf, data[16 + at * size :], size), size) for at in (0, 1)
            )
    text = modules[_SENTINEL:-_SENTINEL].decode(errors="replace")
    words = go_version.decode(errors="replace").split()
    return BuildInfo(
        go_version=words[0].removeprefix("go") if words else "", modules=tuple(_modules(text))
    )


def read_functions(binary: Content) -> tuple[Function, ...]:
    """Return the functions of a Go binary in the order of their addresses.

    Raises WrongBinary when it is no ELF file, or not one of Go 1.2 to 1.26.
    """
    with opened(binary) as elf:
        table, text = elf.section(".gopclntab"), elf.section(".text")
        if table is None or text is None:
            _fail("it has no table of Go functions")
        data, code, base = elf.data(table), elf.data(text), text.address
        try:
            entries = list(_entries(data, "<" if elf.little_endian else ">", base))
        except (struct.error, ValueError) as error:
            _fail(f"its function table is damaged: {error}")
        ends = [address for _, address in entries[1:]] + [base + len(code)]
        if any(end < address for (_, address), end in zip(entries, ends, strict=True)):
            _fail("its function table is not in the order of addresses")
    return tuple(
        Function(name, address, code[address - base : end - base])
        for (name, address), end in zip(entries, ends, strict=True)
    )


def read_sections(binary: Content) -> tuple[Section, ...]:
    """Return the sections that are loaded, in the order of their addresses.

    Raises WrongBinary when it is no ELF file, or its sections overlap.
    """
    with opened(binary) as elf:
        loaded = [s for s in elf.sections if s.flags & SH_FLAGS.SHF_ALLOC]
        if sum(section.size for section in loaded if section.in_file) > elf.file_size:
            _fail("its sections overlap")
        found = [Section(s.name, s.address, s.size, elf.data(s), elf.little_endian) for s in loaded]
    return tuple(sorted(found, key=lambda section: section.address))


def replacement(module: Module, path: str, version: str) -> Module:
    """Return the replacement of a module: another module, or a directory of the main module."""
    if path.startswith("./"):
        return module._replace(local=path)
    return Module(path, version)


def _fail(reason: str) -> NoReturn:
    raise ValueError(reason)


def _modules(text: str) -> Iterator[Module]:
    found: Module | None = None
    for line in text.splitlines():
        kind, *fields = line.split("\t")
        if kind == "dep" and len(fields) >= _DEP_FIELDS:
            if found is not None:
                yield found
            found = Module(fields[0], fields[1])
        elif kind == "=>" and found is not None and len(fields) >= _DEP_FIELDS:
            found = replacement(found, *fields[:_DEP_FIELDS])
    if found is not None:
        yield found


def _counted(data: bytes) -> tuple[bytes, bytes]:
    """Return the bytes whose number a varint gives, and the rest."""
    length = shift = at = 0
    while True:
        length |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:  # noqa: PLR2004  # the last byte of a varint
            return data[at : at + length], data[at + length :]


def _string(elf: Elf, header: int, size: int) -> bytes:
    """Return the Go string whose header (address, length) is at an address."""
    if header == 0:
        return b""
    pair = _at(elf, header, 2 * size)
    return _at(elf, _word(elf, pair, size), _word(elf, pair[size:], size))


def _at(elf: Elf, address: int, length: int) -> bytes:
    for segment in elf.segments:
        end = segment.address + segment.size
        if segment.kind == "PT_LOAD" and segment.address <= address < end:
            if length > _MAX_INFO:
                _fail("its build info is too large")
            offset = segment.offset + address - segment.address
            return elf.read(offset, min(length, end - address))
    return b""


def _word(elf: Elf, data: bytes, size: int) -> int:
    return int.from_bytes(data[:size], "little" if elf.little_endian else "big")


def _entries(data: bytes, order: str, base: int) -> Iterator[tuple[str, int]]:
    """Yield name and address of each function of a pclntab; ``base`` is where the code begins."""
    (magic,) = struct.unpack_from(f"{order}I", data)
    table = _FunctionTable(data, order)
    if magic in (_GO_1_18, _GO_1_20):
        return table.offsets(base)
    if magic in (_GO_1_2, _GO_1_16):
        return table.addresses(has_names=magic == _GO_1_16)
    message = f"magic {magic:#x}"
    raise ValueError(message)


class _FunctionTable:
    """A pclntab, whose layout changed with Go 1.16 and 1.18."""

    def __init__(self, data: bytes, order: str) -> None:
        self._data, self._order = data, order
        self._word = "Q" if data[7] == 8 else "I"  # noqa: PLR2004  # bytes in a pointer
        self._names: dict[int, str] = {}
        self._left = len(data)

    def offsets(self, base: int) -> Iterator[tuple[str, int]]:
        """Yield the functions of a table that holds offsets from the start of the code."""
        # Since Go 1.26 the table no longer names that start.
        count, _, start, names, _, _, _, table = self._words(_HEADER, 8)
        for at in range(_checked(count)):
            offset, about = struct.unpack_from(f"{self._order}2I", self._data, table + 8 * at)
            yield self._name(names, table + about + 4), (start or base) + offset

    def addresses(self, *, has_names: bool) -> Iterator[tuple[str, int]]:
        """Yield the functions of a table that holds addresses, and since Go 1.16 its own names."""
        size = struct.calcsize(self._word)
        if has_names:
            count, _, names, _, _, _, table = self._words(_HEADER, 7)
            entries = table
        else:
            (count,) = self._words(_HEADER, 1)
            names, table, entries = 0, 0, _HEADER + size
        for at in range(_checked(count)):
            address, about = self._words(entries + 2 * size * at, 2)
            yield self._name(names, table + about + size), address

    def _words(self, at: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"{self._order}{count}{self._word}", self._data, at)

    def _name(self, names: int, field: int) -> str:
        """Return the name whose offset in ``names`` is in a field of the table."""
        (offset,) = struct.unpack_from(f"{self._order}i", self._data, field)
        at = names + offset
        # Names do not overlap; if they did, a small table could hold any number of long ones.
        if at not in self._names:
            end = self._data.index(b"\0", at, at + self._left)
            self._names[at] = self._data[at:end].decode()
            self._left -= len(self._names[at])
        return self._names[at]


def _checked(count: int) -> int:
    if count > _MAX_FUNCTIONS:
        _fail(f"{count} functions, the limit is {_MAX_FUNCTIONS}")
    return count
