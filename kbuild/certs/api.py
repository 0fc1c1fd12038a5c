"""The front of this package: what expires when, and what is wrong with it.

Other packages import from here, and from ``kbuild.certs.model`` the values of an inventory.
"""

from kbuild.certs.deadline import demand_longer
from kbuild.certs.document import document
from kbuild.certs.inventory import places_to_read, take_inventory
from kbuild.certs.times import left

__all__ = ["demand_longer", "document", "left", "places_to_read", "take_inventory"]
