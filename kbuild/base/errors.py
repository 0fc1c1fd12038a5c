"""Every way to fail: what happened, what to do about it, and how a program can tell.

The exit code is that of the family, the ``kind`` is the precise cause. Both are stable, and
documented. Exit code 0 is success, 100 is reserved for clusters, 141 is a closed standard output.
This module imports only kbuild.base.addresses, so anything may raise anything.
"""

import re
from typing import ClassVar

from kbuild.base.addresses import shown

_LONGEST, _LONGEST_VALUE = 8000, 200  # characters of a sentence, and of a value in it
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class KbuildError(Exception):
    """Base of all errors that reach a user.

    ``kind`` is the name of the class, in kebab case. ``what`` and ``todo`` are templates over the
    keyword arguments given; ``details`` are another program's own last words, shown below. No
    credential of an address gets into any of them.
    """

    exit_code: ClassVar[int]
    kind: ClassVar[str]
    what: ClassVar[str]
    todo: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.kind = _WORD_STARTS.sub("-", cls.__name__).lower()

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


class UsageError(KbuildError):
    """Usage: a flag or a setting has a value that it cannot have, or is missing or unknown."""

    exit_code = 2


class SourceError(KbuildError):
    """Source: it cannot be read, has no such tag, or is not what was asked for."""

    exit_code = 20


class ToolchainError(KbuildError):
    """Toolchain: no Go or image of the right version and checksum, or a problem with its pins."""

    exit_code = 30


class PatchError(KbuildError):
    """Patch: none fits the source, or it has not the effect that it should."""

    exit_code = 40


class EngineError(KbuildError):
    """Engine: there is no usable container engine, or its registry cannot be reached."""

    exit_code = 50


class CompileError(KbuildError):
    """Compile: the Go compiler failed."""

    exit_code = 60


class ProofError(KbuildError):
    """Proof: the binary is not what it should be, or cannot be proven. Do not use it."""

    exit_code = 70


class HostError(KbuildError):
    """System: disk, permissions, memory, cache, locks, sandbox, or a program that is missing."""

    exit_code = 80


class ReleaseError(KbuildError):
    """Release: packages, provenance, keys, signatures, or a release that fails its check."""

    exit_code = 90


class InternalError(KbuildError):
    """Internal: a fault of kbuild itself."""

    exit_code = 1
    what = "internal error in kbuild: {kind}: {text}"
    todo = "run it again with --verbose and report what it prints"


# --- usage ------------------------------------------------------------------------------------


class BadSetting(UsageError):
    """A setting has a value that it cannot have."""

    what = "{name} cannot be {value}: {reason}"
    todo = "{hint}"

    def __init__(self, *, name: str, value: object, reason: str, hint: str) -> None:
        super().__init__(name=name, value=_quoted(value), reason=reason, hint=hint)


class MissingSetting(UsageError):
    """Settings that have no default were not given."""

    what = "missing: {names}"
    todo = "give each as a flag, in kbuild.toml or in the environment; see --help"


class LeafOutlivesCA(UsageError):
    """The leaf lifetime asked for is longer than the CA's."""

    what = "leaf certificates of {leaf_years} years would outlive their CA of {ca_years} years"
    todo = "give --leaf-years a number up to {ca_years}, or raise --ca-years"


class BadVersion(UsageError):
    """The text given as a version is no Kubernetes version."""

    what = "{text!r} is not a Kubernetes version"
    todo = "give a tag such as v1.23.0, 1.23.0, v1.31.0-rc.1, or a minor such as 1.23"


class UnsupportedVersion(UsageError):
    """The version is older than the oldest that kbuild knows how to patch."""

    what = "{version} is older than {oldest}, the oldest version that kbuild patches"
    todo = "choose {oldest} or newer"


class UnknownSetting(UsageError):
    """A settings file or the environment names a setting that does not exist."""

    what = "{where} names an unknown setting {name!r}"
    todo = "{suggestion}"


class BadSettingsFile(UsageError):
    """The settings file cannot be read as TOML."""

    what = "the settings file {path} cannot be read: {reason}"
    todo = "mend the file, or name another one with --config"


# --- source -----------------------------------------------------------------------------------


class SourceUnreachable(SourceError):
    """The source did not answer, after retries."""

    what = "the source {source} cannot be reached"
    todo = "check the address and the network, or name a mirror or an archive with --source"


class TagNotFound(SourceError):
    """The source answers but has no such tag."""

    what = "{source} has no tag for {version}"
    todo = "see what it has with `kbuild versions --source {source}`{suggestion}"


class CommitMismatch(SourceError):
    """The tag stands for another commit than the one demanded."""

    what = "{tag} is commit {actual}, not {expected} as demanded"
    todo = "do not trust this source before you know why; else drop --commit"


