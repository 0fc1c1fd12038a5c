"""The golang image of a Go version, always by digest.

A digest comes from the user's lock file or from the shipped ones. Otherwise it is resolved once and
written to the lock file. A line of the lock file has a repository, a Go version and a digest,
separated by tabs; lines that begin with ``#`` are comments.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from filelock import FileLock
from packaging.version import Version

from kbuild.base import engine
from kbuild.base.disk import disk_errors
from kbuild.base.files import read_file, reason_of
from kbuild.base.progress import Progress
from kbuild.kubeadm.model import GoRequest, ImageLayout, StoredImage
from kbuild.kubeadm.toolchain.errors import (
    BadPinsFile,
    ImageNotInBundle,
    ImageNotPinned,
    ImageWithoutDigest,
)
from kbuild.kubeadm.toolchain.layout import is_digest
from kbuild.kubeadm.toolchain.pin import go_name, is_go_version

OFFICIAL = "golang"
_MAX_LOCK = 1 << 20  # bytes
_HEADER = "# Image digests that kbuild demands: repository, Go version, digest.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A digest of the golang image; ``origin`` is ``shipped`` or ``lock``."""

    repository: str
    go_version: str
    digest: str
    origin: str

    @property
    def image(self) -> str:
        """Return the image by its digest."""
        return f"{self.repository}@{self.digest}"


def image_for(go_version: str, request: GoRequest, progress: Progress) -> str:
    """Return the image to build in, as ``repository@sha256:…``.

    Raises ImageWithoutDigest, BadPinsFile, or the engine's errors if a tag must be resolved.
    """
    if request.image is not None:
        return demand_digest(request.image)
    repository = request.repository
    if pin := find_pin(go_version, repository, request.lock):
        return pin.image
    with locked(request.lock):
        # Another run may have pinned it in the meantime, and a pin stays.
        if known := find_pin(go_version, repository, request.lock):
            return known.image
        pin = resolve(go_version, repository)
        write_lock(request.lock, [*load_lock(request.lock), pin])
    progress.say(f"{pin.image} was resolved from its tag; {request.lock} requires it from now on")
    return pin.image


def layout_for(go_version: str, request: GoRequest, images: Sequence[StoredImage]) -> ImageLayout:
    """Return the image of a bundle for the engine, with the digest that the user or a pin demands.

    The bundle only names its repository, and nothing of its other images is read. Raises
    ImageWithoutDigest, BadPinsFile, ImageNotPinned, ImageNotInBundle, BrokenBundle or the engine's
    errors.
    """
    with contextlib.closing(engine.connect()) as client, engine.translate("the engine"):
        arch = engine.arch(client)
    known = ", ".join(sorted({f"{each.image} for {each.arch}" for each in images})) or "none"
    if request.image is not None:
        digest = demand_digest(request.image).rpartition("@")[2]
    elif pin := find_pin(go_version, request.repository, request.lock):
        digest = pin.digest
    else:
        raise ImageNotPinned(go_version=go_version, known=known)
    for each in images:
        if (each.digest, each.arch) == (digest, arch):
            return each.read()
    raise ImageNotInBundle(go_version=go_version, digest=digest, arch=arch, known=known)


def demand_digest(image: str) -> str:
    """Return an image that has a digest; raises ImageWithoutDigest for any other."""
    name, _, digest = image.rpartition("@")
    if not name or not is_digest(digest):
        raise ImageWithoutDigest(image=image)
    return image


def find_pin(go_version: str, repository: str, lock: Path) -> Pin | None:
    """Return the pin of a version: from the lock file for this repository, or the shipped one.

    Mirrors of the official image have its digests, so the shipped ones serve any repository.
    """
    mine = (pin for pin in load_lock(lock) if pin.repository == repository)
    shipped = (
        Pin(repository=repository, go_version=p.go_version, digest=p.digest, origin=p.origin)
        for p in shipped_pins()
    )
    pins = (pin for pin in (*mine, *shipped) if pin.go_version == go_version)
    return next(pins, None)


def shipped_pins() -> tuple[Pin, ...]:
    """Return the pins that ship with kbuild, oldest Go first."""
    text = resources.files("kbuild.kubeadm.toolchain").joinpath("golang-images.tsv").read_text()
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        Pin(repository=OFFICIAL, go_version=row[0], digest=row[1], origin="shipped")
        for row in rows[1:]
    )


def load_lock(path: Path) -> tuple[Pin, ...]:
    """Return the pins of a lock file; none if it does not exist.

    Raises BadPinsFile.
    """
    try:
        lines = read_file(path, _MAX_LOCK).decode().splitlines()
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise BadPinsFile(path=path, reason=reason_of(error)) from error
    pins: dict[tuple[str, str], Pin] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        pin = _parse(line)
        if pin is None:
            reason = f"line {number} is not a pin"
            raise BadPinsFile(path=path, reason=reason)
        if pins.setdefault((pin.repository, pin.go_version), pin) != pin:
            reason = f"line {number} is not a pin: another line has another digest for Go"
            raise BadPinsFile(path=path, reason=f"{reason} {pin.go_version}")
    return tuple(pins.values())


def _parse(line: str) -> Pin | None:
    match line.split("\t"):
        case [repository, version, digest] if (
            repository and is_go_version(version) and is_digest(digest)
        ):
            # Go's 1.20 has the image tag 1.20.0; the lock file may contain either.
            name = go_name(version)
            return Pin(repository=repository, go_version=name, digest=digest, origin="lock")
    return None


def lock_text(pins: list[Pin]) -> str:
    """Return the text of a lock file; a later pin replaces an earlier one."""
    kept = {(pin.repository, pin.go_version): pin.digest for pin in pins}
    order = sorted(kept, key=lambda name: (name[0], Version(name[1])))
    return _HEADER + "".join(f"{name[0]}\t{name[1]}\t{kept[name]}\n" for name in order)


def write_lock(path: Path, pins: list[Pin]) -> None:
    """Write a lock file completely or not at all."""
    with disk_errors(path):
        made = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            made.write_text(lock_text(pins), encoding="utf-8")
            made.replace(path)
        finally:
            made.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the lock file against other runs."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            yield


def resolve(go_version: str, repository: str) -> Pin:
    """Return the digest that a version's tag has in the registry now.

    Raises ImageNotFound, RegistryUnreachable or the engine's errors.
    """
    client = engine.connect()
    with contextlib.closing(client):
        digest = engine.registry_digest(client, f"{repository}:{_tag(go_version)}")
    return Pin(repository=repository, go_version=go_version, digest=digest, origin="lock")


def _tag(go_version: str) -> str:
    # The tag 1.20 moves to the newest 1.20.x; only 1.20.0 stays the release that Go calls 1.20.
    version = Version(go_version)
    if version.is_prerelease:
        return go_version
    return f"{version.major}.{version.minor}.{version.micro}"
