"""The front of this package: ask hosts, plan, and carry out.

Other packages import from here only.
"""

from kbuild.nodes.check.ask import as_one, check
from kbuild.nodes.check.checked import Checked, HostChecked, Issues, Wanted
from kbuild.nodes.check.document import check_document
from kbuild.nodes.connection import Connection, connections
from kbuild.nodes.errors import (
    HostsRefused,
    HostsUnchecked,
    HostsUnreachable,
    NoHosts,
    NotConfirmed,
    RunFailed,
)
from kbuild.nodes.hosts import Access, read_hosts
from kbuild.nodes.install import Kubeadm, Wishes, plan_install
from kbuild.nodes.rollback import plan_rollback
from kbuild.nodes.runner import Run, Watcher, carry_out, run_name
from kbuild.nodes.survey import survey

__all__ = [
    "Access",
    "Checked",
    "Connection",
    "HostChecked",
    "HostsRefused",
    "HostsUnchecked",
    "HostsUnreachable",
    "Issues",
    "Kubeadm",
    "NoHosts",
    "NotConfirmed",
    "Run",
    "RunFailed",
    "Wanted",
    "Watcher",
    "Wishes",
    "as_one",
    "carry_out",
    "check",
    "check_document",
    "connections",
    "plan_install",
    "plan_rollback",
    "read_hosts",
    "run_name",
    "survey",
]
