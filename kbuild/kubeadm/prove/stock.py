"""Compare a patched binary with the stock one: only functions that hold lifetimes may differ.

Both are built the same way, so most of the time everything has the same address in both, and a
comparison of bytes is enough. If the linker has moved something (equal lifetimes of CA and leaf are
one constant instead of two), addresses in the code differ too. Then each address that differs must
refer to the same function or the same data in both. (An address with the same value whose target
has moved is not noticed: that would need a disassembler.)
"""

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from kbuild.base.words import shortened
from kbuild.kubeadm.model import Binary, ProvenBinary, StockDifference
from kbuild.kubeadm.patching.series import series_for
from kbuild.kubeadm.prove.errors import StockDiffers
from kbuild.kubeadm.prove.gobinary import Function, Section, read_functions, read_sections

_VENDOR = "k8s.io/kubernetes/vendor/"
_TEXT = ".text"
# The linker's digest of its inputs.
_BUILD_IDS = (".note.go.buildid", ".note.gnu.build-id")
# The digest of the FIPS code in binaries of Go 1.24 and later, which covers addresses. Source:
# cmd/link/internal/ld/fips140.go of go1.24.
_FIPS_INFO = ".go.fipsinfo"
MOST_SHOWN = 5  # symbols that an error names
_DEPTH = 3  # pointers that are followed to compare two places
_WORD = 8
_RUN = re.compile(rb"[^\0]+")
# The arm64 instructions with addresses, without their operands: B and BL; ADRP and the instruction
# that adds the rest of the address.
_BRANCH, _ADRP, _LOAD_OR_STORE, _ADD = 0x14000000, 0x90000000, 0x39000000, 0x11000000
_X86_IMMEDIATES = (0, 1, 2, 4)  # bytes that may follow an address within an instruction


def against_stock(proven: ProvenBinary, stock: Binary) -> ProvenBinary:
    """Return the binary with its difference from the stock binary in the proof.

    Raises StockDiffers if anything else differs than lifetimes and functions that hold them.
    """
    patched = proven.binary
    pair = _Pair.of(patched, stock)
    differing, moved = pair.functions()
    series = series_for(patched.tree.source.version)
    holders = tuple(holder for one in series for holder in one.holders)
    unexpected = [name for name in differing if not _is_holder(name, holders)]
    if not moved:
        unexpected += pair.differing_sections()
    if unexpected:
        raise StockDiffers(arch=patched.arch, symbols=shortened(unexpected, MOST_SHOWN))
    difference = StockDifference(stock_sha256=stock.sha256, functions=tuple(differing), moved=moved)
    return replace(proven, proof=replace(proven.proof, against_stock=difference))


def differing_functions(ours: Path, theirs: Path, arch: str) -> tuple[str, ...]:
    """Return the functions whose code differs between two binaries, ignoring addresses.

    Raises WrongBinary.
    """
    none: frozenset[int] = frozenset()
    pair = _Pair(arch=arch, ours=_Image.of(ours), theirs=_Image.of(theirs), lifetimes=(none, none))
    return tuple(pair.functions()[0])


