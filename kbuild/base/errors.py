"""The base of all errors, their families, and the errors that several packages raise.

An error says what happened and what to do about it. Its exit code is that of its family, its
``kind`` is the exact cause. Both are stable and documented. Exit code 0 is success, 141 means that
standard output was closed. An error that only one package raises is defined in the errors.py of
that package. This module imports only kbuild.base.addresses, so every other module can import it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self, dataclass_transform

from kbuild.base.addresses import shown

_LONGEST, _LONGEST_VALUE = 8000, 200  # characters of a sentence, and of a value in it
_OR_LOCAL = ", or use --builder local"
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass_transform(kw_only_default=True, eq_default=False)
class _Fields(Exception):
    """Gives each error a constructor that takes its annotated fields by keyword.

    The type checker derives its signature. Real dataclasses would compile a constructor for each
    class at every start of kbuild, which takes a millisecond each.
    """

    kind: ClassVar[str]
    what: ClassVar[str]
    todo: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.kind = _WORD_STARTS.sub("-", cls.__name__).lower()

    def __init__(self, *, details: str = "", **fields: object) -> None:
        self._fill(details, fields)

    def _fill(self, details: str, fields: Mapping[str, object]) -> None:
        vars(self).update((n, shown(v) if isinstance(v, str) else v) for n, v in fields.items())
        self.happened = _short(shown(self.what.format(**fields)), _LONGEST)
        self.hint = _short(shown(self.todo.format(**fields)), _LONGEST)
        self.details = shown(details.strip())
        self.args = (self.happened,)

    def __reduce__(self) -> tuple[object, ...]:
        return self.__class__._restored, (vars(self),)

    @classmethod
    def _restored(cls, state: dict[str, object]) -> Self:
        error = cls.__new__(cls, state["happened"])
        vars(error).update(state)
        return error


class KbuildError(_Fields):
    """Base of all errors that reach a user.

    ``kind`` is the name of the class, in kebab case. ``what`` and ``todo`` are templates over the
    fields; ``happened`` and ``hint`` are their rendered texts. ``details`` is the last output of
    another program. Credentials in addresses are removed from all of them.
    """

    exit_code: ClassVar[int]
    details: str = ""


def _quoted(value: object) -> str:
    """Return a value for a message, as users write it, and shortened if it is long."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value) if isinstance(value, str) else str(value)
    except (ValueError, RecursionError):  # more digits than Python converts, or lists in lists
        return "that"
    return _short(shown(text), _LONGEST_VALUE)  # before it is cut: half a password is a secret too


def _short(text: str, most: int) -> str:
    """Shorten text that may come from an untrusted document and could flood a terminal."""
    return text if len(text) <= most else f"{text[:most]}…"


class UsageError(KbuildError):
    """Usage: an option has an invalid value, is missing or is unknown."""

    exit_code = 2


class SourceError(KbuildError):
    """Source: it cannot be read, has no such tag, or is not what was requested."""

    exit_code = 20


class ToolchainError(KbuildError):
    """Toolchain: no Go or image of the right version and checksum, or a problem with its pins."""

    exit_code = 30


class PatchError(KbuildError):
    """Patch: none fits the source, or it does not have the intended effect."""

    exit_code = 40


class EngineError(KbuildError):
    """Engine: there is no usable container engine, or its registry cannot be reached."""

    exit_code = 50

    def without_builder(self) -> Self:
        """Remove what only commands with --builder can do from the hint."""
        self.hint = self.hint.removesuffix(_OR_LOCAL)
        return self


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


class ClusterError(KbuildError):
    """Cluster: it is not in the state that was asked for."""

    exit_code = 100


class InternalError(KbuildError):
    """Internal: a bug in kbuild."""

    exception: str
    text: str

    exit_code = 1
    what = "internal error in kbuild: {exception}: {text}"
    todo = "run it again with --verbose and report what it prints"


class Interrupted(KbuildError):
    """Interrupt: the user or the system stopped kbuild."""

    exit_code = 130
    what = "kbuild was stopped before it was done"
    todo = "no partial output was left; run the same command again"


# --- usage ------------------------------------------------------------------------------------


