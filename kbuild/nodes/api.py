"""The front of this package: ask hosts, plan, and carry out.

Other packages import from here only.
"""

from kbuild.nodes.check.ask import as_one, check, for_reports
from kbuild.nodes.check.checked import Checked, HostChecked, Wanted
from kbuild.nodes.check.document import check_document
from kbuild.nodes.connection import Connection, connections
from kbuild.nodes.errors import (
    HostsRefused,
    HostsUnchecked,
    HostsUnreachable,
    NoControlPlane,
    NoHosts,
    NoPassword,
    NotConfirmed,
    RunFailed,
    RunInterrupted,
)
from kbuild.nodes.hosts import Access, demand_readable, read_hosts
from kbuild.nodes.install import Kubeadm, Wishes, not_root, plan_install
from kbuild.nodes.locks import demand_idle
from kbuild.nodes.model import Issues
from kbuild.nodes.renew.backups import KeptBackup, list_backups
from kbuild.nodes.renew.facts import ControlPlane, survey_control_planes
from kbuild.nodes.renew.health import Prover, leader_last, unhealthy
from kbuild.nodes.renew.plan import RenewWishes, plan_renewal
from kbuild.nodes.renew.repair import plan_repair
from kbuild.nodes.renew.stored import (
    Change,
    StoredConfiguration,
    built_for,
    is_changed,
    obeying,
    read_stored,
    with_change,
    with_notes,
    with_restored,
)
from kbuild.nodes.renew.undo import Backup, UndoWishes, choose_backup, plan_undo
from kbuild.nodes.renew.workers import (
    Token,
    Worker,
    expired_workers,
    plan_workers,
    remove_token,
    worker_advice,
)
from kbuild.nodes.rollback import plan_rollback
from kbuild.nodes.runner import Run, Watcher, carry_out, run_name
from kbuild.nodes.survey import each_once, survey

__all__ = [
    "Access",
    "Backup",
    "Change",
    "Checked",
    "Connection",
    "ControlPlane",
    "HostChecked",
    "HostsRefused",
    "HostsUnchecked",
    "HostsUnreachable",
    "Issues",
    "KeptBackup",
    "Kubeadm",
    "NoControlPlane",
    "NoHosts",
    "NoPassword",
    "NotConfirmed",
    "Prover",
    "RenewWishes",
    "Run",
    "RunFailed",
    "RunInterrupted",
    "StoredConfiguration",
    "Token",
    "UndoWishes",
    "Wanted",
    "Watcher",
    "Wishes",
    "Worker",
    "as_one",
    "built_for",
    "carry_out",
    "check",
    "check_document",
    "choose_backup",
    "connections",
    "demand_idle",
    "demand_readable",
    "each_once",
    "expired_workers",
    "for_reports",
    "is_changed",
    "leader_last",
    "list_backups",
    "not_root",
    "obeying",
    "plan_install",
    "plan_renewal",
    "plan_repair",
    "plan_rollback",
    "plan_undo",
    "plan_workers",
    "read_hosts",
    "read_stored",
    "remove_token",
    "run_name",
    "survey",
    "survey_control_planes",
    "unhealthy",
    "with_change",
    "with_notes",
    "with_restored",
    "worker_advice",
]
