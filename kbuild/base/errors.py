"""Every way to fail: what happened, what to do about it, and its exit code.

Exit codes go by family: 2 usage, 10 settings, 20 source, 30 toolchain, 40 patch, 50 engine and
sandbox, 60 build, 70 proof, 80 output and disk, 90 releases. 1 is an internal error, 130 an
interrupt.
This module imports only kbuild.base.addresses, so anything may raise anything.
"""

from typing import ClassVar

from kbuild.base.addresses import shown

_LONGEST, _LONGEST_VALUE = 8000, 200  # characters of a sentence, and of a value in it


class KbuildError(Exception):
    """Base of all errors that reach a user.

    ``what`` and ``todo`` are templates over the keyword arguments given; ``details`` are another
    program's own last words, shown below. No credential of an address gets into any of them.
    """

    exit_code: ClassVar[int]
    what: ClassVar[str]
    todo: ClassVar[str]

    def __init__(self, *, details: str = "", **facts: object) -> None:
        self.happened = _short(shown(self.what.format(**facts)), _LONGEST)
        self.hint = _short(shown(self.todo.format(**facts)), _LONGEST)
        self.details = shown(details.strip())
        super().__init__(self.happened)


def _quoted(value: object) -> str:
    """Return a value as a message may hold it: of a long one only the beginning."""
    try:
        text = repr(value) if isinstance(value, str) else str(value)
    except (ValueError, RecursionError):  # more digits than Python converts, or lists in lists
        return "that"
    return _short(text, _LONGEST_VALUE)


def _short(text: str, most: int) -> str:
    """Cut what may come from a stranger's document, which could flood a terminal."""
    return text if len(text) <= most else f"{text[:most]}…"


class InternalError(KbuildError):
    """A fault of kbuild itself."""

    exit_code = 1
    what = "internal error in kbuild: {kind}: {text}"
    todo = "run it again with --verbose and report what it prints"


# --- 2: usage ---------------------------------------------------------------------------------


class BadSetting(KbuildError):
    """A setting has a value that it cannot have."""

    exit_code = 2
    what = "{name} cannot be {value}: {reason}"
    todo = "{hint}"

    def __init__(self, *, name: str, value: object, reason: str, hint: str) -> None:
        super().__init__(name=name, value=_quoted(value), reason=reason, hint=hint)


class MissingSetting(KbuildError):
    """Settings that have no default were not given."""

    exit_code = 2
    what = "missing: {names}"
    todo = "give each as a flag, in kbuild.toml or in the environment; see --help"


class LeafOutlivesCA(KbuildError):
    """The leaf lifetime asked for is longer than the CA's."""

    exit_code = 2
    what = "leaf certificates of {leaf_years} years would outlive their CA of {ca_years} years"
    todo = "give --leaf-years a number up to {ca_years}, or raise --ca-years"


class BadVersion(KbuildError):
    """The text given as a version is no Kubernetes version."""

    exit_code = 2
    what = "{text!r} is not a Kubernetes version"
    todo = "give a tag such as v1.23.0, 1.23.0, v1.31.0-rc.1, or a minor such as 1.23"


class UnsupportedVersion(KbuildError):
    """The version is older than the oldest that kbuild knows how to patch."""

    exit_code = 2
    what = "{version} is older than {oldest}, the oldest version that kbuild patches"
    todo = "choose {oldest} or newer"


# --- 10: settings -----------------------------------------------------------------------------


class UnknownSetting(KbuildError):
    """A settings file or the environment names a setting that does not exist."""

    exit_code = 10
    what = "{where} names an unknown setting {name!r}"
    todo = "{suggestion}"


class BadSettingsFile(KbuildError):
    """The settings file cannot be read as TOML."""

    exit_code = 11
    what = "the settings file {path} cannot be read: {reason}"
    todo = "mend the file, or name another one with --config"


# --- 20: source -------------------------------------------------------------------------------


class SourceUnreachable(KbuildError):
    """The source did not answer, after retries."""

    exit_code = 20
    what = "the source {source} cannot be reached"
    todo = "check the address and the network, or name a mirror or an archive with --source"