def _is_holder(name: str, holders: tuple[str, ...]) -> bool:
    # A function literal is named after the function that contains it: F.func1
    bare = name.removeprefix(_VENDOR)
    return any(bare == holder or bare.startswith(f"{holder}.") for holder in holders)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    sections: tuple[Section, ...]
    functions: tuple[Function, ...]
    starts: tuple[int, ...]
    function_starts: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> "_Image":
        sections, functions = read_sections(path), read_functions(path)
        return cls(
            sections=sections,
            functions=functions,
            starts=tuple(section.address for section in sections),
            function_starts=tuple(function.address for function in functions),
        )

    def section_at(self, address: int) -> Section | None:
        index = bisect_right(self.starts, address) - 1
        section = self.sections[index] if index >= 0 else None
        return section if section and address <= section.address + section.size else None

    def function_at(self, address: int) -> tuple[int, int]:
        index = bisect_right(self.function_starts, address) - 1
        return index, address - self.function_starts[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """The patched binary (``ours``) and the stock one, with their lifetimes in nanoseconds."""

    arch: str
    ours: _Image
    theirs: _Image
    lifetimes: tuple[frozenset[int], frozenset[int]]

    @classmethod
    def of(cls, patched: Binary, stock: Binary) -> "_Pair":
        return cls(
            arch=patched.arch,
            ours=_Image.of(patched.path),
            theirs=_Image.of(stock.path),
            lifetimes=(_nanoseconds(patched), _nanoseconds(stock)),
        )

    def functions(self) -> tuple[list[str], bool]:
        """Return the functions whose code differs, and whether addresses in other functions do."""
        names = [[f.name for f in image.functions] for image in (self.ours, self.theirs)]
        if names[0] != names[1]:
            return sorted(set(names[0]) ^ set(names[1])) or ["the order of functions"], False
        moved = self.ours.function_starts != self.theirs.function_starts
        differing = []
        for ours, theirs in zip(self.ours.functions, self.theirs.functions, strict=True):
            if ours.code != theirs.code:
                if self._differ_in_addresses(ours, theirs):
                    moved = True
                else:
                    differing.append(ours.name)
        return sorted(differing), moved

    def differing_sections(self) -> list[str]:
        """Return the sections that differ in more than lifetimes, if nothing has moved."""
        theirs = {section.name: section for section in self.theirs.sections}
        skipped = (_TEXT, *_BUILD_IDS)
        return [
            section.name
            for section in self.ours.sections
            if section.name not in skipped
            and (other := theirs.get(section.name)) != section
            and not (other and self._differ_in_lifetimes(section, other))
        ]

    def _differ_in_lifetimes(self, ours: Section, theirs: Section) -> bool:
        if (ours.address, len(ours.data)) != (theirs.address, len(theirs.data)):
            return False
        words = {begin // _WORD for begin, _ in _runs(ours.data, theirs.data)}
        words |= {(end - 1) // _WORD for _, end in _runs(ours.data, theirs.data)}
        return all(
            self._are_lifetimes(_word_at(ours, at * _WORD), _word_at(theirs, at * _WORD))
            for at in words
        )

    def _are_lifetimes(self, ours: bytes, theirs: bytes) -> bool:
        return self._word(ours) in self.lifetimes[0] and self._word(theirs) in self.lifetimes[1]

    def _word(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.ours.sections[0].little else "big")

    def _differ_in_addresses(self, ours: Function, theirs: Function) -> bool:
        if len(ours.code) != len(theirs.code):
            # Only the padding before the next function may have another length.
            size = min(len(ours.code), len(theirs.code))
            rests = ours.code[size:] + theirs.code[size:]
            if set(rests) - _padding(self.arch):
                return False
            ours, theirs = (f._replace(code=f.code[:size]) for f in (ours, theirs))
        match self.arch:
            case "amd64":
                return self._differ_in_x86_addresses(ours, theirs)
            case "arm64":
                return self._differ_in_arm64_addresses(ours, theirs)
            case _:
                return False

    def _differ_in_x86_addresses(self, ours: Function, theirs: Function) -> bool:
        seen = 0
        for begin, end in _runs(ours.code, theirs.code):
            if end <= seen:
                continue
            for start in range(max(0, end - 4, seen), begin + 1):
                if start + 4 <= len(ours.code) and self._is_x86_address(ours, theirs, start):
                    seen = start + 4
                    break
            else:
                return False
        return True

    def _is_x86_address(self, ours: Function, theirs: Function, start: int) -> bool:
        places = [
            function.address + start + 4 + struct.unpack_from("<i", function.code, start)[0]
            for function in (ours, theirs)
        ]
        return any(self._same_place(places[0] + n, places[1] + n) for n in _X86_IMMEDIATES)

    def _differ_in_arm64_addresses(self, ours: Function, theirs: Function) -> bool:
        count = len(ours.code) // 4
        codes = [struct.unpack(f"<{count}I", f.code[: count * 4]) for f in (ours, theirs)]
        for at in range(count):
            if codes[0][at] == codes[1][at]:
                continue
            first = at - 1 if at and _is_adrp(codes[0][at - 1]) else at
            place, other = (
                _arm64_place(function.address + 4 * first, code[first : first + 2])
                for function, code in zip((ours, theirs), codes, strict=True)
            )
            if place is None or other is None or not self._same_place(place, other):
                return False
        return True

    def _same_place(self, ours: int, theirs: int, depth: int = _DEPTH) -> bool:
        a, b = self.ours.section_at(ours), self.theirs.section_at(theirs)
        if a is None or b is None or a.name != b.name:
            return False
        if a.name == _TEXT:
            return self.ours.function_at(ours) == self.theirs.function_at(theirs)
        if not a.data:
            return True
        if a.name == _FIPS_INFO:
            return ours - a.address == theirs - b.address
        word, other = _word_at(a, ours - a.address), _word_at(b, theirs - b.address)
        if word == other or self._are_lifetimes(word, other):
            return True
        return depth > 0 and self._same_place(self._word(word), self._word(other), depth - 1)


def _word_at(section: Section, offset: int) -> bytes:
    return section.data[offset : offset + _WORD]


def _runs(ours: bytes, theirs: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each run of bytes that differ; both have the same length."""
    size = len(ours)
    both = int.from_bytes(ours, "big") ^ int.from_bytes(theirs, "big")
    for run in _RUN.finditer(both.to_bytes(size, "big")):
        yield run.span()


def _padding(arch: str) -> set[int]:
    return {0xCC} if arch == "amd64" else {0}


def _is_adrp(word: int) -> bool:
    return word & 0x9F000000 == _ADRP


def _arm64_place(address: int, words: tuple[int, ...]) -> int | None:
    """Return the target of a branch, or of an ADRP and the next instruction, or None."""
    word = words[0]
    if word & 0x7C000000 == _BRANCH:
        return address + 4 * _signed(word & 0x3FFFFFF, 26)
    if not _is_adrp(word) or len(words) < 2:  # noqa: PLR2004  # the pair
        return None
    page = _signed((word >> 29 & 3) | (word >> 5 & 0x7FFFF) << 2, 21)
    offset = words[1] >> 10 & 0xFFF
    if (
        words[1] & 0x3B000000 == _LOAD_OR_STORE
    ):  # a load or store: its offset counts in its own size
        vector = words[1] >> 26 & 1 and words[1] >> 23 & 1
        offset <<= 4 if vector else words[1] >> 30
    elif words[1] & 0x7F800000 != _ADD:
        return None
    return (address & ~0xFFF) + (page << 12) + offset


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _nanoseconds(binary: Binary) -> frozenset[int]:
    lifetimes = binary.tree.lifetimes
    return frozenset(
        span // timedelta(microseconds=1) * 1000 for span in (lifetimes.ca, lifetimes.leaf)
    )
