"""``--fail-before``: raise an error if a certificate ends too soon."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from kbuild.base.values import Age, day
from kbuild.base.words import counted
from kbuild.certs.errors import CertificatesExpire, CertificatesUnread
from kbuild.certs.inventory import UNREAD
from kbuild.certs.model import Certificate, Inventory, first_to_expire
from kbuild.certs.rotation import will_rotate


def demand_longer(inventory: Inventory, age: Age) -> None:
    """Check that no certificate has expired, or expires within an age, and that all were read.

    Those that kubelet has replaced do not count, and a CA counts once, as the findings have it.
    Raises CertificatesExpire or CertificatesUnread.
    """
    within = timedelta(seconds=age)
    ending = [
        each
        for each in _each_ca_once(inventory.certificates)
        if each.time_left(inventory.read_at) <= within and not will_rotate(each, inventory.read_at)
    ]
    if ending:
        raise _expire(ending, inventory.read_at, age.written)
    unread = [each for each in inventory.findings if each.kind in UNREAD]
    if unread:
        count = counted(len(unread), "file")
        first = f"{unread[0].path}: {unread[0].reason}"
        problem = f"no certificate that was read expires, but {count} could not be read: {first}"
        raise CertificatesUnread(problem=problem)
    if not inventory.certificates:
        where = ", ".join(inventory.paths)
        raise CertificatesUnread(problem=f"there is no certificate in {where}")


def _each_ca_once(certificates: Iterable[Certificate]) -> list[Certificate]:
    """Return certificates, of the copies of a CA one, in a file if it can be; see Scene."""
    found: dict[str, Certificate] = {}
    for each in sorted(certificates, key=lambda each: bool(each.place)):
        name = each.fingerprint if each.is_ca else f"{each.path} {each.place}"
        if not each.is_superseded:
            found.setdefault(name, each)
    return sorted(found.values(), key=first_to_expire)


def _expire(ending: list[Certificate], now: datetime, within: str) -> CertificatesExpire:
    expired = sum(each.time_left(now) <= timedelta() for each in ending)
    ahead = len(ending) - expired
    counts = []
    if expired:
        counts.append(
            f"{counted(expired, 'certificate')} {'has' if expired == 1 else 'have'} expired"
        )
    if ahead:
        verb = "expires" if ahead == 1 else "expire"
        counts.append(f"{counted(ahead, 'certificate')} {verb} within {within}")
    first = ending[0]
    verb = "expired" if expired else "expires"
    return CertificatesExpire(
        count=" and ".join(counts),
        first=f"{first.path} {first.place}".strip(),
        when=f"{verb} on {day(first.not_after)}",
    )