class TagNotFound(KbuildError):
    """The source answers but has no such tag."""

    exit_code = 21
    what = "{source} has no tag for {version}"
    todo = "see what it has with `kbuild versions --source {source}`{suggestion}"


class CommitMismatch(KbuildError):
    """The tag stands for another commit than the one demanded."""

    exit_code = 22
    what = "{tag} is commit {actual}, not {expected} as demanded"
    todo = "do not trust this source before you know why; else drop --commit"


class SourceChecksumMismatch(KbuildError):
    """The archive has another sha256 than the one demanded."""

    exit_code = 23
    what = "{source} has sha256 {actual}, not {expected} as demanded"
    todo = "download it again from a source you trust, or correct --source-sha256"


class UnsafeArchive(KbuildError):
    """An archive member leaves its folder, or is no file, folder or link."""

    exit_code = 24
    what = "{source} holds a member that could do harm: {member}"
    todo = "do not use this archive"


class BrokenArchive(KbuildError):
    """The archive is truncated, or no tar archive at all."""

    exit_code = 25
    what = "{source} is not a whole source archive: {reason}"
    todo = "download it again; kbuild reads .tar.gz, .tar.bz2 and .tar.xz"


class WrongArchiveVersion(KbuildError):
    """The archive holds another version than asked for."""

    exit_code = 26
    what = "{source} holds {actual}, not {version} as asked"
    todo = "give --version {actual}, or the archive of {version}"


class NotKubernetes(KbuildError):
    """The source holds no Kubernetes tree, or one that does not name its commit or version."""

    exit_code = 27
    what = "{source} is not a Kubernetes source tree: {reason}"
    todo = "use a git tag, or an archive made by git archive (GitHub's, Debian's orig, upstream's)"


class BrokenSource(KbuildError):
    """Git refused or failed for a reason that is no network error."""

    exit_code = 28
    what = "git could not read {tag} from {source}"
    todo = "see git's own words below; a repository may be damaged, or not a repository at all"


class SourceDiffers(KbuildError):
    """The source is not what the git source that it was compared with has."""

    exit_code = 29
    what = "{source} is not {tag} of {against}: {difference}"
    todo = "do not use this source: somebody has changed it, or the other one"


# --- 30: toolchain ----------------------------------------------------------------------------


class PinNotFound(KbuildError):
    """No file of the tree says which Go it is built with."""

    exit_code = 30
    what = "{tag} does not say which Go it is built with"
    todo = "give the version yourself with --go-version"


class PinsDisagree(KbuildError):
    """Two files of the tree pin different Go versions."""

    exit_code = 31
    what = "{tag} pins more than one Go: {pins}"
    todo = "a genuine tree does not; choose one with --go-version if you trust this source"


class GoNotFound(KbuildError):
    """No Go of the pinned version is here and none can be downloaded."""

    exit_code = 32
    what = "no Go {go_version} for {arch} was found: {reason}"
    todo = "give a GOROOT with --go-root, use --builder docker, or accept another --go-version"


class WrongGo(KbuildError):
    """A toolchain is of another Go version than the pin."""

    exit_code = 33
    what = "{where} is Go {actual}, but {expected} is asked for"
    todo = "use that Go, or accept this one with --go-version {actual}"


class ImageWithoutDigest(KbuildError):
    """An image was named by its tag alone."""

    exit_code = 34
    what = "the image {image} is not pinned by a digest"
    todo = "add its digest, @sha256:<64 hex digits>; `kbuild pins` lists the known ones"


class ImageNotFound(KbuildError):
    """The registry has no such image or digest."""

    exit_code = 35
    what = "the registry has no image {image}"
    todo = "name another with --image, or another mirror with --golang-repository"


class GoChecksumMismatch(KbuildError):
    """A downloaded Go archive differs from its shipped sha256."""

    exit_code = 36
    what = "{url} has sha256 {actual}, not {expected} as shipped with kbuild"
    todo = "do not use this download site; name another with --go-site"


