"""What is found wrong with nodes, from what was seen of them."""

from dataclasses import replace

import pytest

from kbuild.certs.model import Finding, Inventory
from kbuild.nodes.check.ask import as_one, lifetimes_of
from kbuild.nodes.check.checked import Checked, HostChecked
from kbuild.nodes.check.compare import between
from kbuild.nodes.check.document import check_document
from kbuild.nodes.check.judge import of_node
from kbuild.nodes.check.seen import Component, NodeSeen, Stored
from kbuild.nodes.check.served import Port, Served
from kbuild.nodes.model import Issues, Refusal
from kbuild.x509.api import read_certificate
from tests.support.authority import DAY, Issued, issue
from tests.support.inventories import PKI, READ_AT, certificate
from tests.support.node_tree import facts

CA = issue("kubernetes", ca=True, born=READ_AT - 400 * DAY)
FILE = f"{PKI}/apiserver.crt"
HUNDRED = Issues(ca_years=100, leaf_years=100)
NEW = issue("kube-apiserver", CA, born=READ_AT - DAY, years=100)
OLD = issue("kube-apiserver", CA, born=READ_AT - 300 * DAY, years=1)
APISERVER = Component(
    name="kube-apiserver",
    image="registry.example.org/kube-apiserver:v1.31.2",
    flags={
        "tls-cert-file": FILE,
        "tls-private-key-file": f"{PKI}/apiserver.key",
        "etcd-certfile": f"{PKI}/apiserver-etcd-client.crt",
        "audit-log-path": "/var/log/audit.log",
    },
)


def seen(name: str = "n1", **other: object) -> NodeSeen:
    values: dict[str, object] = {
        "facts": facts(name),
        "copies": (),
        "components": {"kube-apiserver": APISERVER},
        "started": {"kube-apiserver": READ_AT - DAY, "kubelet": READ_AT - DAY},
        "changed": {},
        "kubelet": {},
        "stored": None,
        "is_cut": False,
    }
    return NodeSeen(**(values | other))  # type: ignore[arg-type]


def inventory(in_file: Issued = NEW, path: str = FILE) -> Inventory:
    read = read_certificate(in_file.pem)
    one = certificate(
        path,
        fingerprint=read.fingerprint,
        not_before=read.not_before,
        not_after=read.not_after,
    )
    return Inventory(read_at=READ_AT, paths=("/etc",), certificates=(one,), findings=())


def serving(issued: Issued | None, problem: str = "", **port: object) -> Served:
    values: dict[str, object] = {
        "component": "kube-apiserver",
        "address": "127.0.0.1",
        "number": 6443,
        "file": FILE,
    }
    read = read_certificate(issued.pem) if issued else None
    return Served(port=Port(**(values | port)), certificate=read, problem=problem)  # type: ignore[arg-type]


def found(
    node: NodeSeen, *served: Served, issues: Issues | None = None, files: Inventory | None = None
) -> dict[str, Finding]:
    return {each.kind: each for each in of_node(node, files or inventory(), served, issues)}


def test_a_node_in_order_has_no_findings() -> None:
    assert found(seen(), serving(NEW), issues=HUNDRED) == {}


def test_an_older_certificate_that_is_served_needs_a_restart() -> None:
    one = found(seen(), serving(OLD))["restart-needed"]
    assert one.severity == "warning"
    assert "port 6443 serves a certificate until 2027-01-30" in one.reason
    assert one.command == (
        "cd /etc/kubernetes/manifests && mv kube-apiserver.yaml .. && sleep 20"
        " && mv ../kube-apiserver.yaml ."
    )


def test_it_is_critical_when_it_expires_soon() -> None:
    soon = issue("kube-apiserver", CA, born=READ_AT - 360 * DAY)
    assert found(seen(), serving(soon))["restart-needed"].severity == "critical"


def test_another_certificate_than_the_file_is_told() -> None:
    files = inventory(OLD)
    assert set(found(seen(), serving(NEW), files=files)) == {"served-differs"}


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        (f"{PKI}/apiserver-etcd-client.crt", {"restart-needed"}),
        (FILE, set()),  # what is served is what is in the file
        (f"{PKI}/apiserver.key", set()),
        ("/var/log/audit.log", set()),
        ("/etc/kubernetes/other.crt", set()),
    ],
)
def test_a_file_that_changed_after_the_start_needs_a_restart(path: str, kinds: set[str]) -> None:
    node = seen(changed={path: READ_AT - DAY / 2})
    assert set(found(node, serving(NEW))) == kinds
    before = seen(changed={path: READ_AT - 2 * DAY})
    assert found(before, serving(NEW)) == {}


def test_kubelet_rereads_its_configuration_at_a_restart_only() -> None:
    node = seen(changed={"/var/lib/kubelet/config.yaml": READ_AT})
    assert found(node, serving(NEW))["restart-needed"].command == "systemctl restart kubelet"


@pytest.mark.parametrize(
    ("version", "days", "severity"),
    [
        ("v1.31.2", 200, None),
        ("v1.31.2", 300, "warning"),
        ("v1.31.2", 340, "critical"),
        ("v1.31.2", 400, "critical"),
        ("v1.33.0", 400, None),
        ("v1.33.0", 1090, "critical"),
    ],
)
def test_an_apiserver_is_restarted_before_its_own_certificate_expires(
    version: str, days: int, severity: str | None
) -> None:
    component = replace_image(version)
    began = {"kube-apiserver": READ_AT - days * DAY, "kubelet": READ_AT}
    node = seen(components={"kube-apiserver": component}, started=began)
    one = found(node, serving(NEW)).get("loopback-expires")
    assert (one and one.severity) == severity


