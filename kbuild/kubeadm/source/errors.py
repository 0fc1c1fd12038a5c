"""Errors of a source: it cannot be read, or is not what was requested."""

from kbuild.base.errors import SourceError, UsageError


class BadVersion(UsageError):
    """The text is not a Kubernetes version."""

    text: str

    what = "{text!r} is not a Kubernetes version"
    todo = (
        "give a tag such as v1.23.0, 1.23.0, v1.31.0-rc.1, a minor such as 1.23, stable or latest"
    )


class NotInBundle(SourceError):
    """The bundle has another version than the requested one."""

    source: str
    version: str
    tags: str

    what = "the bundle of {source} has {tags}, not {version} as requested"
    todo = (
        "make a bundle of {version} on a machine with a network: kbuild bundle --version {version}"
    )


class IncompleteBundle(SourceError):
    """The bundle lacks objects of its own commit."""

    source: str
    tag: str

    what = "the bundle of {source} lacks files of {tag}"
    todo = "make it again with kbuild bundle, or copy it again"


class TagNotFound(SourceError):
    """The source answers but has no such tag."""

    source: str
    version: str
    suggestion: str

    what = "{source} has no tag for {version}"
    todo = "list its tags with `kbuild versions --source {source}`{suggestion}"


class CommitMismatch(SourceError):
    """The tag points to another commit than the one in --commit."""

    tag: str
    actual: str
    expected: str

    what = "{tag} is commit {actual}, not {expected} as required"
    todo = "do not use this source until you know why; or leave out --commit"


class SourceChecksumMismatch(SourceError):
    """The archive has another sha256 than the one in --source-sha256."""

    source: str
    actual: str
    expected: str

    what = "{source} has sha256 {actual}, not {expected} as required"
    todo = "download it again from a source you trust, or correct --source-sha256"


class UnsafeArchive(SourceError):
    """An archive member leads out of its directory, or is not a file, directory or link."""

    source: str
    member: str

    what = "{source} has an unsafe member: {member}"
    todo = "do not use this archive"


class BrokenArchive(SourceError):
    """The archive is truncated, or not a tar archive."""

    source: str
    reason: str

    what = "{source} is not a complete source archive: {reason}"
    todo = "download it again; kbuild reads .tar.gz, .tar.bz2 and .tar.xz"


class WrongArchiveVersion(SourceError):
    """The archive contains another version than the requested one."""

    source: str
    actual: str
    version: str

    what = "{source} contains {actual}, not {version} as requested"
    todo = "give --version {actual}, or the archive of {version}"


class SourceDiffers(SourceError):
    """The source differs from the git source in --verify-against."""

    source: str
    tag: str
    against: str
    difference: str

    what = "{source} is not {tag} of {against}: {difference}"
    todo = "do not use this source: one of the two was modified"
