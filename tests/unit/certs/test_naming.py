"""The short names of certificates, and times in words."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from kbuild.certs.naming import common_name, short_names
from kbuild.certs.times import in_words
from tests.support.inventories import PKI, certificate, in_kubeconfig

# cryptography refuses surrogates, and names of more than 64 bytes.
NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16)


@pytest.mark.slow
@given(name=NAME, organization=NAME)
def test_the_common_name_is_found_behind_whatever_else_is_there(
    name: str, organization: str
) -> None:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    assert common_name(subject.rfc4514_string()) == name


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("", ""),
        ("O=only", ""),
        (r"O=a\,CN=no,CN=yes", "yes"),
        (r"CN=M\C3\BCller", "Müller"),
        ("OU=x+CN=second", "second"),
        ("SCN=no,CN=yes", "yes"),
        ("CN=first,CN=second", "first"),
    ],
)
def test_the_common_name_of_a_written_name(subject: str, name: str) -> None:
    assert common_name(subject) == name


def test_short_names_leave_out_what_all_have_in_common() -> None:
    found = [certificate(f"{PKI}/ca.crt"), certificate(f"{PKI}/etcd/ca.crt"), in_kubeconfig("joe")]
    assert short_names(found) == ["pki/ca.crt", "pki/etcd/ca.crt", "admin.conf, user joe"]
    assert short_names(found[:1]) == ["ca.crt"]
    assert short_names([certificate("/ca.crt"), certificate("/etc/a.crt")]) == [
        "/ca.crt",
        "/etc/a.crt",
    ]
    relative = [certificate("d/pki/ca.crt"), certificate("d/a.crt")]
    assert short_names(relative) == ["pki/ca.crt", "a.crt"]
    assert short_names([*relative, certificate("/d/b.crt")])[0] == "d/pki/ca.crt"
    assert short_names([certificate("a.crt"), certificate("d/a.crt")]) == ["a.crt", "d/a.crt"]
    assert short_names([certificate("a.crt", place="certificate 2")]) == ["a.crt, certificate 2"]
    assert short_names([]) == []


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(minutes=5), "0 hours left"),
        (timedelta(hours=1), "1 hour left"),
        (timedelta(days=2), "2 days left"),
        (timedelta(days=729), "729 days left"),
        (timedelta(days=36499), "99 years left"),
        (timedelta(hours=-30), "expired 30 hours ago"),
        (timedelta(days=-12, hours=-5), "expired 12 days ago"),
        (timedelta(days=-800), "expired 2 years ago"),
    ],
)
def test_times_in_words(left: timedelta, words: str) -> None:
    assert in_words(left) == words
