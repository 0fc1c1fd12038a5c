"""Compare what is there with the plan."""

from datetime import datetime

from kbuild.base.progress import Progress
from kbuild.base.words import counted
from kbuild.certs.api import EARLIER, take_inventory
from kbuild.certs.model import Inventory
from kbuild.pki.errors import NotAsPlanned
from kbuild.pki.model import Decision, Plan


def inventory_of_plan(plan: Plan, now: datetime, progress: Progress) -> Inventory:
    """Return the certificates in the output of a plan, as ``kbuild certs`` finds them."""
    return take_inventory([plan.output], now, progress, (EARLIER,))


def demand_as_planned(decisions: tuple[Decision, ...], inventory: Inventory) -> None:
    """Check that nothing is to be issued, and that no finding is critical; raises NotAsPlanned."""
    todo = [each for each in decisions if not each.is_kept]
    if todo:
        first = todo[0]
        reason = "; ".join(first.reasons) or f"it is {first.state}"
        verb = "is" if len(todo) == 1 else "are"
        count = f"{counted(len(todo), 'certificate')} {verb} not as planned"
        raise NotAsPlanned(count=count, first=f"{first.spec.name}: {reason}")
    critical = [each for each in inventory.findings if each.severity == "critical"]
    if critical:
        worst = critical[0]
        count = f"{counted(len(critical), 'critical finding')} on certificates"
        raise NotAsPlanned(count=count, first=f"{worst.path}: {worst.reason}")