class GoDownloadFailed(KbuildError):
    """The Go download site did not answer, or has no such archive."""

    exit_code = 37
    what = "{url} cannot be downloaded: {reason}"
    todo = "check the network, name a mirror with --go-site, or a GOROOT with --go-root"


class BadPinsFile(KbuildError):
    """The user's lock file of image digests cannot be read."""

    exit_code = 38
    what = "the lock file {path} cannot be used: {reason}"
    todo = "mend the file or delete it; `kbuild pins update` writes it anew"


class PinsDrifted(KbuildError):
    """A registry serves another digest for a pinned tag."""

    exit_code = 39
    what = "{count} of {total} pins differ from the registry"
    todo = "read the differences above; `kbuild pins update` takes the registry's digests"


# --- 40: patches ------------------------------------------------------------------------------


class NoPatchFits(KbuildError):
    """No patch fits the tree."""

    exit_code = 40
    what = "no patch fits {tag}: {file} does not hold {expected} exactly once"
    todo = "the tree was edited, or is of a layout that kbuild does not know yet"


class SeveralPatchesFit(KbuildError):
    """More than one series fits the tree, so neither is certain."""

    exit_code = 41
    what = "more than one patch series fits {tag}: {series}"
    todo = "the tree holds two layouts at once; use an unmodified source"


class LifetimeNotReached(KbuildError):
    """After patching, the source computes to another lifetime than asked."""

    exit_code = 42
    what = "after patching, {name} in {file} is {actual}, not {expected}"
    todo = "the tree was edited, or is of a layout that kbuild does not know yet"


class VendoredCopy(KbuildError):
    """vendor/ holds a copy of client-go instead of a link, so a patch would be without effect."""

    exit_code = 43
    what = "{path} is a copy, not a link to staging/: the patch would have no effect"
    todo = "use a source that keeps symbolic links, such as git or a tar archive"


class PatchIndexBroken(KbuildError):
    """The patches folder is missing or its index cannot be read."""

    exit_code = 44
    what = "the patch index {path} cannot be read: {reason}"
    todo = "reinstall kbuild"


class GitMissing(KbuildError):
    """There is no git on this machine."""

    exit_code = 45
    what = "git was not found"
    todo = "install it (Debian: apt-get install git)"


# --- 50: engine and sandbox -------------------------------------------------------------------


class EngineMissing(KbuildError):
    """No engine is installed: there is no socket to talk to."""

    exit_code = 50
    what = "no container engine was found at {address}"
    todo = "install Docker or set DOCKER_HOST, or use --builder local"


class EngineForbidden(KbuildError):
    """The engine's socket may not be opened by this user."""

    exit_code = 51
    what = "you may not use the container engine at {address}"
    todo = "add yourself to its group (often `docker`), or use --builder local"


class EngineDown(KbuildError):
    """The engine's address is there but nothing answers."""

    exit_code = 52
    what = "the container engine at {address} does not answer"
    todo = "start it (often `systemctl start docker`), or use --builder local"


class EngineTooOld(KbuildError):
    """The engine speaks an older API than kbuild needs."""

    exit_code = 53
    what = "the container engine speaks API {actual}, kbuild needs {needed}"
    todo = "update it to Docker 20.10 or newer, or use --builder local"


class EngineFailed(KbuildError):
    """The engine refused or failed at something."""

    exit_code = 54
    what = "the container engine failed: {reason}"
    todo = "see the engine's own log; then run the same command again"


class SandboxUnavailable(KbuildError):
    """This machine cannot give the sandbox in which foreign programs run."""

    exit_code = 55
    what = "there is no sandbox for {purpose}: {reason}"
    todo = (
        "install bubblewrap (apt-get install bubblewrap) and allow unprivileged user namespaces,"
        " or start a container engine"
    )


class SandboxLimit(KbuildError):
    """A program in the sandbox used more than its limit of memory, disk, output or time."""

    exit_code = 57
    what = "{purpose}: the program exceeded its limit of {limit}, so it was killed"
    todo = "do not use this program; if it is genuine, report this with its version"


