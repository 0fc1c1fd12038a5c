"""The hosts of a certificate: addresses, DNS names, e-mail addresses and URIs."""

import ipaddress
import re
from collections.abc import Iterable

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_MAILBOX = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[^@\s]+", re.ASCII)
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[!-~]+", re.ASCII)
_PARTS = re.compile(
    r"[^:]+://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?[^#]*)?(?:#(?P<fragment>.*))?", re.ASCII
)
_AUTHORITY = re.compile(
    r"(?:(?P<user>[A-Za-z0-9._:~!$&'()*+,;=%@-]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=-]*)(?::[0-9]*)?",
    re.ASCII,
)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.ASCII)
_LONGEST = 253  # characters of a DNS name


def alternative_name(host: str) -> str:
    """Return a host in the words of CertificateFacts.names; raises ValueError that says why not.

    As cfssl tells them apart (csr/csr.go): an address, else an e-mail address, else, since 1.3, a
    URI, else a DNS name. cfssl takes anything for a DNS name.
    """
    if address := _address(host):
        return f"IP:{address}"
    if _MAILBOX.fullmatch(host):
        _demand_dns_name(host.partition("@")[2])
        return f"email:{host}"
    if _URI.fullmatch(host):
        _demand_uri(host)
        return f"URI:{host}"
    _demand_dns_name(host.removeprefix("*."))
    return f"DNS:{host}"


def _address(host: str) -> str:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id:
            message = "an address in a certificate has no zone"
            raise ValueError(message)
        found = found.ipv4_mapped or found  # as Go, which writes four bytes
    return str(found)


def _demand_uri(uri: str) -> None:
    """Check that Go reads a certificate with this URI; raises ValueError that says why not.

    As url.Parse of net/url and parseSANExtension of crypto/x509, which refuses empty labels.
    """
    parts = _PARTS.fullmatch(uri)
    assert parts is not None
    authority = _AUTHORITY.fullmatch(parts["authority"])
    for part in (parts["authority"], parts["path"], parts["fragment"] or ""):
        if bad := _BAD_ESCAPE.search(part):
            message = f"{bad[0]!r} is no percent escape"
            raise ValueError(message)
    if authority is None:
        message = f"{parts['authority']!r} cannot be the host of a URI"
        raise ValueError(message)
    host = authority["host"]
    if host.startswith("["):
        ipaddress.IPv6Address(host[1:-1])
    elif host and "" in host.split("."):
        message = f"the host {host!r} has an empty part"
        raise ValueError(message)


def _demand_dns_name(name: str) -> None:
    if not name:
        reason = "it is empty"
    elif name != name.strip() or re.search(r"\s", name):
        reason = "it has a space in it"
    elif "/" in name:
        reason = "it is a range of addresses or a path"
    elif re.fullmatch(r"\[?[0-9a-fA-F.:]+\]?:\d+|[^:]+:\d+", name):
        reason = "it has a port"
    elif len(name) > _LONGEST:
        reason = f"it has more than {_LONGEST} characters"
    elif bad := next((each for each in name.split(".") if not _LABEL.fullmatch(each)), None):
        reason = f"{bad!r} cannot be a part of a name"
    elif "" in name.split("."):
        reason = "it has an empty part"
    elif name.rpartition(".")[2].isdigit():
        reason = "it looks like an address, but is none"
    else:
        return
    raise ValueError(reason)


def repeated(values: Iterable[str]) -> str:
    """Return the first value that is there twice, or empty text."""
    seen = set[str]()
    for each in values:
        if each in seen:
            return each
        seen.add(each)
    return ""
