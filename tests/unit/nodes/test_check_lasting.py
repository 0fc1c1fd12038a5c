"""What shortens the certificates of a node beside kubeadm."""

from datetime import timedelta
from pathlib import Path

import pytest

from kbuild.certs.model import Finding, Inventory
from kbuild.kubernetes.durations import duration
from kbuild.nodes.check.lasting import SERVING, lasting
from kbuild.nodes.check.seen import Component, NodeSeen
from kbuild.nodes.model import Issues
from tests.support.inventories import PKI, READ_AT, certificate
from tests.support.node_tree import facts, look, write_node, write_process

YEAR = timedelta(days=365)
HUNDRED = Issues(ca_years=100, leaf_years=50)
CONFIG = "/var/lib/kubelet/config.yaml"
GOOD = {"rotateCertificates": "true", "serverTLSBootstrap": "true"}


def manager(version: str = "v1.20.2", **flags: str) -> Component:
    flags = {name.replace("_", "-"): value for name, value in flags.items()}
    return Component(
        name="kube-controller-manager",
        image=f"example.org/kube-controller-manager:{version}",
        flags={"cluster-signing-cert-file": f"{PKI}/ca.crt", **flags},
    )


def found(
    component: Component | None = None,
    kubelet: dict[str, str] | None = None,
    issues: Issues | None = HUNDRED,
    *,
    serving: int = 0,
    ca: int = 100,
) -> dict[str, Finding]:
    lifetimes = {f"{PKI}/ca.crt": ca, f"{PKI}/apiserver.crt": 50}
    lifetimes |= {SERVING: serving} if serving else {}
    held = tuple(
        certificate(path, not_before=READ_AT - YEAR / 2, not_after=READ_AT + (count - 0.5) * YEAR)
        for path, count in lifetimes.items()
    )
    seen = NodeSeen(
        facts=facts(),
        copies=(),
        components={component.name: component} if component else {},
        started={},
        changed={CONFIG: READ_AT},
        kubelet=GOOD if kubelet is None else kubelet,
        stored=None,
        is_cut=False,
    )
    inventory = Inventory(read_at=READ_AT, paths=(), certificates=held, findings=())
    return {each.kind: each for each in lasting(seen, inventory, issues)}


@pytest.mark.parametrize(
    ("component", "kinds"),
    [
        (manager(), {"signing-duration"}),
        (manager(cluster_signing_duration="8760h0m0s"), {"signing-duration"}),
        (manager("v1.18.9", experimental_cluster_signing_duration="24h"), {"signing-duration"}),
        (manager("v1.18.9", experimental_cluster_signing_duration="438000h"), set()),
        (manager(cluster_signing_duration="876000h"), set()),  # as long as the CA
        (manager(cluster_signing_duration="1752000h"), {"signing-beyond-ca"}),
        (manager(cluster_signing_duration="long"), set()),
        (manager("latest"), set()),
    ],
)
def test_the_signing_duration(component: Component, kinds: set[str]) -> None:
    assert set(found(component)) == kinds


def test_a_signing_duration_is_told_with_the_command_that_changes_it() -> None:
    one = found(manager())["signing-duration"]
    assert one.severity == "warning"
    assert "for 365 days, its default; this kubeadm issues for 50 years" in one.reason
    named = found(manager(cluster_signing_duration="24h"))["signing-duration"].reason
    assert "for 1 day, as --cluster-signing-duration says" in named
    assert one.command == (
        "kbuild config --version v1.20.2 --ca-years 100 --leaf-years 50 --for living"
    )
    assert found(manager(), issues=None)["signing-duration"].severity == "info"
    assert found(manager(), issues=Issues(ca_years=10, leaf_years=1)) == {}
    beyond = found(manager(cluster_signing_duration="876000h"), issues=None, ca=10)
    assert "its CA /etc/kubernetes/pki/ca.crt ends on" in beyond["signing-beyond-ca"].reason
    assert "--ca-years 10 --leaf-years 10 " in beyond["signing-beyond-ca"].command


def test_a_kubelet_that_does_not_renew_its_certificate() -> None:
    for off in ({}, {"rotateCertificates": "false"}):
        one = found(kubelet={"serverTLSBootstrap": "true", **off})["kubelet-rotation-off"]
        assert (one.severity, one.path) == ("warning", CONFIG)
        assert one.command.startswith("kbuild config --version v1.31.2 ")
    assert found() == {}


def test_a_serving_certificate_that_nobody_renews() -> None:
    off = {"rotateCertificates": "true"}
    one = found(kubelet=off, serving=1)["kubelet-serving-not-renewed"]
    assert (one.severity, one.path) == ("info", SERVING)
    assert one.command.startswith("kbuild config --version v1.31.2 ")
    assert found(kubelet=off) == {}
    assert found(kubelet=off, serving=10) == {}
    assert found(serving=1) == {}
    assert found(kubelet={**off, "tlsCertFile": "/etc/own.crt"}, serving=1) == {}


@pytest.mark.slow
def test_options_of_kubelet_win_over_its_file(tmp_path: Path) -> None:
    write_node(tmp_path)
    flags = ("--rotate-certificates=false", "--rotate-server-certificates", "--v=2")
    write_process(tmp_path, 9, "kubelet", 80, *flags)
    settings = look(tmp_path).kubelet
    assert settings["rotateCertificates"] == "false"
    assert settings["serverTLSBootstrap"] == "true"


def test_durations() -> None:
    assert duration("8760h0m0s") == YEAR
    assert duration("1h30m") == timedelta(minutes=90)
    assert duration("87600h0m0.0s") is None
    for bad in ("", "8760", "1d", "h", "1h x", "-1h", f"{'9' * 9}h" * 3000):
        assert duration(bad) is None
