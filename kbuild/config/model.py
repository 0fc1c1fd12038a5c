"""What is asked for, and the files that come of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.version import Version

from kbuild.kubeadm.model import Lifetimes

Purpose = Literal["new", "living"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A cluster and the lifetimes of its certificates.

    ``tag`` is the version as Kubernetes writes it, such as v1.31.0-rc.1. The two files are the
    stored configuration of a living cluster, as kubectl prints it, or None.
    """

    tag: str
    lifetimes: Lifetimes
    purpose: Purpose
    kubeadm_config: Path | None = None
    kubelet_config: Path | None = None

    @property
    def version(self) -> Version:
        """Return the version."""
        return Version(self.tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to write: its name in the output, what it is for in one line, and its content."""

    name: str
    about: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All files for a request, and what the user must know first.

    ``needs_build`` tells whether kubeadm itself must be built with these lifetimes.
    """

    needs_build: bool
    notes: tuple[str, ...]
    files: tuple[File, ...]
