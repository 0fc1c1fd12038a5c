"""The import closure of kubeadm: the files of a tree that it is compiled from.

The closure has about 3,400 of the 22,700 files of v1.20.2. Nothing else has to be fetched, kept or
packed. Files that Go ignores are left out by Go's rules for file names
(https://pkg.go.dev/cmd/go#hdr-File_types and #hdr-Build_constraints). Constraints inside files are
not read, so the closure may contain more than Go compiles, never less.
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

# Read by Go itself, or by kbuild to find the version and the pinned Go.
_ALWAYS = re.compile(
    r"(go\.(mod|sum|work|work\.sum)|\.go-version|vendor/modules\.txt|Godeps/Godeps\.json"
    r"|staging/src/k8s\.io/[^/]+/go\.(mod|sum)"
    r"|build/dependencies\.yaml|build/build-image/cross/VERSION|hack/lib/version\.sh)"
)
# The SBOM contains the licenses of compiled packages.
_LICENSE = re.compile(
    r"((vendor|staging/src/k8s\.io)/([^/]+/)+)?(LICEN[CS]E|COPYING)([.-][^/]*)?", re.IGNORECASE
)
# Directories that a patch reads or changes, or that must not contain a copy.
_PATCHED = (
    "cmd/kubeadm/app/apis/kubeadm/scheme/",
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
    """The content of each required file, and the directories of the packages."""

    contents: dict[str, bytes]
    folders: set[str]


def gather(modes: Mapping[str, int], read: Read, likely: Iterable[str] = ()) -> Closure:
    """Read the files that a build of kubeadm needs.

    ``modes`` has every file and link of the tree; all links are kept. ``read`` returns the content
    of many files at once. It is called as rarely as possible: once for the files that are always
    needed and the ``likely`` directories (a wrong guess does no harm), then once for each level of
    imports that is missing.
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
    # The first request has all license files, but few belong to compiled packages.
    above = _above(seen)
    needed -= {name for name in needed if is_license(name) and _folder(name) not in above}
    load(needed)
    return Closure({name: contents[name] for name in needed}, seen)


def shipped() -> set[str]:
    """Return the directories in the closures of the tags that kbuild was tested with."""
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
    """Return whether Go reads a file with this name on a supported Linux, except in tests."""
    return _GO_READS.search(name) is not None and _NOT_FOR_US.search(name) is None


def _above(folders: Iterable[str]) -> set[str]:
    """Return the directories and their parents; the tree itself is the empty text."""
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
    # Searching for the word first is many times faster than the regular expression alone.
    start = content.find(b"\nimport")
    while start != -1:
        if match := _IMPORTS.match(content, start):
            for path in _PATH.findall(match[1] or match[2]):
                name = path.decode(errors="replace")
                places = [STAGING + name, VENDOR + name]
                if name.startswith(MODULE):
                    places = [name.removeprefix(MODULE)]
                # A package in none of these places belongs to Go's standard library.
                yield from (place for place in places if place in folders)
        start = content.find(b"\nimport", start + 1)
