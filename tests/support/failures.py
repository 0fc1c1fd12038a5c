"""What a command that failed says of it, and the families of its errors."""

import re
from subprocess import CompletedProcess

from kbuild.base.errors import (
    ClusterError,
    CompileError,
    EngineError,
    HostError,
    KbuildError,
    PatchError,
    ProofError,
    ReleaseError,
    SourceError,
    ToolchainError,
    UsageError,
)

FAMILIES: tuple[type[KbuildError], ...] = (
    *(UsageError, SourceError, ToolchainError, PatchError, EngineError),
    *(CompileError, ProofError, HostError, ReleaseError, ClusterError),
)

_REPORT = re.compile(r"^error\[([a-z0-9-]+)\]: ", re.MULTILINE)


def outcome(done: CompletedProcess[str]) -> tuple[int, str]:
    """Return the exit code of a command and the kind of its error, which is empty without one."""
    return done.returncode, kind_of(done.stderr)


def kind_of(stderr: str) -> str:
    """Return the kind of the error that a command reports: none is empty, several are joined."""
    return " ".join(_REPORT.findall(stderr))
