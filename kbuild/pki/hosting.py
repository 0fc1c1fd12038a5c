"""What a host that enters or leaves a plan changes: only the certificates that need it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from kbuild.pki.errors import NamesDiffer
from kbuild.pki.model import Decision, Plan, Spec
from kbuild.pki.state import Held, decide, held_of, some
from kbuild.pki.store import File

# plan_of for a directory, which takes ``contents``.
Planner = Callable[..., Plan]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChange:
    """The plan before and after, and the files of the plan that are changed or removed.

    ``added`` are the hosts that enter, in the words of CertificateFacts.names.
    """

    before: Plan
    plan: Plan
    files: tuple[File, ...]
    added: tuple[str, ...] = ()

    def decide(self, now: datetime) -> tuple[tuple[Decision, ...], int]:
        """Return the decisions that this host needs, and how many others are not as planned.

        Raises NamesDiffer if a certificate would lose a name for another reason, or another error
        of kbuild.pki.errors.
        """
        decisions = decide(self.plan, now)
        before = {each.name: each for each in self.before.specs}
        names = {
            each.name for each in self.plan.specs if self._concerns(each, before.get(each.name))
        }
        todo = [each for each in decisions if not each.is_kept]
        for each in todo:
            if isinstance(each.spec, Spec) and each.spec.name in names:
                _demand_no_loss(each.spec, before.get(each.spec.name, each.spec))
        needed = names | {ca for each in todo if each.spec.name in names for ca in _cas(each)}
        chosen = tuple(each for each in decisions if each.is_kept or each.spec.name in needed)
        return chosen, len(decisions) - len(chosen)

    def notes(self) -> Iterator[str]:
        """Yield to which API server kubeconfigs go from now on, if it is another one."""
        before = {each.name: each.login.server for each in self.before.specs if each.login}
        servers = {
            each.login.server: None
            for each in self.plan.specs
            if each.login and before.get(each.name, each.login.server) != each.login.server
        }
        for server in servers:
            yield f"kubeconfigs now use {server}."

    def _concerns(self, spec: Spec, before: Spec | None) -> bool:
        """Tell whether a certificate changes through this host, or lacks it already."""
        if before is None or set(before.wanted.names) != set(spec.wanted.names):
            return True
        if before.login and spec.login and before.login.server != spec.login.server:
            return True
        holds = {each for each in self.added if each in spec.wanted.names}
        return bool(holds) and not holds <= _names_there(held_of(spec))


def _demand_no_loss(spec: Spec, before: Spec) -> None:
    gone = _names_there(held_of(spec)) - {*before.wanted.names, *spec.wanted.names, "DNS:"}
    if gone:
        reason = f"it has {some(sorted(gone))}, not planned"
        raise NamesDiffer(name=spec.name, reason=reason)


def _names_there(held: Held) -> set[str]:
    return set(held.facts.names) if held.facts is not None else set()


def _cas(decision: Decision) -> Iterator[str]:
    """Yield the CAs that a decision needs."""
    if isinstance(decision.spec, Spec):
        yield decision.spec.issuer
        if decision.spec.login is not None:
            yield decision.spec.login.ca
