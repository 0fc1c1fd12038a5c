"""Which files of a tree kubeadm is built from.

Of the 22,700 files of v1.20.2, kubeadm's import closure holds some 3,900: nothing else has to be
written, packed or removed. What Go would take for another system is left out by the rule that Go
has for file names (https://pkg.go.dev/cmd/go#hdr-Build_constraints); constraints inside files are
not read, so this is rather more than Go will compile, never less.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import PurePosixPath

Read = Callable[[Collection[str]], Mapping[str, bytes]]

ROOT = "cmd/kubeadm"
MODULE = "k8s.io/kubernetes/"
STAGING = "staging/src/"
VENDOR = "vendor/"

# Read by Go itself, by the patches, or to learn what the tree is and which Go it pins.
_ALWAYS = re.compile(
    r"(go\.(mod|sum|work|work\.sum)|\.go-version|vendor/modules\.txt"
    r"|staging/src/k8s\.io/[^/]+/go\.(mod|sum)"
    r"|cmd/kubeadm/.+|staging/src/k8s\.io/client-go/util/cert/[^/]+"
    r"|build/dependencies\.yaml|build/build-image/cross/VERSION|hack/lib/version\.sh)"
)
_OTHER_SYSTEMS = (
    "aix|android|darwin|dragonfly|freebsd|hurd|illumos|ios|js|nacl|netbsd|openbsd|plan9|solaris"
    "|wasip1|windows|zos"
)
_NOT_FOR_LINUX = re.compile(rf"_(test|({_OTHER_SYSTEMS})(_[a-z0-9]+)?)\.go")
_IMPORTS = re.compile(rb"^import\s*(?:\((.*?)^\s*\)|(.*?)$)", re.MULTILINE | re.DOTALL)
_PATH = re.compile(rb'^\s*(?:[\w.]+\s+)?"([^"]+)"', re.MULTILINE)


def needed_files(names: Collection[str], links: Collection[str], read: Read) -> set[str]:
    """Return the files that a build of kubeadm reads, of all ``names`` in the tree.

    ``links`` are the tree's symbolic links, which are all kept. ``read`` gives the content of the
    files that it is asked for, many at once.
    """
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        folders[str(PurePosixPath(name).parent)].append(name)
    always = (name for name in names if _ALWAYS.fullmatch(name) and is_for_linux(name))
    needed = {*always, *links}
    seen, frontier = {ROOT}, {ROOT}
    while frontier:
        files = [f for folder in frontier for f in folders[folder] if is_for_linux(f)]
        needed.update(files)
        contents = read([name for name in files if name.endswith(".go")])
        for name, content in contents.items():
            if b"//go:embed" in content:
                inside = f"{PurePosixPath(name).parent}/"
                needed.update(each for each in names if each.startswith(inside))
        found = {folder for content in contents.values() for folder in _imports(content, folders)}
        frontier = found - seen
        seen |= found
    return needed


def is_for_linux(name: str) -> bool:
    """Tell whether Go would read a file of that name on Linux, outside of tests."""
    return _NOT_FOR_LINUX.search(name) is None


def _imports(content: bytes, folders: Mapping[str, object]) -> Iterator[str]:
    for block, line in _IMPORTS.findall(content):
        for path in _PATH.findall(block or line):
            name = path.decode(errors="replace")
            places = [STAGING + name, VENDOR + name]
            if name.startswith(MODULE):
                places = [name.removeprefix(MODULE)]
            # What is in none of the places is of Go's own library.
            yield from (place for place in places if place in folders)
