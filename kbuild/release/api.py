"""The front of this package: write, sign, check and describe releases.

Other packages import from here only.
"""

from kbuild.release.check import Checked, check_folder
from kbuild.release.demands import Demands
from kbuild.release.documents import (
    claim_note,
    commit_notes,
    go_document,
    proof_document,
    source_document,
)
from kbuild.release.errors import (
    AddressNotAllowed,
    BadProvenance,
    NotARelease,
    RebuildDiffers,
    ReleaseBroken,
    RequirementsNotMet,
)
from kbuild.release.export import TOOLS, snippet
from kbuild.release.files import MAX_BINARY, Problem
from kbuild.release.names import BUILD, PROOF, PROVENANCE, SUM_SUFFIX, binary_name
from kbuild.release.packages import NAME as PACKAGE
from kbuild.release.packages import demand_tools
from kbuild.release.provenance import Statement, read_provenance
from kbuild.release.recorded import artifacts
from kbuild.release.signing import sign_keyless, sign_with_key
from kbuild.release.writer import Release, demand_free, publish, reserve

__all__ = [
    "BUILD",
    "MAX_BINARY",
    "PACKAGE",
    "PROOF",
    "PROVENANCE",
    "SUM_SUFFIX",
    "TOOLS",
    "AddressNotAllowed",
    "BadProvenance",
    "Checked",
    "Demands",
    "NotARelease",
    "Problem",
    "RebuildDiffers",
    "Release",
    "ReleaseBroken",
    "RequirementsNotMet",
    "Statement",
    "artifacts",
    "binary_name",
    "check_folder",
    "claim_note",
    "commit_notes",
    "demand_free",
    "demand_tools",
    "go_document",
    "proof_document",
    "publish",
    "read_provenance",
    "reserve",
    "sign_keyless",
    "sign_with_key",
    "snippet",
    "source_document",
]
