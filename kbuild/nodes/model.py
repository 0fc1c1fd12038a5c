"""The values of a run on nodes: hosts, what they are like, and a plan of steps for each."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# changed: all steps are done. unchanged: nothing was to be done. undone: a step failed, and the
# host is as it was before. failed: a step failed, and some of the changes are still there.
# not-started: the run stopped before. unreachable, refused: it could not be asked, or must not be
# changed as it is.
State = Literal["changed", "unchanged", "undone", "failed", "not-started", "unreachable", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host of the inventory; ``data`` is pyinfra's, such as ``ssh_hostname`` and ``ssh_port``.

    ``sudo`` tells whether root's rights are had with sudo, which gets ``sudo_password`` if it asks.
    """

    name: str
    data: Mapping[str, object] = field(default_factory=dict)
    sudo: bool = False
    sudo_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A function of node.sh with its arguments, or of a ``library`` beside it, such as renew.sh.

    The function has ``secret`` in a variable of that name. It is no part of the text of a call, so
    it is neither shown nor logged, and no process has it among its arguments.
    """

    function: str
    arguments: tuple[str, ...] = ()
    library: str = ""
    secret: str = field(default="", repr=False)

    def __str__(self) -> str:
        return shlex.join((self.function, *self.arguments))


def call(function: str, *arguments: str, library: str = "") -> Call:
    """Return the call of a function of node.sh, or of a library beside it."""
    return Call(function=function, arguments=arguments, library=library)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Something that must be seen from here, such as the certificate that a port serves.

    Whoever carries out a plan with proofs has a function that looks for each ``kind``.
    """

    kind: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shlex.join((self.kind, *self.arguments))


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A local file that a step needs on the node, and where it is collected there.

    If ``sha256`` is given, the file is only sent if it has it.
    """

    file: Path
    to: str
    is_compressed: bool
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of a host.

    ``check`` succeeds if nothing is to be done. ``do`` makes the change, and may be killed and
    repeated. ``confirm`` succeeds if the change is really there. ``undo`` takes it back; without
    it, it stays. ``what`` and ``why`` are for people. ``proofs`` are seen from here, after
    ``check`` and after ``confirm``; ``regained`` after ``undo``. If a step fails whose ``is_fatal``
    is set, nothing is undone: that could make things worse.
    """

    name: str
    what: str
    why: str
    check: Call
    do: Call
    confirm: Call
    undo: Call | None = None
    upload: Upload | None = None
    proofs: tuple[Proof, ...] = ()
    regained: tuple[Proof, ...] = ()
    is_fatal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """The steps of one host, in their order; ``notes`` are for people.

    Other hosts may be changed at the same time only if ``is_independent`` is set, for them too.
    """

    host: Host
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    is_independent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a host cannot take part, and what to do about it."""

    host: str
    reason: str
    todo: str

    def __str__(self) -> str:
        return f"{self.host}: {self.reason}; {self.todo}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a host: ``step`` and ``reason`` tell where and why a run stopped there.

    ``kept`` are the steps that could not be undone, where the others were.
    """

    host: str
    state: State
    step: str = ""
    reason: str = ""
    todo: str = ""
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Issues:
    """The lifetimes that a kubeadm issues, in years of 365 days."""

    ca_years: int
    leaf_years: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A backup of a kubeadm on a node; ``name`` begins with the time, in UTC.

    ``sha256`` is empty if there was no kubeadm before the installation that made it.
    """

    name: str
    sha256: str
    version: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host is like.

    ``clock`` is its time in seconds since the epoch, and ``asked_at`` the time here when it was
    asked. ``kubeadm`` is where kubeadm is found, ``target`` the file behind all links. ``sha256``
    is empty if there is none. ``free`` is what is free beside it, and ``state_free`` where backups
    go, in KiB. ``package`` is what owns it (``deb kubeadm``). ``busy`` are programs that may be
    replacing it. ``unfinished`` is the last entry of the journal if the last run has no end.
    ``problem`` is why the file cannot be used at all, ``leftovers`` are files beside it that runs
    have left, ``can_lock_versions`` tells whether yum or dnf has its plugin versionlock, and
    ``is_excluded`` whether their configuration has exclude= for the package.
    ``identity`` is the same if two names lead to one machine, and empty if that is not known.
    ``others`` are kubeadms elsewhere on the PATH.
    ``is_restored`` tells whether a rollback brought back the kubeadm that is there. ``issues`` is
    what an installation has recorded of exactly that kubeadm, and ``is_ours`` tells whether it put
    it at that place.
    """

    host: Host
    uid: int
    clock: int
    asked_at: float
    machine: str
    has_gzip: bool
    kubeadm: str
    target: str
    sha256: str
    version: str
    kubelet: str
    free: int
    state_free: int
    package: str
    is_held: bool
    is_read_only: bool
    is_control_plane: bool
    busy: tuple[str, ...]
    generations: tuple[Generation, ...]
    unfinished: str
    problem: str = ""
    leftovers: tuple[str, ...] = ()
    can_lock_versions: bool = False
    is_excluded: bool = False
    is_restored: bool = False
    issues: Issues | None = None
    is_ours: bool = False
    identity: str = ""
    others: tuple[str, ...] = ()

    def refusal(self, reason: str, todo: str) -> Refusal:
        """Return why this host cannot take part."""
        return Refusal(host=self.host.name, reason=reason, todo=todo)
