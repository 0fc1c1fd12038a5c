"""The architectures that Kubernetes is released for, and their names in other programs."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names of one architecture in uname, ELF files, qemu-user and packages.

    ``big_endian`` is the byte order of its ELF files. Source of the names in packages:
    kubernetes/release, pkg/obs/specs/pkgdef.go.
    """

    machine: str
    elf: str
    qemu: str
    deb: str
    rpm: str
    big_endian: bool = False


# The keys are Go's names.
ARCHES: Mapping[str, Names] = {
    "amd64": Names(machine="x86_64", elf="EM_X86_64", qemu="x86_64", deb="amd64", rpm="x86_64"),
    "arm64": Names(machine="aarch64", elf="EM_AARCH64", qemu="aarch64", deb="arm64", rpm="aarch64"),
    "arm": Names(machine="armv7l", elf="EM_ARM", qemu="arm", deb="armhf", rpm="armv7hl"),
    "ppc64le": Names(
        machine="ppc64le", elf="EM_PPC64", qemu="ppc64le", deb="ppc64el", rpm="ppc64le"
    ),
    "s390x": Names(
        machine="s390x", elf="EM_S390", qemu="s390x", deb="s390x", rpm="s390x", big_endian=True
    ),
}