class Usage(UsageError):
    """The command line cannot be parsed; ``text`` is the parser's message."""

    text: str
    command: str

    what = "{text}"
    todo = "see `{command} --help`"


class BadSetting(UsageError):
    """An option has an invalid value."""

    name: str
    value: object
    reason: str
    hint: str

    what = "{name} cannot be {value}: {reason}"
    todo = "{hint}"

    def __init__(self, *, name: str, value: object, reason: str, hint: str) -> None:
        is_switch = value is True and name.startswith("--")  # such a flag has no value
        text = "given" if is_switch else _quoted(value)
        fields = {"name": name, "value": text, "reason": reason, "hint": hint}
        self._fill("", fields)


class MissingSetting(UsageError):
    """Options without a default were not given."""

    names: str

    what = "missing: {names}"
    todo = "give each as a flag, in kbuild.toml or in the environment; see --help"


class LeafOutlivesCA(UsageError):
    """The requested lifetime of leaf certificates is longer than that of CAs."""

    ca_years: int
    leaf_years: int

    what = "leaf certificates would outlive their CA: leaf-years {leaf_years}, ca-years {ca_years}"
    todo = "give --leaf-years a number up to {ca_years}, or raise --ca-years"


class UnsupportedVersion(UsageError):
    """The version is older than the oldest that kbuild knows how to patch."""

    version: str
    oldest: str

    what = "{version} is older than {oldest}, the oldest version that kbuild patches"
    todo = "choose {oldest} or newer"


class UnknownSetting(UsageError):
    """The settings file or the environment contains an unknown name."""

    where: str
    name: str
    suggestion: str

    what = "{where} names an unknown setting {name!r}"
    todo = "{suggestion}"


class BadSettingsFile(UsageError):
    """The settings file cannot be read as TOML."""

    path: Path | str
    reason: str

    what = "the settings file {path} cannot be read: {reason}"
    todo = "fix the file, or name another with --config"


# --- engine -----------------------------------------------------------------------------------


class EngineMissing(EngineError):
    """No engine is installed: there is no socket to talk to."""

    address: str

    what = "no container engine was found at {address}"
    todo = f"install Docker or set DOCKER_HOST{_OR_LOCAL}"


class EngineForbidden(EngineError):
    """This user may not open the engine's socket."""

    address: str

    what = "you may not use the container engine at {address}"
    todo = f"add yourself to its group (often `docker`){_OR_LOCAL}"


class EngineDown(EngineError):
    """The engine has an address but does not answer."""

    address: str

    what = "the container engine at {address} does not answer"
    todo = f"start it (often `systemctl start docker`){_OR_LOCAL}"


class EngineTooOld(EngineError):
    """The engine speaks an older API than kbuild needs."""

    actual: str
    needed: str

    what = "the container engine speaks API {actual}, kbuild needs {needed}"
    todo = f"update it to Docker 20.10 or newer{_OR_LOCAL}"


class EngineFailed(EngineError):
    """The engine reported an error."""

    reason: str

    what = "the container engine failed: {reason}"
    todo = "see the engine's own log; then run the same command again"


class WrongImageLoaded(EngineError):
    """The engine has loaded an image, but has none with the id that it must have."""

    image: str
    expected: str

    what = "the engine loaded {image}, but has no image with the id {expected}"
    todo = "see the engine's own log; use another engine, or the local builder"


class RegistryUnreachable(EngineError):
    """The registry that holds an image does not answer."""

    image: str

    what = "the registry of {image} cannot be reached"
    todo = "check the network, or name a mirror with --golang-repository"


class BadLoginFile(EngineError):
    """The file in which docker keeps its logins cannot be read."""

    path: Path | str
    reason: str

    what = "the logins of docker in {path} cannot be read: {reason}"
    todo = "correct this file, or remove it and run docker login again"


class CredentialHelperFailed(EngineError):
    """The credential helper that docker's file names gives no login."""

    helper: str
    path: Path | str
    reason: str

    what = "the credential helper {helper}, which {path} names, failed: {reason}"
    todo = "install or repair the helper, or remove it from this file"