class SourceChecksumMismatch(SourceError):
    """The archive has another sha256 than the one demanded."""

    what = "{source} has sha256 {actual}, not {expected} as demanded"
    todo = "download it again from a source you trust, or correct --source-sha256"


class UnsafeArchive(SourceError):
    """An archive member leaves its folder, or is no file, folder or link."""

    what = "{source} holds a member that could do harm: {member}"
    todo = "do not use this archive"


class BrokenArchive(SourceError):
    """The archive is truncated, or no tar archive at all."""

    what = "{source} is not a whole source archive: {reason}"
    todo = "download it again; kbuild reads .tar.gz, .tar.bz2 and .tar.xz"


class WrongArchiveVersion(SourceError):
    """The archive holds another version than asked for."""

    what = "{source} holds {actual}, not {version} as asked"
    todo = "give --version {actual}, or the archive of {version}"


class NotKubernetes(SourceError):
    """The source holds no Kubernetes tree, or one that does not name its commit or version."""

    what = "{source} is not a Kubernetes source tree: {reason}"
    todo = "use a git tag, or an archive made by git archive (GitHub's, Debian's orig, upstream's)"


class BrokenSource(SourceError):
    """Git refused or failed for a reason that is no network error."""

    what = "git could not read {tag} from {source}"
    todo = "see git's own words below; a repository may be damaged, or not a repository at all"


class SourceDiffers(SourceError):
    """The source is not what the git source that it was compared with has."""

    what = "{source} is not {tag} of {against}: {difference}"
    todo = "do not use this source: somebody has changed it, or the other one"


# --- toolchain --------------------------------------------------------------------------------


class PinNotFound(ToolchainError):
    """No file of the tree says which Go it is built with."""

    what = "{tag} does not say which Go it is built with"
    todo = "give the version yourself with --go-version"


class PinsDisagree(ToolchainError):
    """Two files of the tree pin different Go versions."""

    what = "{tag} pins more than one Go: {pins}"
    todo = "a genuine tree does not; choose one with --go-version if you trust this source"


class GoNotFound(ToolchainError):
    """No Go of the pinned version is here and none can be downloaded."""

    what = "no Go {go_version} for {arch} was found: {reason}"
    todo = "give a GOROOT with --go-root, use --builder docker, or accept another --go-version"


class WrongGo(ToolchainError):
    """A toolchain is of another Go version than the pin."""

    what = "{where} is Go {actual}, but {expected} is asked for"
    todo = "use that Go, or accept this one with --go-version {actual}"


class ImageWithoutDigest(ToolchainError):
    """An image was named by its tag alone."""

    what = "the image {image} is not pinned by a digest"
    todo = "add its digest, @sha256:<64 hex digits>; `kbuild pins` lists the known ones"


class ImageNotFound(ToolchainError):
    """The registry has no such image or digest."""

    what = "the registry has no image {image}"
    todo = "name another with --image, or another mirror with --golang-repository"


class GoChecksumMismatch(ToolchainError):
    """A downloaded Go archive differs from its shipped sha256."""

    what = "{url} has sha256 {actual}, not {expected} as shipped with kbuild"
    todo = "do not use this download site; name another with --go-site"


class GoDownloadFailed(ToolchainError):
    """The Go download site did not answer, or has no such archive."""

    what = "{url} cannot be downloaded: {reason}"
    todo = "check the network, name a mirror with --go-site, or a GOROOT with --go-root"


class BadPinsFile(ToolchainError):
    """The user's lock file of image digests cannot be read."""

    what = "the lock file {path} cannot be used: {reason}"
    todo = "mend the file or delete it; `kbuild pins update` writes it anew"


class PinsDrifted(ToolchainError):
    """A registry serves another digest for a pinned tag."""

    what = "{count} of {total} pins differ from the registry"
    todo = "read the differences above; `kbuild pins update` takes the registry's digests"


# --- patches ----------------------------------------------------------------------------------


class NoPatchFits(PatchError):
    """No patch fits the tree."""

    what = "no patch fits {tag}: {file} does not hold {expected} exactly once"
    todo = "the tree was edited, or is of a layout that kbuild does not know yet"


class SeveralPatchesFit(PatchError):
    """More than one series fits the tree, so neither is certain."""

    what = "more than one patch series fits {tag}: {series}"
    todo = "the tree holds two layouts at once; use an unmodified source"


class LifetimeNotReached(PatchError):
    """After patching, the source computes to another lifetime than asked."""

    what = "after patching, {name} in {file} is {actual}, not {expected}"
    todo = "the tree was edited, or is of a layout that kbuild does not know yet"


