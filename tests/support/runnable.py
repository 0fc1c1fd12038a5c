"""A release whose kubeadm for amd64 runs: it prints its version, and ends."""

import random
import struct
from pathlib import Path
from typing import Any
from unittest import mock

from tests.support import releases
from tests.support.goelf import BASE, write_go_elf

PAGE = 4096
VERSION = "v1.20.2"


def make_runnable_release(
    work: Path,
    folder: Path,
    *,
    seed: int = 1,
    padding: int = 0,
    says: str = VERSION,
    **changes: Any,
) -> Path:
    """Publish a release of v1.20.2; ``padding`` are bytes that do not compress.

    ``changes`` are to the request.
    """

    def write(path: Path, **options: Any) -> Path:
        write_go_elf(path, **options)
        if options["arch"] == "amd64":
            path.write_bytes(
                _that_prints(path.read_bytes(), f"{says}\n".encode())
                + random.Random(seed).randbytes(padding + 16)
            )
        return path

    with mock.patch.object(releases, "write_go_elf", write):
        return releases.make_release(work, folder, **changes)


def _that_prints(elf: bytes, text: bytes) -> bytes:
    """Return an ELF file of amd64 that prints a text when it runs, whatever its sections hold."""
    at = -(-len(elf) // PAGE) * PAGE
    code = (
        b"\xb8\x01\0\0\0"  # mov eax, 1 (write)
        b"\xbf\x01\0\0\0"  # mov edi, 1
        b"\x48\x8d\x35" + struct.pack("<i", 16)  # lea rsi, [rip + 16]
        + b"\xba" + struct.pack("<i", len(text))  # mov edx, length
        + b"\x0f\x05"  # syscall
        b"\xb8\x3c\0\0\0\x31\xff\x0f\x05"  # exit(0)
        + text
    )  # fmt: skip
    load = struct.pack("<2I6Q", 1, 5, at, BASE, BASE, len(code), len(code), PAGE)
    return elf[:64] + load + elf[64 + len(load) :].ljust(at - 64 - len(load), b"\0") + code
