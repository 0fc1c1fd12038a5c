"""What `kbuild nodes check` shows of what it found."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from kbuild.certs.model import Finding, Inventory
from kbuild.cli import nodes_check
from kbuild.nodes.api import Checked, HostChecked, Issues
from kbuild.nodes.check.seen import NodeSeen
from kbuild.nodes.check.served import Port, Served
from kbuild.nodes.model import Refusal
from kbuild.x509.api import read_certificate
from tests.support.authority import DAY, issue
from tests.support.command import Done, run_here
from tests.support.failures import outcome
from tests.support.inventories import PKI, READ_AT, certificate
from tests.support.node_tree import facts


class Show(Protocol):
    def __call__(
        self, *hosts: HostChecked, refused: tuple[Refusal, ...] = (), more: tuple[str, ...] = ()
    ) -> Done: ...


FILE = f"{PKI}/apiserver.crt"
SERVED = read_certificate(issue("kube-apiserver", born=READ_AT - 300 * DAY).pem)
BAD = Finding(
    severity="critical",
    kind="key-readable",
    path=f"{PKI}/ca.key",
    place="",
    reason="every user may use it",
    command="chmod 600 it",
)


def host(name: str, days: int = 100, *findings: Finding, is_known: bool = False) -> HostChecked:
    seen = NodeSeen(
        facts=facts(name),
        copies=(),
        components={},
        started={},
        changed={},
        kubelet={},
        stored=None,
        is_cut=False,
    )
    one = certificate(FILE, days=days)
    port = Port(component="kube-apiserver", address="127.0.0.1", number=6443, file=FILE)
    return HostChecked(
        seen=seen,
        inventory=Inventory(
            read_at=READ_AT, paths=("/etc",), certificates=(one,), findings=tuple(findings)
        ),
        served=(Served(port=port, certificate=SERVED),) if is_known else (),
        issues=Issues(ca_years=100, leaf_years=50) if is_known else None,
    )


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Give what shows hosts, and refusals of others."""

    def run(
        *hosts: HostChecked, refused: tuple[Refusal, ...] = (), more: tuple[str, ...] = ()
    ) -> Done:
        checked = Checked(at=READ_AT, hosts=hosts, unreachable=refused, between=())
        monkeypatch.setattr(nodes_check, "check", lambda *_: checked)
        monkeypatch.setattr(nodes_check, "connections", lambda _: _nothing())
        return run_here("nodes", "check", "--hosts", "n1,n2,n3", *more)

    return run


@contextlib.contextmanager
def _nothing() -> Iterator[dict[str, object]]:
    yield {}


def test_hosts_with_the_same_file_share_a_row(shown: Show) -> None:
    done = shown(host("n1"), host("n2"), host("n3", 50))
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines() if FILE in line]
    assert rows == [
        ["n3", FILE, "API", "server,", "server", "2027-01-15", "50d"],
        ["n1,", "n2", FILE, "API", "server,", "server", "2027-03-06", "100d"],
    ]


def test_of_many_hosts_only_the_first_are_named(shown: Show) -> None:
    done = shown(*(host(f"n{number}", 100, BAD) for number in range(1, 9)))
    assert "n1, n2, n3, n4, n5, n6 and 2 more  " in done.stdout
    assert (
        f"critical:\n  n1, n2, n3, n4, n5, n6 and 2 more: {BAD.path}: every user may use it"
        " [key-readable]\n    chmod 600 it\n"
    ) in done.stdout


def test_what_kubeadm_issues_and_what_is_served_are_shown(shown: Show) -> None:
    done = shown(host("n1", is_known=True))
    assert "CA 100y, leaf 50y" in done.stdout
    assert "6443: until 2027-01-30" in done.stdout
    assert "not known" not in done.stdout
    assert "not known: give its release with --release" in shown(host("n1")).stdout


def test_hosts_that_were_not_checked_are_named(shown: Show) -> None:
    refusal = Refusal(host="n3", reason="no route to host", todo="see")
    done = shown(host("n1"), refused=(refusal,))
    assert outcome(done) == (100, "hosts-unchecked")
    assert "n3: not checked: no route to host" in done.stdout
    assert "error[hosts-unchecked]: 1 of 3 hosts could not be checked" in done.stderr


def test_certificates_that_expire_are_told_before_hosts_that_were_not_checked(
    shown: Show,
) -> None:
    refusal = Refusal(host="n3", reason="no route to host", todo="see")
    done = shown(host("n1"), refused=(refusal,), more=("--fail-before", "200d"))
    assert outcome(done) == (100, "certificates-expire")
    assert f"n1:{FILE}" in done.stderr


def test_the_document_has_hosts_certificates_and_findings(shown: Show) -> None:
    one = host("n1", 100, BAD, is_known=True)
    document = json.loads(shown(one, more=("--json",)).stdout)
    assert set(document) == {"read_at", "hosts", "unreachable", "certificates", "findings"}
    assert document["hosts"][0]["kubeadm"]["issues"] == {"ca_days": 36500, "leaf_days": 18250}
    assert document["certificates"][0]["host"] == "n1"
    assert (
        document["findings"][0] | {"host": "n1", "kind": "key-readable"} == document["findings"][0]
    )


def test_no_host_at_all_is_an_error_of_its_own(shown: Show) -> None:
    refusal = Refusal(host="n1", reason="no route to host", todo="see")
    done = shown(refused=(refusal,), more=("--fail-before", "90d"))
    assert outcome(done) == (100, "hosts-unchecked")


def test_a_kubeadm_that_does_not_run_is_told(shown: Show) -> None:
    broken = host("n1")
    seen = replace(broken.seen, facts=replace(broken.seen.facts, version=""))
    assert "cannot run" in shown(replace(broken, seen=seen)).stdout


def test_reports_tell_which_hosts_were_not_checked(shown: Show, tmp_path: Path) -> None:
    page, metrics = tmp_path / "nodes.html", tmp_path / "nodes.prom"
    refusal = Refusal(host="n3", reason="no route to host", todo="see `ssh n3`")
    shown(host("n1"), refused=(refusal,), more=("--html", str(page), "--prometheus", str(metrics)))
    assert "the host could not be checked: no route to host" in page.read_text()
    assert "x509_read_errors 1\n" in metrics.read_text()


def test_no_empty_table_is_shown_if_there_are_no_certificates(shown: Show) -> None:
    one = host("n1")
    empty = replace(one, inventory=replace(one.inventory, certificates=()))
    done = shown(empty)
    assert "\nno certificates\n" in done.stdout
    assert "NotAfter" not in done.stdout


@pytest.mark.parametrize("path", ["pki", "./pki", "~/pki"])
def test_a_relative_path_is_refused_for_a_node_has_no_current_directory(
    path: str, shown: Show
) -> None:
    done = shown(host("n1"), more=("/etc/etcd", path))
    assert done.returncode == 2, done.stderr
    assert "error[bad-setting]" in done.stderr
    assert "it is not absolute" in done.stderr
    assert shown(host("n1"), more=("/etc/etcd",)).returncode == 0


def test_backups_are_not_counted_for_a_user_who_cannot_see_them(shown: Show) -> None:
    one = host("n1", is_known=True)
    other = replace(one, seen=replace(one.seen, facts=replace(one.seen.facts, uid=1000)))
    assert "not known" not in shown(one).stdout
    assert "not known" in shown(other).stdout