class RegistryUnreachable(KbuildError):
    """The registry that holds an image does not answer."""

    exit_code = 56
    what = "the registry of {image} cannot be reached"
    todo = "check the network, or name a mirror with --golang-repository"


class NotEnoughMemory(KbuildError):
    """The system gave kbuild no more memory, processes or threads."""

    exit_code = 59
    what = "kbuild cannot go on with the memory or the processes that it may use: {reason}"
    todo = "stop other programs, or raise the limits (`ulimit -a` shows them); a build needs 4 GiB"


# --- 60: build --------------------------------------------------------------------------------


class CompileFailed(KbuildError):
    """The Go compiler failed."""

    exit_code = 60
    what = "compiling kubeadm for {arch} failed with exit code {code}"
    todo = "the last lines are below, all of it is in {log}"


class OutOfMemory(KbuildError):
    """The compiler was killed for want of memory."""

    exit_code = 61
    what = "compiling kubeadm for {arch} ran out of memory"
    todo = "give the machine or the engine at least 4 GiB of memory"


class NoBinary(KbuildError):
    """The compiler ended well but left no binary."""

    exit_code = 62
    what = "the compiler left no kubeadm for {arch}"
    todo = "all that it printed is in {log}"


# --- 70: proof --------------------------------------------------------------------------------


class WrongLifetime(KbuildError):
    """A certificate ends at another time than asked."""

    exit_code = 70
    what = "{path} ({case}, {moment}) ends {actual}, asked for {years} years: {expected}"
    todo = "this kubeadm does not issue what was asked; do not use it"


class WrongVersion(KbuildError):
    """The binary reports something else of itself than it should."""

    exit_code = 71
    what = "kubeadm reports {name} {actual!r}, expected {expected!r}"
    todo = "this is not the binary that was asked for; do not use it"


class WrongBinary(KbuildError):
    """The file is no static Linux executable of the right machine."""

    exit_code = 72
    what = "{path} is not a static Linux kubeadm: {reason}"
    todo = "give a kubeadm for Linux; in a release it is the file kubeadm-linux-<arch>"


class MissingCertificate(KbuildError):
    """kubeadm did not write a certificate that it should."""

    exit_code = 73
    what = "kubeadm wrote no {path} ({case}, {moment})"
    todo = "its layout is new to kbuild, or it failed half way; do not use it"


class KubeadmFailed(KbuildError):
    """kubeadm itself failed while it was being proven."""

    exit_code = 74
    what = "`{command}` failed with exit code {code}"
    todo = "see its last words below"


class NotRenewed(KbuildError):
    """A certificate is the same after a renewal as before."""

    exit_code = 75
    what = "{path} ({case}) was not renewed"
    todo = "this kubeadm's renewal does not work; do not use it"


class CannotRun(KbuildError):
    """The binary cannot be run here at all."""

    exit_code = 76
    what = "{path} cannot be run here: {reason}"
    todo = "run this on a machine of its own architecture, or install qemu-user-static"


class StockDiffers(KbuildError):
    """A patched binary differs from the stock one where no lifetime is."""

    exit_code = 77
    what = "kubeadm for {arch} differs from the stock one in {symbols}"
    todo = "something else than the patch went into it; do not use it"


class NotAsPublished(KbuildError):
    """A stock binary is not byte for byte the publisher's."""

    exit_code = 78
    what = "this stock kubeadm has sha256 {actual}; the publisher's {url} has {expected}"
    todo = "see below what they say of themselves; the same Go and build date give the same bytes"


class PublisherFailed(KbuildError):
    """The publisher's site did not answer, or its files do not fit each other."""

    exit_code = 79
    what = "{url} cannot be used: {reason}"
    todo = "check the network, or name another site with --release-site"


# --- 80: output and disk ----------------------------------------------------------------------


class DiskFull(KbuildError):
    """No space is left."""

    exit_code = 80
    what = "no space is left on the disk that holds {path}"
    todo = "free some space; a build needs about 2 GiB. Nothing half-made was left"


