"""What can go wrong with a bundle."""

from pathlib import Path

from kbuild.base.errors import HostError, SourceError

_AGAIN = "copy the bundle again, or make it again with kbuild bundle"


class BundleUnreadable(SourceError):
    """The bundle is not there, or cannot be opened."""

    path: Path | str
    reason: str

    what = "the bundle {path} cannot be read: {reason}"
    todo = "give the file that kbuild bundle has written"


class BrokenBundle(SourceError):
    """The file is truncated, or not a bundle."""

    path: Path | str
    reason: str

    what = "{path} is not a complete bundle: {reason}"
    todo = _AGAIN


class UnsafeBundle(SourceError):
    """The bundle has a member that kbuild does not write: a link, or a name that is not listed."""

    path: Path | str
    member: str

    what = "{path} has a member that does not belong to a bundle: {member}"
    todo = "do not use this bundle"


class BundleTooLarge(SourceError):
    """A member of the bundle is larger than kbuild reads."""

    path: Path | str
    member: str
    limit: int

    what = "{member} in {path} is larger than {limit} bytes"
    todo = "do not use this bundle"


class BundleDamaged(SourceError):
    """A member of the bundle has another sha256 than the one that the bundle lists."""

    path: Path | str
    member: str
    actual: str
    expected: str

    what = "{member} in {path} has sha256 {actual}, not {expected} as listed"
    todo = _AGAIN


class BundleChecksumMismatch(SourceError):
    """The bundle has another sha256 than the one in --bundle-sha256."""

    path: Path | str
    actual: str
    expected: str

    what = "{path} has sha256 {actual}, not {expected} as required"
    todo = "copy it again from where you trust it, or correct --bundle-sha256"


class MemberMissing(SourceError):
    """The bundle lacks a member that it lists."""

    path: Path | str
    member: str

    what = "{path} lacks {member}, which it lists"
    todo = _AGAIN


class NoGoInBundle(SourceError):
    """The bundle has no Go for machines like this one."""

    path: Path | str
    arch: str
    known: str

    what = "{path} has no Go for {arch}, only for {known}"
    todo = "make a bundle for this machine: kbuild bundle --arch {arch}"


class NoImageInBundle(SourceError):
    """The bundle has no golang image."""

    path: Path | str

    what = "{path} has no golang image, which the docker builder needs"
    todo = "make a bundle with one: kbuild bundle --builder docker, or use --builder local"


class BundleNotReadable(SourceError):
    """A bundle of all that was requested would be one that kbuild does not read."""

    path: Path | str
    reason: str

    what = "{path} was not written, because no build could read this bundle: {reason}"
    todo = "make several bundles, each for fewer versions or architectures"


class WheelsUnusable(SourceError):
    """A directory has something else than the wheels of kbuild and of all that it needs."""

    folder: Path | str
    reason: str

    what = "the wheels in {folder} cannot be put into a bundle: {reason}"
    todo = "make a new directory in a checkout of kbuild: pip wheel --wheel-dir DIR ."


class OutputNotABundle(HostError):
    """The output of kbuild bundle is there, and is something else than a bundle."""

    path: Path | str
    reason: str

    what = "{path} already exists and is not a bundle: {reason}"
    todo = "choose another --output: the name of a file; --force replaces only a bundle"
