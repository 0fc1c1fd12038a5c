"""What the tests of a PKI share."""

import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kbuild.base.progress import Unit
from kbuild.pki.api import Renewal, carry_out, decide, locked, plan_of
from kbuild.x509.api import CertificateFacts, read_certificate

NOW = datetime(2026, 6, 1, 12, 0, 40, tzinfo=UTC)
KEY = {"algo": "ecdsa", "size": 256}
SIGNING = ["signing", "key encipherment"]
CONFIG: dict[str, Any] = {
    "signing": {
        "default": {"expiry": "43800h"},
        "profiles": {
            "server": {"expiry": "43800h", "usages": [*SIGNING, "server auth"]},
            "client": {"expiry": "8760h", "usages": [*SIGNING, "client auth"]},
        },
    }
}
REQUESTS: dict[str, dict[str, Any]] = {
    "ca": {"CN": "kubernetes", "key": KEY},
    "server": {"CN": "etcd", "hosts": ["127.0.0.1", "n1"], "key": KEY},
    "client": {"CN": "flanneld", "hosts": [], "key": KEY},
}


class Recipe:
    """A directory with the files of cfssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config(CONFIG)
        for name, request in REQUESTS.items():
            self.request(name, request)

    def config(self, document: object) -> None:
        (self.folder / "ca-config.json").write_text(json.dumps(document))

    def request(self, name: str, document: object) -> None:
        (self.folder / f"{name}-csr.json").write_text(json.dumps(document))

    def change(self, name: str, **values: object) -> None:
        self.request(name, {**REQUESTS[name], **values})


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(tmp_path)


def die_at(call: str, number: int) -> None:
    """Make this process kill itself at a call of os.fsync, Path.replace or Path.unlink."""
    owner: Any = {"fsync": os}.get(call, Path)
    original, left = getattr(owner, call), [number]

    def dying(*args: Any, **words: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **words)

    setattr(owner, call, dying)


class Quiet:
    """Progress that nobody sees."""

    def stage(self, title: str) -> None:
        """Begin a stage."""

    def say(self, text: str) -> None:
        """Report a message."""

    def advance(self, what: str, done: int, total: int | None, unit: Unit = "") -> None:
        """Report progress."""

    def detail(self, text: str) -> None:
        """Report a line."""


def issue(
    folder: Path, now: datetime = NOW, renewal: Renewal | None = None, *, cap: bool = False
) -> dict[str, str]:
    """Issue what is missing or changed, and return the state of each written certificate."""
    plan = plan_of(folder, cap=cap)
    with locked(plan.output):
        decisions = decide(plan, now, renewal)
        written = carry_out(plan, decisions, now, Quiet())
    return {each.name: each.state for each in written}


def facts(path: Path) -> CertificateFacts:
    return read_certificate(path.read_bytes())


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the content of each file that is no part of kbuild's own state."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if ".kbuild-pki" not in path.parts
    }
