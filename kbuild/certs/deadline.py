"""``--fail-before``: raise an error if a certificate ends too soon."""

from datetime import timedelta

from kbuild.certs.errors import CertificatesExpire, CertificatesUnread
from kbuild.certs.inventory import UNREAD
from kbuild.certs.model import Certificate, Inventory
from kbuild.certs.roles import known_file
from kbuild.certs.rotation import will_rotate
from kbuild.certs.times import left


def demand_longer(inventory: Inventory, within: timedelta) -> None:
    """Check that no certificate has expired, or expires within a time, and that all were read.

    Those that kubelet has replaced do not count. Raises CertificatesExpire or CertificatesUnread.
    """
    ending = [
        each
        for each in inventory.certificates
        if each.time_left(inventory.read_at) <= within
        and _is_in_use(each)
        and not will_rotate(each, inventory.read_at)
    ]
    if ending:
        first = ending[0]
        raise CertificatesExpire(
            count="1 certificate expires" if len(ending) == 1 else f"{len(ending)} expire",
            within=left(within),
            first=f"{first.path} {first.place}".strip(),
            when=f"{first.not_after:%Y-%m-%d}",
        )
    unread = [each for each in inventory.findings if each.kind in UNREAD]
    if unread:
        count = "1 file" if len(unread) == 1 else f"{len(unread)} files"
        raise CertificatesUnread(count=count, first=f"{unread[0].path}: {unread[0].reason}")
    if not inventory.certificates:
        raise CertificatesUnread(count="all", first="no certificate was found")


def _is_in_use(certificate: Certificate) -> bool:
    file = known_file(certificate.path)
    return file is None or file.state != "superseded"
