"""What can go wrong with a source: it cannot be read, or is not what was asked for."""

from kbuild.base.errors import SourceError, UsageError


class BadVersion(UsageError):
    """The text given as a version is no Kubernetes version."""

    text: str

    what = "{text!r} is not a Kubernetes version"
    todo = "give a tag such as v1.23.0, 1.23.0, v1.31.0-rc.1, or a minor such as 1.23"


class TagNotFound(SourceError):
    """The source answers but has no such tag."""

    source: str
    version: str
    suggestion: str

    what = "{source} has no tag for {version}"
    todo = "see what it has with `kbuild versions --source {source}`{suggestion}"


class CommitMismatch(SourceError):
    """The tag stands for another commit than the one demanded."""

    tag: str
    actual: str
    expected: str

    what = "{tag} is commit {actual}, not {expected} as demanded"
    todo = "do not use this source until you know why; or leave out --commit"


class SourceChecksumMismatch(SourceError):
    """The archive has another sha256 than the one demanded."""

    source: str
    actual: str
    expected: str

    what = "{source} has sha256 {actual}, not {expected} as demanded"
    todo = "download it again from a source you trust, or correct --source-sha256"


class UnsafeArchive(SourceError):
    """An archive member leads out of its folder, or is not a file, folder or link."""

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
    """The archive holds another version than asked for."""

    source: str
    actual: str
    version: str

    what = "{source} holds {actual}, not {version} as asked"
    todo = "give --version {actual}, or the archive of {version}"


class SourceDiffers(SourceError):
    """The source is not what the git source that it was compared with has."""

    source: str
    tag: str
    against: str
    difference: str

    what = "{source} is not {tag} of {against}: {difference}"
    todo = "do not use this source: somebody has changed it, or the other one"
