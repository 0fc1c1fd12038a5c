"""The front of this package: plan, issue and renew the certificates of a cluster.

Other packages import from here, and from ``kbuild.pki.model`` the values of a plan.
"""

from kbuild.pki.adding import with_host
from kbuild.pki.beginning import write_template
from kbuild.pki.checking import (
    TokenKey,
    demand_as_planned,
    demand_renewable,
    inventory_of_plan,
    token_keys,
)
from kbuild.pki.distributing import Delivery, deliveries, deliveries_of, facts_to_know
from kbuild.pki.durations import hours
from kbuild.pki.errors import UnknownCertificate
from kbuild.pki.hosting import HostChange
from kbuild.pki.importing import Derived, derive
from kbuild.pki.importing import write as write_derived
from kbuild.pki.issuing import carry_out, demand_ends
from kbuild.pki.key_uris import KeyUri
from kbuild.pki.nodes import gaps, read_nodes
from kbuild.pki.planning import (
    UNFINISHED,
    UNKNOWN_FINISH,
    key_uris,
    places_of,
    plan_of,
    telling_unfinished,
)
from kbuild.pki.removing import without_host
from kbuild.pki.rotating import Step, Turn, Turned, rotated, turn_of
from kbuild.pki.rotations import notes_of
from kbuild.pki.state import Renewal, decide, extension
from kbuild.pki.store import File, is_unfinished, locked
from kbuild.pki.tokens import Tokens
from kbuild.pki.units import Units, make_units

__all__ = [
    "UNFINISHED",
    "UNKNOWN_FINISH",
    "Delivery",
    "Derived",
    "File",
    "HostChange",
    "KeyUri",
    "Renewal",
    "Step",
    "TokenKey",
    "Tokens",
    "Turn",
    "Turned",
    "Units",
    "UnknownCertificate",
    "carry_out",
    "decide",
    "deliveries",
    "deliveries_of",
    "demand_as_planned",
    "demand_ends",
    "demand_renewable",
    "derive",
    "extension",
    "facts_to_know",
    "gaps",
    "hours",
    "inventory_of_plan",
    "is_unfinished",
    "key_uris",
    "locked",
    "make_units",
    "notes_of",
    "places_of",
    "plan_of",
    "read_nodes",
    "rotated",
    "telling_unfinished",
    "token_keys",
    "turn_of",
    "with_host",
    "without_host",
    "write_derived",
    "write_template",
]
