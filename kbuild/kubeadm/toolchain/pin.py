"""Read which Go version a tree pins.

The files changed over time; these are the trees of v1.9.0 to v1.33.3.
``build/build-image/cross/VERSION`` held ``v1.15.5-1`` up to v1.20 and holds
``v1.21.0-go1.16.9-buster.0`` since, where only the part after ``go`` counts;
``build/dependencies.yaml`` has an entry since v1.17; ``.go-version`` came with v1.26, v1.25.8 and
v1.24.12.
"""

import contextlib
import re
from collections.abc import Iterator

import yaml
from packaging.version import Version

from kbuild.base.errors import BadSetting
from kbuild.base.files import BROKEN, demand_plain_yaml, read_file
from kbuild.kubeadm.model import GoPin, SourceTree
from kbuild.kubeadm.toolchain.errors import GoTooOld, PinNotFound, PinsDisagree

GO_VERSION = ".go-version"
DEPENDENCIES = "build/dependencies.yaml"
CROSS = "build/build-image/cross/VERSION"
_ENTRIES = ("golang: upstream version", "golang")
_VERSION = re.compile(r"1\.\d{1,4}(?:\.\d{1,4})?(?:(?:rc|beta)\d{1,4})?", re.ASCII)
_LIMITS = {GO_VERSION: 1 << 10, DEPENDENCIES: 1 << 17, CROSS: 1 << 10}  # bytes
_MAX_MODULE = 1 << 20  # bytes of a go.mod
_GO_LINE = re.compile(r"^go[ \t]+(\S+)[ \t]*(?://.*)?$", re.ASCII | re.MULTILINE)
_MAX_DEPTH = 16  # dependencies.yaml has five levels
_NEW_CROSS = re.compile(rf"v\d[\w.-]*?-go({_VERSION.pattern})-[\w.-]+", re.ASCII)
_OLD_CROSS = re.compile(rf"v({_VERSION.pattern})-(?:[a-z]+-)?\d+", re.ASCII)
_NEW_NAMES = Version("1.21")  # since then, the first release of a minor version is x.y.0


def read_pin(tree: SourceTree) -> GoPin:
    """Return the Go version that the tree is built with, in Go's own spelling.

    Raises PinNotFound or PinsDisagree.
    """
    pins = dict(_pins(tree))
    if not pins:
        raise PinNotFound(tag=tree.tag)
    if len({Version(version) for version in pins.values()}) > 1:
        listed = ", ".join(f"{version} in {file}" for file, version in pins.items())
        raise PinsDisagree(tag=tree.tag, pins=listed)
    return GoPin(version=go_name(next(iter(pins.values()))), files=tuple(pins))


def demand_new_enough(go_version: str, tree: SourceTree) -> None:
    """Raise GoTooOld if a Go is older than the ``go`` lines of the tree say.

    Up to Go 1.20 such a Go compiles until an error in the code; later ones refuse.
    """
    for file in ("go.work", "go.mod"):
        with contextlib.suppress(OSError):
            text = read_file(tree.path / file, _MAX_MODULE).decode(errors="replace")
            if (found := _GO_LINE.search(text)) and is_go_version(found[1]):
                needed = Version(found[1])
                # `go 1.21` is the language, which its release candidates have too.
                parts = len(needed.release)
                if Version(go_version).release[:parts] < needed.release:
                    raise GoTooOld(go_version=go_version, tag=tree.tag, needed=found[1], file=file)


def go_name(version: str) -> str:
    """Return a version as Go spells it: ``1.19.0`` is go1.19, but ``1.21`` is go1.21.0."""
    parsed = Version(version)
    if parsed.is_prerelease or parsed.micro:
        return version
    minor = f"{parsed.major}.{parsed.minor}"
    return f"{minor}.0" if parsed >= _NEW_NAMES else minor


def parse_go_version(text: str) -> str:
    """Return a version that a user gave, in Go's own spelling; raises BadSetting."""
    if not is_go_version(text):
        raise BadSetting(
            name="--go-version",
            value=text,
            reason="it must be a version of Go",
            hint="write it like 1.15.5 or 1.21.0",
        )
    return go_name(text)


def is_go_version(text: str) -> bool:
    """Return whether a text is a Go version, without ``go``."""
    return _VERSION.fullmatch(text) is not None


def _pins(tree: SourceTree) -> Iterator[tuple[str, str]]:
    readers = {GO_VERSION: _plain, DEPENDENCIES: _dependencies, CROSS: _cross}
    for file, reader in readers.items():
        path = tree.path / file
        if path.is_file():
            try:
                version = reader(read_file(path, _LIMITS[file]).decode(errors="replace"))
            except OSError as error:
                raise PinNotFound(tag=tree.tag, details=f"{file}: {error.strerror}") from error
            if version is not None and is_go_version(version):
                yield file, version
            elif file != DEPENDENCIES or version is not None:
                raise PinNotFound(tag=tree.tag, details=f"{file} contains no Go version")


def _plain(text: str) -> str | None:
    return text.strip()


def _dependencies(text: str) -> str | None:
    # Up to v1.16 the file has no entry for Go. Versions have no quotes: BaseLoader, which is as
    # safe as SafeLoader, keeps them as text; otherwise 1.20 would become the number 1.2.
    try:
        demand_plain_yaml(text, _MAX_DEPTH)
        entries = yaml.load(text, Loader=yaml.BaseLoader)["dependencies"]
        found = [e["version"] for e in entries if e["name"] in _ENTRIES]
    except (yaml.YAMLError, *BROKEN):
        return ""
    if len(found) == 1 and isinstance(found[0], str):
        return found[0]
    return "" if found else None


def _cross(text: str) -> str | None:
    match = _NEW_CROSS.fullmatch(text.strip()) or _OLD_CROSS.fullmatch(text.strip())
    return match[1] if match else None
