"""Prove a kubeadm: its version, its file format, and every date that it issues."""

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.version import InvalidVersion, Version

from kbuild.base import engine, sandbox
from kbuild.base.files import BROKEN, reason_of, sha256
from kbuild.base.progress import Progress
from kbuild.base.sandbox import Files
from kbuild.base.workspace import Workspace
from kbuild.kubeadm.compile.recipe import stamp_fields
from kbuild.kubeadm.model import (
    Binary,
    IssuedCertificate,
    Lifetimes,
    Proof,
    ProvenBinary,
    StoredDefaults,
)
from kbuild.kubeadm.prove.elf import read_arch
from kbuild.kubeadm.prove.errors import (
    CannotRun,
    KubeadmFailed,
    OverrideNotVisible,
    WrongBinary,
    WrongVersion,
)
from kbuild.kubeadm.prove.runner import Runner, can_run, sandbox_runner

_MAX_SIZE = 256 << 20  # bytes; an official kubeadm has up to 80 MB, unstripped ones 120
# "keep" comes first: with stock's own lifetimes both are the same, and nothing is overridden.
_EITHER: tuple[StoredDefaults, ...] = ("keep", "override")
_REPORTED = {"gitMajor": "major", "gitMinor": "minor"}  # as `kubeadm version -o json` names them


def prove_binary(binary: Binary, workspace: Workspace, progress: Progress) -> ProvenBinary:
    """Prove a binary that kbuild built: it must be exactly what was requested.

    If it cannot run here, only its ELF file is checked, and ``Proof.ran`` is None. Raises a
    ProofError.
    """
    tree = binary.tree
    expected = {
        **{_REPORTED.get(k, k): v for k, v in stamp_fields(tree.source, binary.stamp).items()},
        "goVersion": f"go{tree.toolchain.go_version}",
        "compiler": "gc",
        "platform": f"linux/{binary.arch}",
    }
    arch = read_arch(binary.path)
    if arch != binary.arch:
        raise WrongBinary(path=binary.path, reason=f"it is for {arch}, not {binary.arch}")
    accepted = (tree.stored_defaults,) if tree.stored_defaults else ()
    proof = _prove(binary.path, arch, expected, tree.lifetimes, accepted, workspace, progress)
    return ProvenBinary(binary=binary, proof=proof)


def prove_file(
    path: Path,
    version: str | None,
    lifetimes: Lifetimes | None,
    stored_defaults: StoredDefaults | None,
    workspace: Workspace,
    progress: Progress,
) -> Proof:
    """Prove any kubeadm, whoever built it; ``version`` is the gitVersion that it must report.

    Without ``lifetimes``, it must keep to those of the first certificates that it issues.
    ``stored_defaults`` is what it must do with stored defaults, None if both are right. Raises a
    ProofError, for example CannotRun, or OverrideNotVisible for an override with stock's lifetimes.
    """
    arch = read_arch(path)
    expected = {"platform": f"linux/{arch}"}
    if version is not None:
        expected["gitVersion"] = version
    accepted = (stored_defaults,) if stored_defaults else _EITHER
    proof = _prove(path, arch, expected, lifetimes, accepted, workspace, progress)
    demand_run(proof)
    # Not before: a version that stores no lifetimes has nothing to override.
    years = {c.kind == "ca": c.years for c in proof.certificates if c.case == "fresh-ca"}
    proven = Lifetimes(ca_years=years[True], leaf_years=years[False])
    if proof.stored_defaults == "override" and proven == proven.stored("stored-defaults"):
        raise OverrideNotVisible(ca_years=proven.ca_years, leaf_years=proven.leaf_years)
    return proof


def demand_run(proof: Proof) -> None:
    """Raise CannotRun if only the file of a binary was checked."""
    if proof.ran is None:
        raise _cannot_run(proof.path, proof.arch)


def demand_arches(arches: Sequence[str]) -> None:
    """Raise CannotRun if it is known before a build that a binary for one of these cannot run."""
    for arch in arches:
        # Without a sandbox, the proof is in a container; see `demand_run`.
        if sandbox.is_available() and not can_run(arch):
            path = f"kubeadm for {arch}"
            raise _cannot_run(path, arch)


def _cannot_run(path: Path | str, arch: str) -> CannotRun:
    return CannotRun(path=path, reason=f"it is for {arch}, this machine is {sandbox.host_arch()}")


def read_version(path: Path, workspace: Workspace) -> dict[str, str] | None:
    """Return the version fields of a kubeadm, or None if it cannot run here.

    Raises WrongBinary or KubeadmFailed.
    """
    with _runner(path, read_arch(path), workspace) as runner:
        return _check_version(runner, {}) if runner else None


