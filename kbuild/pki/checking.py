"""Compare what is there with the plan."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from kbuild.base.progress import Progress
from kbuild.base.words import counted
from kbuild.certs.api import EARLIER, take_inventory
from kbuild.certs.model import Inventory
from kbuild.pki.errors import (
    ModuleNotLoaded,
    ModuleNotNamed,
    NotAsPlanned,
    NotRenewable,
    Pkcs11ExtraMissing,
    PublicKeyNotFound,
    TokenKeyDiffers,
    TokenNotThere,
    UnknownCertificate,
)
from kbuild.pki.model import Decision, Plan
from kbuild.pki.state import held_of
from kbuild.pki.tokens import Tokens

# Nothing is wrong with a token that lies in a safe, or a key that only its PIN shows.
_UNKNOWN = (Pkcs11ExtraMissing, ModuleNotNamed, ModuleNotLoaded, TokenNotThere, PublicKeyNotFound)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """The key of a CA that is on a token; ``unknown`` is why it could not be compared, or empty."""

    ca: str
    uri: str
    unknown: str = ""


def token_keys(plan: Plan, tokens: Tokens) -> Iterator[TokenKey]:
    """Yield the keys of CAs that are on tokens, compared with the certificates. Asks for no PIN.

    Raises TokenKeyDiffers, or another error of kbuild.pki.errors if a token is there and the key
    cannot be that of the CA.
    """
    for spec in plan.specs:
        if (uri := spec.key_uri) is None or (facts := held_of(spec).facts) is None:
            continue
        try:
            is_same = tokens.public_key(uri) == facts.public_key
        except _UNKNOWN as error:
            yield TokenKey(ca=spec.name, uri=str(uri), unknown=error.happened)
            continue
        if not is_same:
            raise TokenKeyDiffers(path=spec.place, uri=uri)
        yield TokenKey(ca=spec.name, uri=str(uri))


def inventory_of_plan(plan: Plan, now: datetime, progress: Progress) -> Inventory:
    """Return the certificates in the output of a plan, as ``kbuild certs`` finds them."""
    return take_inventory([plan.output], now, progress, (EARLIER,))


def demand_renewable(plan: Plan, names: Iterable[str]) -> None:
    """Check that names are those of certificates, and of no CA.

    Raises NotRenewable or UnknownCertificate.
    """
    leaves = [each.name for each in plan.specs if not each.wanted.is_ca]
    owners = {path.name: each.name for each in plan.items for path in each.files}
    for name in names:
        if name in leaves:
            continue
        if any(each.name == name for each in plan.pairs):
            reason = "it is a key pair without certificate, which has no end"
            hint = "leave it out; `kbuild pki issue` makes it if it is missing"
        elif any(each.name == name for each in plan.specs):
            reason = "it is a CA"
            hint = (
                f"`kbuild pki extend-ca {name}` gives it a later end, with the same key;"
                f" `kbuild pki rotate-ca {name}` replaces it by one with a new key"
            )
        elif name in owners:
            reason = f"it is a file of {owners[name]}"
            hint = f"give that name instead of {name}"
        else:
            raise UnknownCertificate(name=name, known=", ".join(leaves))
        raise NotRenewable(name=name, reason=reason, hint=hint)


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
