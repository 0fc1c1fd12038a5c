"""What can go wrong with Go, the golang images and their pins."""

from pathlib import Path

from kbuild.base.errors import ToolchainError


class PinNotFound(ToolchainError):
    """No file of the tree says which Go it is built with."""

    tag: str

    what = "{tag} does not say which Go it is built with"
    todo = "give the version yourself with --go-version"


class PinsDisagree(ToolchainError):
    """Two files of the tree pin different Go versions."""

    tag: str
    pins: str

    what = "{tag} pins more than one Go: {pins}"
    todo = "an official source tree pins one; if you trust this source, choose with --go-version"


class GoNotFound(ToolchainError):
    """The pinned Go is not on this machine and cannot be downloaded."""

    go_version: str
    arch: str
    reason: str

    what = "no Go {go_version} for {arch} was found: {reason}"
    todo = "give a GOROOT with --go-root, use --builder docker, or accept another --go-version"


class WrongGo(ToolchainError):
    """A toolchain is of another Go version than the pin."""

    where: str
    actual: str
    expected: str

    what = "{where} is Go {actual}, but {expected} is asked for"
    todo = "use that Go, or accept this one with --go-version {actual}"


class GoTooOld(ToolchainError):
    """The requested Go is older than the one that the tree needs."""

    go_version: str
    tag: str
    needed: str
    file: str

    what = "Go {go_version} is too old for {tag}: its {file} needs Go {needed}"
    todo = "leave --go-version out to build with the Go that the tag pins, or give a newer one"


class ImageWithoutDigest(ToolchainError):
    """An image was named by its tag alone."""

    image: str

    what = "the image {image} is not pinned by a digest"
    todo = "add its digest, @sha256:<64 hex digits>; `kbuild pins` lists the known ones"


class ImageUnusable(ToolchainError):
    """An image cannot be put into a bundle: it is for other machines, or its manifest is broken."""

    image: str
    reason: str

    what = "{image} cannot be put into a bundle: {reason}"
    todo = "name another with --image, or other machines with --arch"


class ImageNotInBundle(ToolchainError):
    """The bundle has no image with the required digest for the architecture of the engine."""

    go_version: str
    digest: str
    arch: str
    known: str

    what = (
        "the bundle has no image {digest} for {arch}, which Go {go_version} needs; it has {known}"
    )
    todo = (
        "make the bundle with the same pins and --arch {arch}, or name an image of the bundle that"
        " you trust with --image"
    )


class ImageNotPinned(ToolchainError):
    """No digest is known for the image in a bundle, and the bundle may not choose it."""

    go_version: str
    known: str

    what = "kbuild knows no digest of the golang image for Go {go_version}; the bundle has {known}"
    todo = "if you trust one of these, name it with --image, or add it to the file in --lock"


class GoChecksumMismatch(ToolchainError):
    """A downloaded Go archive differs from its shipped sha256."""

    url: str
    actual: str
    expected: str

    what = "{url} has sha256 {actual}, not {expected} as shipped with kbuild"
    todo = "do not use this download site; name another with --go-site"


class GoDownloadFailed(ToolchainError):
    """The Go download site did not answer, or has no such archive."""

    url: str
    reason: str

    what = "{url} cannot be downloaded: {reason}"
    todo = "check the network, name a mirror with --go-site, or a GOROOT with --go-root"


class BadPinsFile(ToolchainError):
    """The user's lock file of image digests cannot be read."""

    path: Path | str
    reason: str

    what = "the lock file {path} cannot be used: {reason}"
    todo = "fix the file or delete it; `kbuild pins update` writes a new one"


class PinsDrifted(ToolchainError):
    """A registry serves another digest for a pinned tag."""

    count: int
    total: int

    what = "{count} of {total} pins differ from the registry"
    todo = "read the differences above; `kbuild pins update` takes the registry's digests"
