"""Errors of compiling kubeadm."""

from pathlib import Path

from kbuild.base.errors import CompileError


class CompileFailed(CompileError):
    """The Go compiler failed."""

    arch: str
    code: int
    log: Path

    what = "compiling kubeadm for {arch} failed with exit code {code}"
    todo = "the last lines are below, the complete output is in {log}"


class OutOfMemory(CompileError):
    """The compiler ran out of memory and was killed."""

    arch: str

    what = "compiling kubeadm for {arch} ran out of memory"
    todo = "give the machine or the engine at least 4 GiB of memory"


class NoBinary(CompileError):
    """The compiler succeeded but wrote no binary."""

    arch: str
    log: Path

    what = "the compiler wrote no kubeadm for {arch}"
    todo = "its output is in {log}"