def replace_image(version: str) -> Component:
    return Component(
        name="kube-apiserver", image=f"example.org/kube-apiserver:{version}", flags=APISERVER.flags
    )


def test_a_program_that_does_not_run_is_critical() -> None:
    node = seen(started={"kubelet": READ_AT})
    kinds = found(node, serving(None, "nothing answers"))
    assert set(kinds) == {"not-running"}
    silent = found(seen(), serving(None, "nothing answers"))
    assert set(silent) == {"not-served"}
    assert "nothing answers" in silent["not-served"].reason


def test_stored_lifetimes_win_over_those_that_kubeadm_was_built_for() -> None:
    stock = seen(stored=Stored(leaf="8760h0m0s", ca="87600h0m0s"))
    for issues in (None, HUNDRED):  # nobody knows whether it takes stock's defaults as not set
        finding = found(stock, serving(NEW), issues=issues)["stored-lifetimes"]
        assert finding.severity == "info"
        assert "except one of `--stored-defaults override`" in finding.reason
    short = seen(stored=Stored(leaf="43800h0m0s", ca="87600h0m0s"))
    assert found(short, serving(NEW))["stored-lifetimes"].severity == "info"
    known = found(short, serving(NEW), issues=HUNDRED)["stored-lifetimes"]
    assert known.severity == "warning"
    assert "built for 100 years" in known.reason
    long = seen(stored=Stored(leaf="876000h0m0s", ca="876000h0m0s"))
    assert found(long, serving(NEW), issues=HUNDRED) == {}
    old = replace(facts(), version="v1.30.2")  # its kubeadm does not read them
    assert found(seen(stored=short.stored, facts=old), serving(NEW), issues=HUNDRED) == {}
    assert known.command.startswith("kbuild config --version v1.31.2 --ca-years 100 ")
    assert "caCertificateValidityPeriod 87600h0m0s" in known.reason
    unknown = seen(stored=Stored(problem="kubectl is not there"))
    assert found(unknown, serving(NEW), issues=HUNDRED) == {}


def test_what_was_recorded_when_kubeadm_was_installed_counts() -> None:
    recorded = replace(facts(), issues=HUNDRED)
    assert lifetimes_of(seen(facts=recorded), {}) == HUNDRED
    assert lifetimes_of(seen(), {}) is None
    ten = Issues(ca_years=10, leaf_years=10)
    assert lifetimes_of(seen(facts=recorded), {recorded.sha256: ten}) == ten


def test_what_could_not_be_read_is_told() -> None:
    node = seen(facts=replace(facts(), uid=1000, clock=100), is_cut=True)
    assert set(found(node, serving(NEW))) == {"unreadable", "clock-skew", "too-many-files"}


def test_a_certificate_made_in_memory_is_judged_by_its_own_end() -> None:
    self_made = issue("localhost@1", born=READ_AT - 360 * DAY)
    scheduler = serving(self_made, component="kube-scheduler", number=10259, file="")
    assert set(found(seen(), serving(NEW), scheduler)) == {"served-expires"}


def host(
    name: str, files: Inventory | None = None, *served: Served, **other: object
) -> HostChecked:
    return HostChecked(
        seen=seen(name, **other), inventory=files or inventory(), served=served, issues=None
    )


def test_control_planes_that_are_alike_differ_in_nothing() -> None:
    assert list(between([host("n1"), host("n2"), host("n3")])) == []


def test_what_differs_between_control_planes_names_the_hosts() -> None:
    other = Component(
        name="kube-apiserver",
        image=APISERVER.image,
        flags={**APISERVER.flags, "profiling": "false", "advertise-address": "192.0.2.2"},
    )
    third = host(
        "n3",
        inventory(OLD),
        facts=replace(facts("n3"), sha256="cd" * 32),
        components={"kube-apiserver": other},
    )
    reasons = [each.reason for each in between([host("n1"), host("n2"), third])]
    assert reasons == [
        "kubeadm differs: n1, n2: v1.31.2 abababababab; n3: v1.31.2 cdcdcdcdcdcd",
        "--profiling differs: n1, n2: not set; n3: false",
        "NotAfter differs: n1, n2: 2126-11-01; n3: 2027-01-30",
    ]


def test_a_worker_is_not_compared() -> None:
    worker = host("w1", facts=replace(facts("w1"), is_control_plane=False, sha256="cd" * 32))
    assert list(between([host("n1"), host("n2"), worker])) == []


def test_the_inventory_of_all_hosts_names_the_host_of_each_path() -> None:
    checked = Checked(
        at=READ_AT,
        hosts=(host("n1", None, serving(OLD)), host("n2")),
        unreachable=(Refusal(host="n3", reason="no route", todo="see"),),
        between=(),
    )
    paths = [each.path for each in as_one(checked).certificates]
    assert sorted(paths) == ["n1:/etc/kubernetes/pki/apiserver.crt", "n1:port 6443",
                             "n2:/etc/kubernetes/pki/apiserver.crt"]  # fmt: skip
    document = check_document(checked)
    assert [each["host"] for each in document["hosts"]] == ["n1", "n2"]
    assert [each["host"] for each in document["certificates"]] == ["n1", "n2"]
    assert document["unreachable"] == [{"host": "n3", "reason": "no route", "todo": "see"}]
    assert document["hosts"][0]["served"][0]["port"] == 6443
