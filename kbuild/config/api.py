"""The front of this package: the files that make lifetimes hold for a whole cluster.

Other packages import from here only.
"""

from kbuild.config.errors import BadStoredConfiguration
from kbuild.config.files import make_configuration
from kbuild.config.folder import write_configuration
from kbuild.config.model import Configuration, File, Purpose, Request
from kbuild.config.stored import change_lifetimes

__all__ = [
    "BadStoredConfiguration",
    "Configuration",
    "File",
    "Purpose",
    "Request",
    "change_lifetimes",
    "make_configuration",
    "write_configuration",
]
