"""The backups of control planes, as a node tells them."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kbuild.nodes.connection import CallFailed, Connection, ConnectionFailed, values_of
from kbuild.nodes.model import HostFacts, Refusal
from kbuild.nodes.renew.calls import call
from kbuild.nodes.survey import at_once
from kbuild.x509.api import Unreadable, quiet, read_certificate

_AGAIN = "run the same command again"
_PATIENCE = 600  # seconds: the sha256 of each file is computed


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBackup:
    """A backup of a control plane.

    ``made`` is its time, ``run`` the run that made it, which has a journal and a log; it is empty
    for a backup of an older kbuild. ``size`` is in KiB. ``parts`` are what is in it, ``missing``
    what could not be kept. ``until`` is the end of the API server's certificate, None without one.
    """

    name: str
    made: str
    run: str
    size: int
    is_whole: bool
    parts: tuple[str, ...]
    missing: tuple[str, ...]
    until: datetime | None


def list_backups(
    facts: Sequence[HostFacts], connections: Mapping[str, Connection], parallel: int
) -> tuple[dict[str, tuple[KeptBackup, ...]], list[Refusal]]:
    """Return the backups of hosts, the oldest first; refusals for those that cannot be asked."""
    found: dict[str, tuple[KeptBackup, ...]] = {}
    refused: list[Refusal] = []

    def ask(each: HostFacts) -> None:
        name = each.host.name
        try:
            printed = connections[name].call(call("list_backups"), timeout=_PATIENCE)
            lines = values_of(printed).get("kept", ())
            found[name] = tuple(sorted(map(_backup, lines), key=lambda backup: backup.name))
        except (CallFailed, ConnectionFailed, ValueError) as error:
            refused.append(each.refusal(str(error), _AGAIN))

    at_once(facts, ask, parallel)
    return found, sorted(refused, key=lambda each: each.host)


def _backup(line: str) -> KeptBackup:
    name, made, run, size, state, parts, missing, certificate = line.split(" ")
    return KeptBackup(
        name=name,
        made=made,
        run=run.removeprefix("-"),
        size=int(size),
        is_whole=state == "whole",
        parts=_several(parts),
        missing=tuple(each.replace("_", " ") for each in _several(missing)),
        until=_end(certificate.removeprefix("-")),
    )


def _several(text: str) -> tuple[str, ...]:
    return tuple(each for each in text.split(",") if each not in ("", "-"))


def _end(content: str) -> datetime | None:
    try:
        with quiet():
            return read_certificate(base64.b64decode(content)).not_after
    except (Unreadable, binascii.Error):
        return None
