"""The front of this package: what expires when, and what is wrong with it.

Other packages import from here, and from ``kbuild.certs.model`` the values of an inventory.
"""

from kbuild.certs.copies import Copy
from kbuild.certs.deadline import demand_longer
from kbuild.certs.document import document
from kbuild.certs.inventory import certificate_of, inventory_of, places_to_read, take_inventory
from kbuild.certs.naming import common_folder, without_copies
from kbuild.certs.reports import Reports, write_reports
from kbuild.certs.roles import role_of
from kbuild.certs.timeline import BLOCKS, Line, terminal_lines
from kbuild.certs.times import left
from kbuild.certs.walk import EARLIER

__all__ = [
    "BLOCKS",
    "EARLIER",
    "Copy",
    "Line",
    "Reports",
    "certificate_of",
    "common_folder",
    "demand_longer",
    "document",
    "inventory_of",
    "left",
    "places_to_read",
    "role_of",
    "take_inventory",
    "terminal_lines",
    "without_copies",
    "write_reports",
]
