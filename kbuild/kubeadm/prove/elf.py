"""Check a binary without running it.

The binary may be hostile, so it must not decide how much is read or allocated. pyelftools is used
only for the layout of the headers: its section objects decompress data, fill NOBITS sections with
zeros, and parse hash tables and notes with the sizes that the file claims.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.constants import SH_FLAGS
from elftools.elf.structs import ELFStructs

from kbuild.base.arches import ARCHES
from kbuild.base.files import open_file, reason_of
from kbuild.kubeadm.prove.errors import WrongBinary

_IDENT = 16
_MAX_HEADERS = 1000  # Go's linker writes about 10 segments and 30 sections
_MAX_NAMES = 64 * 1024  # bytes of all section names

Content = Path | bytes  # a file, or its content


class _NotElf(ELFError):
    """The file does not begin like an ELF file."""


class Segment(NamedTuple):
    """A segment of an ELF file; ``offset`` and ``size`` are those in the file."""

    kind: str
    address: int
    offset: int
    size: int


class Section(NamedTuple):
    """A section header of an ELF file; ``in_file`` is False if it has no bytes in the file."""

    name: str
    address: int
    offset: int
    size: int
    flags: int
    in_file: bool


class Elf:
    """The headers of an ELF file, and the bytes of its sections; raises ELFError or ValueError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.file_size = file.seek(0, io.SEEK_END)
        ident = self.read(0, min(_IDENT, self.file_size))
        if ident[:4] != b"\x7fELF" or ident[4:5] not in (b"\1", b"\2") or len(ident) != _IDENT:
            message = "it does not begin like one"
            raise _NotElf(message)
        self.little_endian = ident[5] == 1
        self._structs = ELFStructs(self.little_endian, 32 * ident[4])
        self._structs.create_basic_structs()
        header = struct_parse(self._structs.Elf_Ehdr, file, 0)
        self._structs.create_advanced_structs(header["e_type"], header["e_machine"])
        self.machine, self.kind = str(header["e_machine"]), str(header["e_type"])
        self.segments = tuple(self._segments(header))
        self.sections = tuple(self._sections(header))

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file; raises ValueError if they are beyond its end."""
        if offset + size > self.file_size:
            message = "a part of it lies beyond its end"
            raise ValueError(message)
        self._file.seek(offset)
        return self._file.read(size)

    def data(self, section: Section) -> bytes:
        """Return the bytes of a section, which are never decompressed; raises ValueError."""
        if section.flags & SH_FLAGS.SHF_COMPRESSED:
            message = f"its section {section.name} is compressed"
            raise ValueError(message)
        return self.read(section.offset, section.size) if section.in_file else b""

    def section(self, name: str) -> Section | None:
        """Return the first section with this name."""
        return next((section for section in self.sections if section.name == name), None)

    def _segments(self, header: Any) -> Iterator[Segment]:  # noqa: ANN401  # construct's own
        for each in self._headers(self._structs.Elf_Phdr, header, "e_ph"):
            yield Segment(str(each["p_type"]), each["p_vaddr"], each["p_offset"], each["p_filesz"])

    def _sections(self, header: Any) -> Iterator[Section]:  # noqa: ANN401  # construct's own
        found = list(self._headers(self._structs.Elf_Shdr, header, "e_sh"))
        if not found:
            return
        table = found[header["e_shstrndx"]]
        names = self.read(table["sh_offset"], min(table["sh_size"], _MAX_NAMES))
        for each in found:
            name = names[each["sh_name"] :].partition(b"\0")[0].decode(errors="replace")
            in_file = each["sh_type"] != "SHT_NOBITS"
            place = each["sh_addr"], each["sh_offset"], each["sh_size"]
            yield Section(name, *place, each["sh_flags"], in_file)

    def _headers(self, layout: Any, header: Any, prefix: str) -> Iterator[Any]:  # noqa: ANN401
        start, size, count = (header[prefix + name] for name in ("off", "entsize", "num"))
        if count > _MAX_HEADERS:
            message = f"it has {count} headers of a kind, the limit is {_MAX_HEADERS}"
            raise ValueError(message)
        if start + size * count > self.file_size:
            message = "its headers lie beyond its end"
            raise ELFError(message)
        for at in range(count):
            yield struct_parse(layout, self._file, start + at * size)


@contextlib.contextmanager
def opened(binary: Content) -> Iterator[Elf]:
    """Open an ELF file; errors in the block become WrongBinary."""
    path = binary if isinstance(binary, Path) else "the binary"
    try:
        with open_file(binary) if isinstance(binary, Path) else io.BytesIO(binary) as file:
            yield Elf(file)
    except OSError as error:
        raise WrongBinary(path=path, reason=reason_of(error)) from error
    except _NotElf as error:
        raise WrongBinary(path=path, reason="it is not an ELF file, so not a program") from error
    except ELFError as error:
        raise WrongBinary(path=path, reason=f"it is a damaged ELF file: {error}") from error
    except (ValueError, LookupError) as error:
        raise WrongBinary(path=path, reason=str(error)) from error


def read_arch(binary: Content) -> str:
    """Return the architecture of a static Linux executable, as Go names it.

    Raises WrongBinary if it is not an ELF file, is dynamic, or has an unknown machine.
    """
    with opened(binary) as elf:
        machine = elf.machine, not elf.little_endian
        known = {(names.elf, names.big_endian): arch for arch, names in ARCHES.items()}
        if machine not in known:
            order = "little" if elf.little_endian else "big"
            message = f"its machine is {elf.machine}, {order}-endian"
            raise ValueError(message)
        kinds = {segment.kind for segment in elf.segments}
        if "PT_INTERP" in kinds or ("PT_DYNAMIC" in kinds and elf.kind == "ET_EXEC"):
            message = "it is dynamically linked"
            raise ValueError(message)
        if elf.kind == "ET_DYN":
            message = "it is a position-independent executable, or a shared library"
            raise ValueError(message)
        if elf.kind != "ET_EXEC":
            message = f"it is not an executable, its ELF type is {elf.kind}"
            raise ValueError(message)
    return known[machine]
