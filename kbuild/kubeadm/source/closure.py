"""Which files of a tree kubeadm is built from: its import closure.

Of the 22,700 files of v1.20.2, kubeadm's import closure holds some 3,400: nothing else has to be
fetched, kept or packed. What Go would not read is left out by the rules that it has for
file names (https://pkg.go.dev/cmd/go#hdr-File_types and #hdr-Build_constraints); constraints inside
files are not read, so this is rather more than Go will compile, never less.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import resources
from typing import NamedTuple

Read = Callable[[Collection[str]], Mapping[str, bytes]]

ROOT = "cmd/kubeadm"
MODULE = "k8s.io/kubernetes/"
STAGING = "staging/src/"
VENDOR = "vendor/"
LINK = 0o120000  # the mode that git gives a symbolic link; its content is what it points at

# Read by Go itself, or to learn what the tree is and which Go it pins.
_ALWAYS = re.compile(
    r"(go\.(mod|sum|work|work\.sum)|\.go-version|vendor/modules\.txt|Godeps/Godeps\.json"
    r"|staging/src/k8s\.io/[^/]+/go\.(mod|sum)"
    r"|build/dependencies\.yaml|build/build-image/cross/VERSION|hack/lib/version\.sh)"
)
# The SBOM tells the license of what is compiled in.
_LICENSE = re.compile(
    r"((vendor|staging/src/k8s\.io)/([^/]+/)+)?(LICEN[CS]E|COPYING)([.-][^/]*)?", re.IGNORECASE
)
# Where patches/ reads or changes something, or must find no copy.
_PATCHED = (
    "cmd/kubeadm/app/apis/kubeadm/v1beta4/",
    "cmd/kubeadm/app/constants/",
    "cmd/kubeadm/app/util/pkiutil/",
    "staging/src/k8s.io/client-go/util/cert/",
    "vendor/k8s.io/client-go/util/cert/",
)
_OTHER_SYSTEMS = (
    "aix|android|darwin|dragonfly|freebsd|hurd|illumos|ios|js|nacl|netbsd|openbsd|plan9|solaris"
    "|wasip1|windows|zos"
)
_GO_READS = re.compile(r"\.(go|[sS]|sx|c|cc|cpp|cxx|m|h|hh|hpp|hxx|f|F|for|f90|swig|swigcxx|syso)$")
_OTHER_ARCHES = (
    "386|amd64p32|arm64be|armbe|mips|mips64|mips64le|mips64p32|mips64p32le|mipsle|ppc|ppc64|riscv"
    "|riscv64|s390|sparc|sparc64|wasm"
)
_NOT_FOR_US = re.compile(rf"_(test|({_OTHER_SYSTEMS})(_[a-z0-9]+)?|({_OTHER_ARCHES}))\.(go|[sS])$")
_IMPORTS = re.compile(rb"\nimport\s*(?:\((.*?)^\s*\)|(.*?)$)", re.MULTILINE | re.DOTALL)
_PATH = re.compile(rb'^\s*(?:[\w.]+\s+)?"([^"]+)"', re.MULTILINE)


class Closure(NamedTuple):
    """The content of each file that is needed, and the folders of the packages."""

    contents: dict[str, bytes]
    folders: set[str]


def gather(modes: Mapping[str, int], read: Read, likely: Iterable[str] = ()) -> Closure:
    """Read the files that a build of kubeadm needs.

    ``modes`` names everything in the tree; its links are all kept. ``read`` gives the content of
    the files that it is asked for, many at once. It is called as rarely as can be: once for what is
    always needed and the folders that are ``likely`` (no harm if they are not), then once for each
    step further into what is not there yet.
    """
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for name in filter(is_for_go, modes):
        folders[_folder(name)].append(name)
    contents: dict[str, bytes] = {}

    def load(wanted: Iterable[str]) -> None:
        if new := {name for name in wanted if name not in contents}:
            contents.update(read(new))

    needed = {name for name, mode in modes.items() if is_for_kbuild(name, mode)}
    kubeadm = [name for name in modes if name.startswith(f"{ROOT}/") and is_for_go(name)]
    load([*needed, *kubeadm, *(name for folder in likely for name in folders.get(folder, ()))])
    seen: set[str] = set()
    todo = {ROOT}
    while todo:
        here = {f for f in todo if all(name in contents for name in folders[f])}
        if not here:
            load([*needed, *(name for folder in todo for name in folders[folder])])
            here = todo
        seen |= here
        files = [name for folder in here for name in folders[folder]]
        needed.update(files, _embedded(files, contents, modes))
        todo |= {path for name in files for path in _imports(contents[name], folders)}
        todo -= seen
    # All license files come with the first request, but few are of what is compiled in.
    above = _above(seen)
    needed -= {name for name in needed if is_license(name) and _folder(name) not in above}
    load(needed)
    return Closure({name: contents[name] for name in needed}, seen)


def shipped() -> set[str]:
    """Return the folders that the closure of some tag held, of those that kbuild was tried on."""
    text = (
        resources.files("kbuild.kubeadm.source").joinpath("closure.txt").read_text(encoding="utf-8")
    )
    return {line for line in text.splitlines() if not line.startswith("#")}


def is_for_kbuild(name: str, mode: int) -> bool:
    """Return whether kbuild itself reads, patches or follows a file, or needs it to build."""
    return (
        mode == LINK
        or _ALWAYS.fullmatch(name) is not None
        or is_license(name)
        or (name.startswith(_PATCHED) and is_for_go(name))
    )


def is_license(name: str) -> bool:
    """Return whether a file name is that of a license, of the tree or of vendored code."""
    return _LICENSE.fullmatch(name) is not None and not name.endswith(".go")


def is_for_go(name: str) -> bool:
    """Return whether Go would read a file of that name for a Linux of ours, outside of tests."""
    return _GO_READS.search(name) is not None and _NOT_FOR_US.search(name) is None


def _above(folders: Iterable[str]) -> set[str]:
    """Return the folders and all that they are in; the tree itself is empty."""
    found = {""}
    for each in folders:
        folder = each
        while folder not in found:
            found.add(folder)
            folder = _folder(folder)
    return found


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _embedded(
    files: Iterable[str], contents: Mapping[str, bytes], names: Collection[str]
) -> Iterator[str]:
    for file in files:
        if b"//go:embed" in contents[file]:
            inside = f"{_folder(file)}/"
            yield from (name for name in names if name.startswith(inside))


def _imports(content: bytes, folders: Mapping[str, object]) -> Iterator[str]:
    # Looking for the word first is many times faster than the expression is at it.
    start = content.find(b"\nimport")
    while start != -1:
        if match := _IMPORTS.match(content, start):
            for path in _PATH.findall(match[1] or match[2]):
                name = path.decode(errors="replace")
                places = [STAGING + name, VENDOR + name]
                if name.startswith(MODULE):
                    places = [name.removeprefix(MODULE)]
                # What is in none of the places is of Go's own library.
                yield from (place for place in places if place in folders)
        start = content.find(b"\nimport", start + 1)