def _prove(
    path: Path,
    arch: str,
    expected: Mapping[str, str],
    lifetimes: Lifetimes | None,
    accepted: Sequence[StoredDefaults],
    workspace: Workspace,
    progress: Progress,
) -> Proof:
    # A copy, so that the file that runs is the file that was hashed.
    if path.stat().st_size > _MAX_SIZE:
        raise WrongBinary(path=path, reason=f"it is larger than {_MAX_SIZE >> 20} MiB")
    copy = workspace.work / f"proof-{arch}" / "kubeadm"
    copy.parent.mkdir()
    shutil.copyfile(path, copy)
    digest = sha256(copy)
    with _runner(copy, arch, workspace) as runner:
        if runner is None:
            progress.say(
                f"{arch}: static checks only, without qemu-user; no certificate was checked"
            )
            return Proof(path=path, arch=arch, sha256=digest, ran=None, where="")
        counted = _Counted(runner, f"prove {arch}", progress)
        fields = _check_version(counted, expected)
        version = _parse(fields.get("gitVersion", ""))
        certificates, stored_defaults = _prove_pki(counted, version, lifetimes, accepted)
    progress.say(f"{arch}: {len(certificates)} certificates issued and renewed, each date right")
    return Proof(
        path=path,
        arch=arch,
        sha256=digest,
        ran=runner.how,
        where=runner.where,
        version=fields,
        certificates=certificates,
        stored_defaults=stored_defaults,
    )


class _Counted:
    """A runner that tells how many runs of a kubeadm have ended; a Runner itself."""

    def __init__(self, runner: Runner, what: str, progress: Progress) -> None:
        self.how, self.where = runner.how, runner.where
        self._runner, self._what, self._progress = runner, what, progress
        self._ended, self._total, self._lock = 0, 1, threading.Lock()
        progress.advance(what, 0, None)

    def expect(self, runs: int) -> None:
        """Expect so many more runs."""
        self._total = self._ended + runs

    def run(self, arguments: tuple[str, ...], files: Files) -> tuple[str, Files]:
        """Run kubeadm; see Runner."""
        ran = self._runner.run(arguments, files)
        with self._lock:
            self._ended += 1
            self._progress.advance(self._what, self._ended, self._total)
        return ran

    def stop(self) -> None:
        """Stop what runs; see Runner."""
        self._runner.stop()


def _prove_pki(
    runner: _Counted,
    version: Version,
    demanded: Lifetimes | None,
    accepted: Sequence[StoredDefaults],
) -> tuple[tuple[IssuedCertificate, ...], StoredDefaults | None]:
    from kbuild.kubeadm.prove.pki import (  # slow to import: it needs cryptography
        RUNS_OF_A_CASE,
        cases,
        issued_lifetimes,
        prove_pki,
        stored_defaults_of,
    )

    # Making keys takes most of the time, so each case has its own thread.
    todo = cases(version, accepted)
    runner.expect(len(todo) * RUNS_OF_A_CASE + (demanded is None))
    lifetimes = demanded or issued_lifetimes(runner, version)
    with ThreadPoolExecutor(len(todo)) as pool:
        running = [
            pool.submit(prove_pki, case, runner, version, lifetimes, accepted) for case in todo
        ]
        try:
            found = tuple(certificate for case in running for certificate in case.result())
        except BaseException:
            runner.stop()  # else the other cases are waited for
            raise
    return found, stored_defaults_of(found, lifetimes, accepted)


@contextlib.contextmanager
def _runner(path: Path, arch: str, workspace: Workspace) -> Iterator[Runner | None]:
    if sandbox.is_available():
        yield sandbox_runner(path, arch, workspace.work / "proof-runs")
        return
    from kbuild.kubeadm.prove.container import container_runner  # slow to import

    if (reason := engine.why_unavailable()) is not None:
        sandbox.demand("the proof", or_else=reason)
    with container_runner(path, arch, workspace) as runner:
        yield runner


def _check_version(runner: Runner, expected: Mapping[str, str]) -> dict[str, str]:
    text, _ = runner.run(("version", "-o", "json"), {})
    fields = _version_fields(text)
    for name, value in expected.items():
        if fields.get(name) != value:
            raise WrongVersion(name=name, actual=fields.get(name), expected=value)
    return fields


def _version_fields(text: str) -> dict[str, str]:
    try:
        fields = json.loads(text)["clientVersion"]
        return {str(name): str(value) for name, value in fields.items()}
    except BROKEN as error:
        details = f"its output is not version JSON: {reason_of(error)}"
        raise KubeadmFailed(command="kubeadm version -o json", code=0, details=details) from error


def _parse(git_version: str) -> Version:
    try:
        return Version(git_version.removesuffix("-dirty"))
    except (InvalidVersion, ValueError) as error:  # too many digits are a ValueError
        raise WrongVersion(
            name="gitVersion", actual=git_version, expected="a Kubernetes version"
        ) from error
