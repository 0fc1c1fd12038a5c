"""What can be said of a binary without running it."""

from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from kbuild.errors import WrongBinary

MACHINES = {
    "EM_X86_64": "amd64",
    "EM_AARCH64": "arm64",
    "EM_ARM": "arm",
    "EM_PPC64": "ppc64le",
    "EM_S390": "s390x",
}
_BIG_ENDIAN = ("s390x",)


def read_arch(path: Path) -> str:
    """Return the architecture of a static Linux executable, in Go's words.

    Raises WrongBinary when it is no ELF file, dynamic, or of a machine that kbuild does not know.
    """
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            machine, kind = elf["e_machine"], elf["e_type"]
            little = elf.little_endian
            dynamic = any(s["p_type"] in ("PT_INTERP", "PT_DYNAMIC") for s in elf.iter_segments())
    except ELFError as error:
        raise WrongBinary(path=path, reason="it is no ELF file") from error
    arch = MACHINES.get(machine)
    if arch is None or little == (arch in _BIG_ENDIAN):
        raise WrongBinary(path=path, reason=f"its machine is {machine}")
    if kind != "ET_EXEC":
        raise WrongBinary(path=path, reason=f"its ELF type is {kind}, not ET_EXEC")
    if dynamic:
        raise WrongBinary(path=path, reason="it is dynamically linked")
    return arch
