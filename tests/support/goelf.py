"""Small ELF files as Go's linker makes them: functions, a table of them, data and build info."""

import struct
from collections.abc import Mapping
from pathlib import Path

from kbuild.base.arches import ARCHES

ELF_MACHINES = {"amd64": 62, "arm64": 183, "arm": 40, "ppc64le": 21, "s390x": 22}
BASE = 0x400000
MODULES = (
    "path\tk8s.io/kubernetes/cmd/kubeadm\n"
    "mod\tk8s.io/kubernetes\t(devel)\t\n"
    "dep\tgithub.com/spf13/cobra\tv1.1.1\t\n"
    "dep\tgithub.com/PuerkitoBio/purell\tv1.1.0\n=>\tgithub.com/PuerkitoBio/purell\tv1.1.1\t\n"
    "dep\tk8s.io/client-go\tv0.0.0\n=>\t./staging/src/k8s.io/client-go\t(devel)\t\n"
)
FUNCTIONS = {
    "main.main": b"\x90" * 16,
    "k8s.io/client-go/util/cert.NewSelfSignedCACert": b"\x48" * 16,
    "k8s.io/kubernetes/vendor/github.com/spf13/cobra.(*Command).Execute": b"\x50" * 32,
    "k8s.io/kubernetes/vendor/gopkg.in/yaml%2ev2.Unmarshal": b"\x51" * 16,
}


def write_go_elf(
    path: Path,
    functions: Mapping[str, bytes] = FUNCTIONS,
    *,
    arch: str = "amd64",
    go_version: str = "1.15.15",
    modules: str = MODULES,
    rodata: bytes = bytes(64),
    pclntab: str = "1.20",
    fips: bytes = b"",
) -> Path:
    """Write an executable whose sections lie one after the other, and return its path.

    ``fips`` is Go's digest of its FIPS code, of Go 1.24 and later.
    """
    assert arch in ARCHES
    text = b"".join(functions.values())
    entries, at = [], BASE
    for name, code in functions.items():
        entries.append((name, at))
        at += len(code)
    sections = [
        (".text", 6, text),
        (".rodata", 2, rodata),
        *([(".go.fipsinfo", 3, fips)] if fips else []),
        (".gopclntab", 2, _pclntab(entries, pclntab)),
        (".go.buildinfo", 3, _build_info(go_version, modules)),
        (".note.go.buildid", 2, text[:4]),
    ]
    path.write_bytes(_elf(sections, ELF_MACHINES[arch]))
    path.chmod(0o755)
    return path


def _build_info(go_version: str, modules: str) -> bytes:
    text = b"0" * 16 + modules.encode() + b"1" * 16 if modules else b""
    counted = b"".join(_varint(len(t)) + t for t in (f"go{go_version}".encode(), text))
    return b"\xff Go buildinf:" + bytes([8, 2]) + bytes(16) + counted


def _varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _pclntab(entries: list[tuple[str, int]], form: str) -> bytes:
    names, offsets = b"", []
    for name, _ in entries:
        offsets.append(len(names))
        names += name.encode() + b"\0"
    count = len(entries)
    if form in ("1.18", "1.20", "1.26"):
        magic = 0xFFFFFFF0 if form == "1.18" else 0xFFFFFFF1
        header = 8 + 8 * 8
        table = header + len(names)
        start = 0 if form == "1.26" else BASE
        head = struct.pack("<I4B8Q", magic, 0, 0, 1, 8, count, 0, start, header, 0, 0, 0, table)
        begin = 8 * count + 4
        index = [(address - BASE, begin + 8 * n) for n, (_, address) in enumerate(entries)]
        body = b"".join(struct.pack("<2I", *pair) for pair in index) + bytes(4)
        about = [struct.pack("<Ii", index[n][0], offsets[n]) for n in range(count)]
        return head + names + body + b"".join(about)
    if form == "1.16":
        header = 8 + 8 * 7
        table = header + len(names)
        head = struct.pack("<I4B7Q", 0xFFFFFFFA, 0, 0, 1, 8, count, 0, header, 0, 0, 0, table)
        begin, base = 16 * count + 8, 0
    else:
        head, base = struct.pack("<I4BQ", 0xFFFFFFFB, 0, 0, 1, 8, count), 0
        begin = len(head) + 16 * count + 8
        base = begin + 12 * count
    index = [(address, begin + 12 * n) for n, (_, address) in enumerate(entries)]
    body = b"".join(struct.pack("<2Q", *pair) for pair in index) + bytes(8)
    about = [struct.pack("<Qi", index[n][0], base + offsets[n]) for n in range(count)]
    return head + (names if form == "1.16" else b"") + body + b"".join(about) + names


def _elf(sections: list[tuple[str, int, bytes]], machine: int) -> bytes:
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in sections) + b".shstrtab\0"
    header = 64 + 56
    body, headers, at = b"", [bytes(64)], BASE
    for name, flags, data in sections:
        where = names.index(b"\0" + name.encode() + b"\0") + 1
        headers.append(
            struct.pack("<2I4Q2I2Q", where, 1, flags, at, header + len(body), len(data), 0, 0, 8, 0)
        )
        body += data + bytes(-len(data) % 16)
        at += len(data) + -len(data) % 16
    where = names.index(b".shstrtab")
    headers.append(
        struct.pack("<2I4Q2I2Q", where, 3, 0, 0, header + len(body), len(names), 0, 0, 1, 0)
    )
    body += names
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = ident + struct.pack(
        *("<2HI3QI6H", 2, machine, 1, BASE, 64, header + len(body), 0),
        *(64, 56, 1, 64, len(headers), len(headers) - 1),
    )
    size = len(body)
    load = struct.pack("<2I6Q", 1, 5, header, BASE, BASE, size, size, 16)
    return head + load + body + b"".join(headers)
