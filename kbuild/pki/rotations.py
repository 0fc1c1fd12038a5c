"""Which CAs are being replaced: a file beside the manifest tells it between the steps."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kbuild.base.files import BROKEN, reason_of
from kbuild.base.strictjson import load_json
from kbuild.base.words import listed
from kbuild.pki.errors import BadPkiFile, RotationDiffers
from kbuild.pki.model import Plan, Rotation, Spec
from kbuild.pki.store import PUBLIC, File, content_of
from kbuild.x509.api import CertificateFacts, quiet, read_content

ROTATION = "kbuild-pki-rotation.json"
SIGNING = "-signing"  # ends the name of the file that holds only the CA that signs
_STAGES = ("begin", "leaves")


def read_rotations(output: Path) -> tuple[Rotation, ...]:
    """Return the rotations that have not ended; raises BadPkiFile."""
    path = output / ROTATION
    content = content_of(path)
    if not content:
        return ()
    try:
        return tuple(_rotation(each) for each in load_json(content)["rotations"])
    except BROKEN as error:
        hint = "put back the file that `kbuild pki rotate-ca` wrote"
        raise BadPkiFile(path=path, reason=reason_of(error), hint=hint) from error


def _rotation(entry: dict[str, Any]) -> Rotation:
    rotation = Rotation(**entry)
    if rotation.stage not in _STAGES or not all(isinstance(each, str) for each in entry.values()):
        message = "a value in it is not one that kbuild writes"
        raise ValueError(message)
    return rotation


def file_of(output: Path, rotations: Iterable[Rotation]) -> File:
    """Return the file that tells of rotations, which is removed if there are none."""
    entries = [asdict(each) for each in rotations]
    document = json.dumps({"version": 1, "rotations": entries}, indent=2) + "\n"
    return File(path=output / ROTATION, content=document.encode() if entries else None, mode=PUBLIC)


def demand_planned(plan: Plan) -> None:
    """Check that each CA that is being replaced is planned; raises BadPkiFile."""
    roots = {each.name for each in plan.specs if not each.issuer}
    for each in plan.rotations:
        if each.ca not in roots:
            raise BadPkiFile(
                path=plan.output / ROTATION,
                reason=f"the CA {each.ca} is being replaced, and it is not planned",
                hint="plan it again, and end its rotation first",
            )


def notes_of(plan: Plan) -> tuple[str, ...]:
    """Return what to say of the rotations of a plan."""
    notes = []
    for stage, following in (("begin", "leaves"), ("leaves", "end")):
        names = [each.ca for each in plan.rotations if each.stage == stage]
        if names:
            noun, verb = ("CA", "is") if len(names) == 1 else ("CAs", "are")
            which = f"The {noun} {listed(names)} {verb}"
            notes.append(
                f"{which} being replaced, and the last step is {stage}. Next:"
                f" `kbuild pki rotate-ca --step {following}`, or `--step back`."
            )
    return tuple(notes)


def bundle_of(spec: Spec, rotation: Rotation, pem: bytes) -> dict[str, CertificateFacts]:
    """Return both certificates in the file of a CA that is being replaced, by fingerprint.

    Raises RotationDiffers if it holds others, or in another order.
    """
    with quiet():
        found = {each.fingerprint: each for each in read_content(pem).certificates}
    if tuple(found) != rotation.order:
        stage, count = rotation.stage, len(found)
        reason = f"after the step {stage} it holds two certificates, the signer's first"
        reason += f", and it has {count}" if count != len(rotation.order) else ", and it has others"
        raise RotationDiffers(path=spec.place, reason=reason)
    return found
