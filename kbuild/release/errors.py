"""Errors of releases: their output, their content and their signatures."""

from pathlib import Path

from kbuild.base.errors import HostError, ReleaseError


class OutputBusy(HostError):
    """Another kbuild writes to the same output."""

    path: Path | str

    what = "another kbuild is writing to {path}"
    todo = "wait for it, or choose another --output"


class PackagerMissing(ReleaseError):
    """The program that makes a deb or an rpm is not installed."""

    tool: str
    format: str
    package: str

    what = "{tool} was not found, so no {format} can be made"
    todo = "install it (Debian: apt-get install {package}), or leave out --package {format}"


class PackagerFailed(ReleaseError):
    """dpkg-deb or rpmbuild failed."""

    tool: str
    code: int

    what = "{tool} failed with exit code {code}"
    todo = "its last output is below"


class ReleaseBroken(ReleaseError):
    """A file of a release is missing, extra, different or unsafe, or its signature is not right."""

    folder: Path | str
    count: str

    what = "{folder} does not pass the check: {count}"
    todo = "do not use it; get it again from a source that you trust, into a directory of your own"


class RequirementsNotMet(ReleaseError):
    """A release is intact, and is not for what the user requires."""

    folder: Path | str
    count: str

    what = "{folder} is intact, but does not meet {count}"
    todo = "choose a release that does, or build one with `kbuild kubeadm`; what differs is below"


class NotARelease(ReleaseError):
    """The directory does not contain a release."""

    path: Path | str
    reason: str

    what = "{path} is not a release: {reason}"
    todo = "name a directory that `kbuild kubeadm` made"


class BadProvenance(ReleaseError):
    """The provenance cannot be read, or describes another kind of build."""

    path: Path | str
    reason: str

    what = "{path} is not a provenance document of kbuild: {reason}"
    todo = "give the provenance.json of a release"


class RebuildDiffers(ReleaseError):
    """The rebuild gave other bytes than the provenance contains."""

    path: Path | str
    files: str

    what = "the rebuild differs from {path} in {files}"
    todo = "the inputs that differ are below"


class BadKey(ReleaseError):
    """The key cannot be read, has an unsupported type, or came with the release."""

    path: Path | str
    reason: str

    what = "the key {path} cannot be used: {reason}"
    todo = "give a PEM key of the curve P-256, with its password in COSIGN_PASSWORD if it has one"


class AlreadySigned(ReleaseError):
    """The release has signatures, and not of the key that is to sign it."""

    path: Path | str

    what = "{path} has signatures already, and not of this key"
    todo = "to replace them, give --force; `kbuild check` tells who signed it"


class KeylessFailed(ReleaseError):
    """There is no OIDC identity, or sigstore's services refused it."""

    reason: str

    what = "keyless signatures cannot be made or verified: {reason}"
    todo = "it works in CI with `id-token: write`; elsewhere sign with --key"


class AddressNotAllowed(ReleaseError):
    """The provenance contains addresses that neither kbuild nor the user chose."""

    path: Path | str
    addresses: str
    flags: str

    what = "{path} names addresses that are not kbuild's defaults: {addresses}"
    todo = "pass each address that you trust as an option: {flags}"
