"""Hosts of certificates."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.pki.hosts import alternative_name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.1", "IP:192.0.2.1"),
        ("::1", "IP:::1"),
        ("2001:DB8::0:1", "IP:2001:db8::1"),
        ("::ffff:192.0.2.1", "IP:192.0.2.1"),
        ("kubernetes.default.svc.cluster.local", "DNS:kubernetes.default.svc.cluster.local"),
        ("*.example.org", "DNS:*.example.org"),
        ("under_score", "DNS:under_score"),
        ("admin@example.org", "email:admin@example.org"),
        *(
            (uri, f"URI:{uri}")
            for uri in (
                "spiffe://cluster/ns/x",
                "file:///etc/x",
                "http://u:p%20w@a-b.example:8080/%41?q=%zz#f%2F",
                "https://[2001:db8::1]:443/",
                "http://under_score",
            )
        ),
    ],
)
def test_a_host_is_told_as_cfssl_tells_it(host: str, name: str) -> None:
    assert alternative_name(host) == name


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("", "empty"),
        ("10.0.0.256", "looks like an address"),
        ("10.0.0", "looks like an address"),
        ("10.0.0.0/24", "range"),
        ("10.0.0.1:2379", "port"),
        ("[::1]:2379", "port"),
        ("node1:2379", "port"),
        *((f"http://{host}", "escape") for host in ("%zz/", "a/%", "a/%4", "a/#%x", "u%z@a")),
        *(
            (f"http://{host}", "cannot be the host")
            for host in ("a`b/", "a{b}", "a|b", "a\\b", "a^b", "<a>", "a:b:80", "a:http", "[::1")
        ),
        *((f"http://{host}", "cannot be the host") for host in ("%41/", "[fe80::1%25eth0]", "[x]")),
        *((f"http://{host}", "empty part") for host in ("a..b", "a./x", ".a:80", "u@a.")),
        ("http://[1::2::3]/", "IPv6|At most"),
        ("node 1", "space"),
        (" node1", "space"),
        ("<node>", "cannot be a part"),
        ("-node", "cannot be a part"),
        ("a..b", "empty part"),
        ("node.", "empty part"),
        ("fe80::1%eth0", "zone"),
        ("ä", "cannot be a part"),
        ("*.*.a", "cannot be a part"),
        ("a" * 64, "cannot be a part"),
        (".".join(["a" * 60] * 5), "characters"),
    ],
)
def test_what_is_no_host_is_refused_with_the_reason(host: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        alternative_name(host)


@given(st.ip_addresses())
def test_every_address_is_one(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert alternative_name(str(address)).startswith("IP:")