class NotWritable(KbuildError):
    """A file or folder cannot be read or written."""

    exit_code = 81
    what = "{path} cannot be used: {reason}"
    todo = "choose another place, or mend its permissions"


class OutputExists(KbuildError):
    """The output folder already holds something."""

    exit_code = 82
    what = "{path} already exists"
    todo = "choose another --output, or replace an earlier release with --force"


class OutputBusy(KbuildError):
    """Another kbuild is writing the same output."""

    exit_code = 83
    what = "another kbuild is at work on {path}"
    todo = "wait for it, or choose another --output"


class CacheInUse(KbuildError):
    """Another kbuild is using the cache that is to be pruned or cleared."""

    exit_code = 84
    what = "another kbuild is using the cache {path}"
    todo = "wait until it has ended, then try again"


class PackagerMissing(KbuildError):
    """What makes a deb or an rpm is not installed."""

    exit_code = 85
    what = "{tool} was not found, so no {kind} can be made"
    todo = "install it (Debian: apt-get install {package}), or leave out --package {kind}"


class PackagerFailed(KbuildError):
    """dpkg-deb or rpmbuild failed."""

    exit_code = 86
    what = "{tool} failed with exit code {code}"
    todo = "see its last words below"


class UnsafeCache(KbuildError):
    """The cache, or a folder in or above it, is one that other users can write to."""

    exit_code = 87
    what = "the cache is not safe because of {path}: {reason}"
    todo = (
        "what is in a cache gets into binaries; remove it, or name another with --cache-dir; "
        "if nobody else wrote to it: {command}"
    )


class NotACache(KbuildError):
    """The folder that is named as the cache is not one that kbuild made."""

    exit_code = 88
    what = "{path} is not used as a cache: {reason}"
    todo = "{hint}"


class OutputNotReplaceable(KbuildError):
    """What --force is to replace is not exactly a release of kbuild's, or may not be moved."""

    exit_code = 89
    what = "--force does not replace {path}: {reason}"
    todo = "choose another --output, or move what is in it away yourself"


# --- 90: releases -----------------------------------------------------------------------------


class ReleaseBroken(KbuildError):
    """A file of a release is missing, extra, different or unsafe, or a demand is not met."""

    exit_code = 90
    what = "{folder} does not pass the check: {count}"
    todo = "do not use it; get it again from a source that you trust, into a folder of your own"


class NotARelease(KbuildError):
    """A folder holds no release of kbuild's."""

    exit_code = 91
    what = "{path} holds no release: {reason}"
    todo = "name a folder that `kbuild kubeadm` has made"


class BadProvenance(KbuildError):
    """A provenance cannot be read, or is of another kind of build."""

    exit_code = 92
    what = "{path} is no provenance of kbuild's: {reason}"
    todo = "give the provenance.json of a release"


class RebuildDiffers(KbuildError):
    """A rebuild gave other bytes than the provenance names."""

    exit_code = 93
    what = "the rebuild differs from {path} in {files}"
    todo = "see below which inputs are not the same"


class BadKey(KbuildError):
    """A key cannot be read, is of a kind that sigstore does not use, or came with the release."""

    exit_code = 94
    what = "the key {path} cannot be used: {reason}"
    todo = "give a PEM key of the curve P-256, with its password in COSIGN_PASSWORD if it has one"


class KeylessFailed(KbuildError):
    """There is no OIDC identity here, or sigstore's services refused it."""

    exit_code = 95
    what = "keyless signatures cannot be made or verified: {reason}"
    todo = "it works where an OIDC identity is (CI with id-token: write); else sign with --key"


class AddressNotAllowed(KbuildError):
    """A provenance names addresses that neither kbuild nor the user chose."""

    exit_code = 96
    what = "{path} names addresses that are not kbuild's defaults: {addresses}"
    todo = "give each address that you trust yourself, as a flag or a setting: {flags}"


class Interrupted(KbuildError):
    """The user or the system asked to stop."""

    exit_code = 130
    what = "interrupted"
    todo = "nothing half-made was left; run the same command again"