class VendoredCopy(PatchError):
    """vendor/ holds a copy of client-go instead of a link, so a patch would be without effect."""

    what = "{path} is a copy, not a link to staging/: the patch would have no effect"
    todo = "use a source that keeps symbolic links, such as git or a tar archive"


class PatchIndexBroken(PatchError):
    """The patches folder is missing or its index cannot be read."""

    what = "the patch index {path} cannot be read: {reason}"
    todo = "reinstall kbuild"


class GitMissing(HostError):
    """There is no git on this machine."""

    what = "git was not found"
    todo = "install it (Debian: apt-get install git)"


# --- engine and system ------------------------------------------------------------------------


class EngineMissing(EngineError):
    """No engine is installed: there is no socket to talk to."""

    what = "no container engine was found at {address}"
    todo = "install Docker or set DOCKER_HOST, or use --builder local"


class EngineForbidden(EngineError):
    """The engine's socket may not be opened by this user."""

    what = "you may not use the container engine at {address}"
    todo = "add yourself to its group (often `docker`), or use --builder local"


class EngineDown(EngineError):
    """The engine's address is there but nothing answers."""

    what = "the container engine at {address} does not answer"
    todo = "start it (often `systemctl start docker`), or use --builder local"


class EngineTooOld(EngineError):
    """The engine speaks an older API than kbuild needs."""

    what = "the container engine speaks API {actual}, kbuild needs {needed}"
    todo = "update it to Docker 20.10 or newer, or use --builder local"


class EngineFailed(EngineError):
    """The engine refused or failed at something."""

    what = "the container engine failed: {reason}"
    todo = "see the engine's own log; then run the same command again"


class SandboxUnavailable(HostError):
    """This machine cannot give the sandbox in which foreign programs run."""

    what = "there is no sandbox for {purpose}: {reason}"
    todo = (
        "install bubblewrap (apt-get install bubblewrap) and allow unprivileged user namespaces,"
        " or start a container engine"
    )


class SandboxLimit(HostError):
    """A program in the sandbox used more than its limit of memory, disk, output or time."""

    what = "{purpose}: the program exceeded its limit of {limit}, so it was killed"
    todo = "do not use this program; if it is genuine, report this with its version"


class RegistryUnreachable(EngineError):
    """The registry that holds an image does not answer."""

    what = "the registry of {image} cannot be reached"
    todo = "check the network, or name a mirror with --golang-repository"


class NotEnoughMemory(HostError):
    """The system gave kbuild no more memory, processes or threads."""

    what = "kbuild cannot go on with the memory or the processes that it may use: {reason}"
    todo = "stop other programs, or raise the limits (`ulimit -a` shows them); a build needs 4 GiB"


# --- compile ----------------------------------------------------------------------------------


class CompileFailed(CompileError):
    """The Go compiler failed."""

    what = "compiling kubeadm for {arch} failed with exit code {code}"
    todo = "the last lines are below, all of it is in {log}"


class OutOfMemory(CompileError):
    """The compiler was killed for want of memory."""

    what = "compiling kubeadm for {arch} ran out of memory"
    todo = "give the machine or the engine at least 4 GiB of memory"


class NoBinary(CompileError):
    """The compiler ended well but left no binary."""

    what = "the compiler left no kubeadm for {arch}"
    todo = "all that it printed is in {log}"


# --- proof ------------------------------------------------------------------------------------


class WrongLifetime(ProofError):
    """A certificate ends at another time than asked."""

    what = "{path} ({case}, {moment}) ends {actual}, asked for {years} years: {expected}"
    todo = "this kubeadm does not issue what was asked; do not use it"


class WrongVersion(ProofError):
    """The binary reports something else of itself than it should."""

    what = "kubeadm reports {name} {actual!r}, expected {expected!r}"
    todo = "this is not the binary that was asked for; do not use it"


class WrongBinary(ProofError):
    """The file is no static Linux executable of the right machine."""

    what = "{path} is not a static Linux kubeadm: {reason}"
    todo = "give a kubeadm for Linux; in a release it is the file kubeadm-linux-<arch>"


class MissingCertificate(ProofError):
    """kubeadm did not write a certificate that it should."""

    what = "kubeadm wrote no {path} ({case}, {moment})"
    todo = "its layout is new to kbuild, or it failed half way; do not use it"


class KubeadmFailed(ProofError):
    """kubeadm itself failed while it was being proven."""

    what = "`{command}` failed with exit code {code}"
    todo = "see its last words below"


class NotRenewed(ProofError):
    """A certificate is the same after a renewal as before."""

    what = "{path} ({case}) was not renewed"
    todo = "this kubeadm's renewal does not work; do not use it"