class ImageNotFound(ToolchainError):
    """The registry has no such image or digest."""

    image: str

    what = "the registry has no image {image}"
    todo = "name another with --image, or another mirror with --golang-repository"


# --- system -----------------------------------------------------------------------------------


class DiskFull(HostError):
    """The disk is full."""

    path: Path | str

    what = "no space is left on the disk that holds {path}"
    todo = "free some space, then run the same command again. No partial output was left"


class NotWritable(HostError):
    """A file or directory cannot be read or written."""

    path: Path | str
    reason: str

    what = "{path} cannot be used: {reason}"
    todo = "choose another place, or fix its permissions"


class OutputExists(HostError):
    """The output directory is not empty."""

    path: Path | str

    what = "{path} already exists"
    todo = "choose another --output, or replace what is there with --force"


class OutputNotReplaceable(HostError):
    """--force cannot replace the output: it is not exactly what kbuild made, or cannot be moved."""

    path: Path | str
    reason: str

    what = "--force does not replace {path}: {reason}"
    todo = "choose another --output, or move its content yourself"


class NotEnoughMemory(HostError):
    """The system refused more memory, processes or threads."""

    reason: str

    what = "kbuild needs more memory, processes or open files than it may use: {reason}"
    todo = "stop other programs, or raise the limits (`ulimit -a` shows them); a build needs 4 GiB"


class GitMissing(HostError):
    """git is not installed."""

    what = "git was not found"
    todo = "install it (Debian: apt-get install git)"


class SandboxUnavailable(HostError):
    """This machine has no sandbox for untrusted programs."""

    purpose: str
    reason: str

    what = "there is no sandbox for {purpose}: {reason}"
    todo = (
        "install bubblewrap (apt-get install bubblewrap) and allow unprivileged user namespaces,"
        " or start a container engine"
    )


class SandboxForbidden(SandboxUnavailable):
    """The container in which kbuild runs forbids the namespaces that the sandbox needs."""

    purpose: str
    reason: str

    what = "this container allows no sandbox for {purpose}: {reason}"
    todo = (
        "start the container as a user other than root (docker run --user), with"
        " --security-opt seccomp=unconfined --security-opt apparmor=unconfined"
        " --security-opt systempaths=unconfined; the host must allow unprivileged user namespaces"
    )


class SandboxLimit(HostError):
    """A program in the sandbox used more than its limit of memory, disk, output or time."""

    purpose: str
    limit: str

    what = "{purpose}: the program exceeded its limit of {limit}, so it was killed"
    todo = "do not use this program; if it is genuine, report this with its version"


class CacheInUse(HostError):
    """Another kbuild is using the cache that is to be pruned or cleared."""

    path: Path | str

    what = "another kbuild is using the cache {path}"
    todo = "wait until it has ended, then try again"


class UnsafeCache(HostError):
    """Other users can write to the cache, or to a directory in or above it."""

    path: Path | str
    reason: str
    command: str

    what = "the cache is not safe because of {path}: {reason}"
    todo = (
        "content of the cache gets into binaries: remove it, or choose another with --cache-dir; "
        "if nobody else has written to it: {command}"
    )


class NotACache(HostError):
    """kbuild did not make the directory in --cache-dir."""

    path: Path | str
    reason: str
    hint: str

    what = "{path} is not used as a cache: {reason}"
    todo = "{hint}"


class BrokenSource(SourceError):
    """Git refused or failed for a reason other than the network."""

    tag: str
    source: str

    what = "git could not read {tag} from {source}"
    todo = (
        "git's output is below; the repository may be damaged, ask for a login, or be none at all"
    )


class NotKubernetes(SourceError):
    """The source is not a Kubernetes tree, or does not name its commit or version."""

    source: str
    reason: str

    what = "{source} is not a Kubernetes source tree: {reason}"
    todo = "use a git tag, or an archive made by git archive (GitHub's, Debian's orig, upstream's)"


class SourceUnreachable(SourceError):
    """The source did not answer, after retries."""

    source: str

    what = "the source {source} cannot be reached"
    todo = "check the address and the network, or name a mirror or an archive with --source"