class CannotRun(ProofError):
    """The binary cannot be run here at all."""

    what = "{path} cannot be run here: {reason}"
    todo = "run this on a machine of its own architecture, or install qemu-user-static"


class StockDiffers(ProofError):
    """A patched binary differs from the stock one where no lifetime is."""

    what = "kubeadm for {arch} differs from the stock one in {symbols}"
    todo = "something else than the patch went into it; do not use it"


class NotAsPublished(ProofError):
    """A stock binary is not byte for byte the publisher's."""

    what = "this stock kubeadm has sha256 {actual}; the publisher's {url} has {expected}"
    todo = "see below what they say of themselves; the same Go and build date give the same bytes"


class PublisherFailed(ProofError):
    """The publisher's site did not answer, or its files do not fit each other."""

    what = "{url} cannot be used: {reason}"
    todo = "check the network, or name another site with --release-site"


# --- output and disk --------------------------------------------------------------------------


class DiskFull(HostError):
    """No space is left."""

    what = "no space is left on the disk that holds {path}"
    todo = "free some space; a build needs about 2 GiB. Nothing half-made was left"


class NotWritable(HostError):
    """A file or folder cannot be read or written."""

    what = "{path} cannot be used: {reason}"
    todo = "choose another place, or mend its permissions"


class OutputExists(HostError):
    """The output folder already holds something."""

    what = "{path} already exists"
    todo = "choose another --output, or replace an earlier release with --force"


class OutputBusy(HostError):
    """Another kbuild is writing the same output."""

    what = "another kbuild is at work on {path}"
    todo = "wait for it, or choose another --output"


class CacheInUse(HostError):
    """Another kbuild is using the cache that is to be pruned or cleared."""

    what = "another kbuild is using the cache {path}"
    todo = "wait until it has ended, then try again"


class PackagerMissing(ReleaseError):
    """What makes a deb or an rpm is not installed."""

    what = "{tool} was not found, so no {kind} can be made"
    todo = "install it (Debian: apt-get install {package}), or leave out --package {kind}"


class PackagerFailed(ReleaseError):
    """dpkg-deb or rpmbuild failed."""

    what = "{tool} failed with exit code {code}"
    todo = "see its last words below"


class UnsafeCache(HostError):
    """The cache, or a folder in or above it, is one that other users can write to."""

    what = "the cache is not safe because of {path}: {reason}"
    todo = (
        "what is in a cache gets into binaries; remove it, or name another with --cache-dir; "
        "if nobody else wrote to it: {command}"
    )


class NotACache(HostError):
    """The folder that is named as the cache is not one that kbuild made."""

    what = "{path} is not used as a cache: {reason}"
    todo = "{hint}"


class OutputNotReplaceable(HostError):
    """What --force is to replace is not exactly a release of kbuild's, or may not be moved."""

    what = "--force does not replace {path}: {reason}"
    todo = "choose another --output, or move what is in it away yourself"


# --- releases ---------------------------------------------------------------------------------


class ReleaseBroken(ReleaseError):
    """A file of a release is missing, extra, different or unsafe, or a demand is not met."""

    what = "{folder} does not pass the check: {count}"
    todo = "do not use it; get it again from a source that you trust, into a folder of your own"


class NotARelease(ReleaseError):
    """A folder holds no release of kbuild's."""

    what = "{path} holds no release: {reason}"
    todo = "name a folder that `kbuild kubeadm` has made"


class BadProvenance(ReleaseError):
    """A provenance cannot be read, or is of another kind of build."""

    what = "{path} is no provenance of kbuild's: {reason}"
    todo = "give the provenance.json of a release"


class RebuildDiffers(ReleaseError):
    """A rebuild gave other bytes than the provenance names."""

    what = "the rebuild differs from {path} in {files}"
    todo = "see below which inputs are not the same"


class BadKey(ReleaseError):
    """A key cannot be read, is of a kind that sigstore does not use, or came with the release."""

    what = "the key {path} cannot be used: {reason}"
    todo = "give a PEM key of the curve P-256, with its password in COSIGN_PASSWORD if it has one"


class KeylessFailed(ReleaseError):
    """There is no OIDC identity here, or sigstore's services refused it."""

    what = "keyless signatures cannot be made or verified: {reason}"
    todo = "it works where an OIDC identity is (CI with id-token: write); else sign with --key"


class AddressNotAllowed(ReleaseError):
    """A provenance names addresses that neither kbuild nor the user chose."""

    what = "{path} names addresses that are not kbuild's defaults: {addresses}"
    todo = "give each address that you trust yourself, as a flag or a setting: {flags}"


class Interrupted(KbuildError):
    """Interrupt: the user or the system asked to stop."""

    exit_code = 130
    what = "interrupted"
    todo = "nothing half-made was left; run the same command again"
