"""Lifetimes that a cluster stores: kept, changed, and brought back."""

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from kbuild.config.api import BadStoredConfiguration, change_lifetimes
from kbuild.nodes.connection import CallFailed, Connection, values_of
from kbuild.nodes.model import Call, Issues
from kbuild.nodes.renew.facts import ControlPlane
from kbuild.nodes.renew.plan import RenewWishes, plan_renewal
from kbuild.nodes.renew.stored import (
    Change,
    StoredConfiguration,
    Wish,
    is_changed,
    obeying,
    read_stored,
    with_change,
    with_notes,
    with_restored,
)
from kbuild.nodes.renew.undo import UndoWishes, plan_undo
from tests.support.authority import issue
from tests.unit.nodes.test_renew_plan import AT, backup, control_plane, three
from tests.unit.nodes.test_renew_shell import Shell

TEXT = """\
# by hand
apiServer: {}
apiVersion: kubeadm.k8s.io/v1beta4
caCertificateValidityPeriod: 87600h0m0s
certificateValidityPeriod: "8760h0m0s"   # one year
certificatesDir: /etc/kubernetes/pki
kind: ClusterConfiguration
kubernetesVersion: v1.31.2
"""
STORED = StoredConfiguration(text=TEXT, revision="417")
AFTER = change_lifetimes(TEXT, "v1.31.2", "438000h", "876000h")
FIFTY = Issues(ca_years=100, leaf_years=50)


def of_1_31(plane: ControlPlane, issues: Issues | None = FIFTY) -> ControlPlane:
    facts = replace(plane.facts, version="v1.31.2", kubelet="v1.31.2", issues=issues)
    return replace(plane, facts=facts, lifetime=timedelta(days=365 * 50))


PLANES = [of_1_31(each) for each in three()]


def test_only_the_two_values_change() -> None:
    assert TEXT.replace("87600h0m0s", "876000h").replace('"8760h0m0s"', "438000h") == AFTER
    leaf_only = change_lifetimes(TEXT, "v1.31.2", "438000h")
    assert leaf_only == TEXT.replace('"8760h0m0s"', "438000h")
    assert (STORED.leaf, STORED.ca) == ("8760h0m0s", "87600h0m0s")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "kind: ConfigMap\n",
        TEXT.replace("v1beta4", "v1beta3"),
        TEXT + "certificateValidityPeriod: 1h\n",
    ],
)
def test_a_configuration_that_cannot_be_changed_is_refused(text: str) -> None:
    with pytest.raises(BadStoredConfiguration):
        change_lifetimes(text, "v1.31.2", "438000h")


def test_shorter_ones_are_refused_without_a_wish() -> None:
    planes, (refusal,) = obeying(PLANES, STORED, None, kubeadms(1))
    assert planes == []
    assert "stores 8760h0m0s (365 days) for certificates" in refusal.reason
    assert "this one was built for 18250 days" in refusal.reason
    assert "--stored-values change" in refusal.todo


def test_kept_ones_are_what_is_renewed_for() -> None:
    planes, refused = obeying(PLANES, STORED, "keep", kubeadms(1))
    assert not refused
    assert {each.lifetime for each in planes} == {timedelta(days=365)}
    plans, refused = plan_renewal(planes, RenewWishes(at=AT))
    assert not refused  # what was recorded is another lifetime
    assert "certificates of 365 days" in str(plans[0].steps)


@pytest.mark.parametrize("wish", [None, "keep", "change"])
def test_a_kubeadm_that_takes_them_as_not_set_needs_no_wish(wish: Wish | None) -> None:
    planes, refused = obeying(PLANES, STORED, wish, kubeadms(50))
    assert not refused
    assert planes == [replace(each, ignores_stored=True) for each in PLANES]
    plans, refused = plan_renewal(planes, RenewWishes(at=AT))
    assert not refused
    assert "certificates of 18250 days" in str(plans[0].steps)
    (note, *_) = with_notes(plans, STORED, None, is_ignored=True)[0].notes[-1:]
    assert note.endswith("for CAs, stock's defaults, which this kubeadm takes as not set")


def test_one_kubeadm_that_obeys_them_is_enough_to_ask() -> None:
    mixed = kubeadms(50) | {"n2": kubeadms(1)["n2"]}
    planes, (refusal,) = obeying(PLANES, STORED, None, mixed)
    assert planes == []
    assert "--stored-values keep" in refusal.todo
    planes, refused = obeying(PLANES, STORED, "keep", mixed)
    assert not refused
    assert [each.lifetime.days // 365 for each in planes] == [50, 1, 50]


def test_a_kubeadm_that_issues_nothing_is_a_refusal() -> None:
    mute = {name: cast("Connection", Mute()) for name in ("n1", "n2", "n3")}
    planes, refused = obeying(PLANES, STORED, None, mute)
    assert planes == []
    assert [each.host for each in refused] == ["n1", "n2", "n3"]
    assert "cannot issue" in refused[0].reason


class Kubeadm:
    """A connection to a node whose kubeadm issues for so many years, whatever is stored."""

    def __init__(self, years: int, clock: int) -> None:
        self._years, self._clock = years, clock

    def call(self, function: Call, **_: float) -> str:
        kubeadm, configuration = function.arguments
        assert kubeadm == "/usr/bin/kubeadm"
        assert configuration.endswith("\ncertificateValidityPeriod: 8760h0m0s\n")
        begin = datetime.fromtimestamp(self._clock, tz=UTC)
        issued = issue("x", born=begin, years=self._years)
        return f"issued={base64.b64encode(issued.pem).decode()}\n"


class Mute:
    """A connection to a node whose kubeadm fails."""

    def call(self, function: Call, **_: float) -> str:
        msg = f"kubeadm cannot issue a certificate for {function.function}"
        raise CallFailed(msg, "")


def kubeadms(years: int) -> dict[str, Connection]:
    return {each.name: cast("Connection", Kubeadm(years, each.facts.clock)) for each in PLANES}


def test_longer_ones_need_no_wish() -> None:
    stock = [of_1_31(each, issues=None) for each in three()]
    stock = [replace(each, lifetime=timedelta(days=365)) for each in stock]
    long = StoredConfiguration(text=AFTER, revision="1")
    for wish in (None, "change"):
        planes, refused = obeying(stock, long, wish, {})
        assert not refused
        assert {each.lifetime for each in planes} == {timedelta(days=365 * 50)}
        assert not is_changed(stock, long, wish or "")


def test_changed_ones_are_stored_after_the_first_backup() -> None:
    planes, refused = obeying(PLANES, STORED, "change", kubeadms(1))
    assert (planes, refused) == (PLANES, [])
    assert is_changed(planes, STORED, "change")
    plans, _ = plan_renewal(planes, RenewWishes(at=AT))
    change = Change(before=STORED, after=AFTER)
    plans = with_notes(with_change(plans, planes, change), STORED, change, is_ignored=False)
    assert [step.name for step in plans[0].steps][1:4] == ["back-up", "store-lifetimes", "renew"]
    assert "store-lifetimes" not in str([plan.steps for plan in plans[1:]])
    assert "and is changed first" in plans[0].notes[-1]
    step = plans[0].steps[2]
    patch = json.loads(step.do.arguments[3])
    assert patch == {
        "metadata": {"resourceVersion": "417"},
        "data": {"ClusterConfiguration": AFTER},
    }
    assert step.undo is not None
    assert json.loads(step.undo.arguments[3])["data"] == {"ClusterConfiguration": TEXT}
    idle = with_change([replace(plans[0], steps=())], planes, change)
    assert (
        "stays, because nothing is renewed"
        in with_notes(idle, STORED, change, is_ignored=False)[0].notes[-1]
    )


def test_an_undo_stores_what_there_was_unless_somebody_changed_it() -> None:
    plane = of_1_31(control_plane())
    kept = replace(backup(plane), configuration=TEXT, stored=sha(AFTER))
    plans, _ = plan_undo([plane], {"n1": kept}, set(), UndoWishes(at=AT))
    (plan,) = with_restored(plans, plane, kept, StoredConfiguration(text=AFTER, revision="9"))
    assert [step.name for step in plan.steps][-2:] == ["store-lifetimes", "settled"]
    assert json.loads(plan.steps[-2].do.arguments[3]) == {"data": {"ClusterConfiguration": TEXT}}
    other = StoredConfiguration(text=AFTER + "# more\n", revision="9")
    (plan,) = with_restored(plans, plane, kept, other)
    assert "has changed since the renewal, so it stays as it is" in plan.notes[-1]
    (plan,) = with_restored(plans, plane, kept, None)
    assert "cannot be read, so it stays" in plan.notes[-1]
    assert with_restored(plans, plane, kept, STORED) == plans
    assert with_restored(plans, plane, backup(plane), STORED) == plans


# --- on a node ------------------------------------------------------------------------------------

KUBECTL = """\
cd {folder}
case "$*" in
  *resourceVersion*) printf 417 ;;
  *" get "*) cat text ;;
  *" patch "*"--type merge --patch-file "*) [ ! -e broken ] && python3 -c '
import json, sys
patch = json.load(open(sys.argv[1]))
assert patch.get("metadata", {{"resourceVersion": "417"}})["resourceVersion"] == "417"
open("text", "w").write(patch["data"]["ClusterConfiguration"])' "${{@: -1}}" ;;
esac
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    node = Shell(tmp_path / "node")
    node.program("kubectl", "")
    (node.programs / "kubectl").write_text("#!/bin/bash\n" + KUBECTL.format(folder=node.root))
    (node.root / "text").write_text(TEXT)
    (node.state / "backups/g1").mkdir(parents=True)
    (node.state / "backups/g1/meta").write_text("x\n")
    (node.state / "backups/g1/sha256").write_text(f"{sha('x' + chr(10))}  ./meta\n")
    return node


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.slow
def test_a_configuration_is_read_byte_for_byte(shell: Shell) -> None:
    node = type("Node", (), {"call": lambda _, function: shell(function.function, "kubectl")})()
    plane = replace(control_plane(), kubectl="kubectl")
    assert read_stored([plane], {"n1": cast("Connection", node)}) == STORED
    assert read_stored([replace(plane, kubectl="")], {}) is None


@pytest.mark.slow
def test_a_configuration_is_stored_and_kept_in_the_backup(shell: Shell) -> None:
    patch = json.dumps(
        {"metadata": {"resourceVersion": "417"}, "data": {"ClusterConfiguration": AFTER}}
    )
    words = ("kubectl", sha(TEXT), sha(AFTER), patch, "g1")
    assert "does not have" in shell("has_configuration", "kubectl", sha(AFTER), good=False)
    shell("store_configuration", *words)
    shell("has_configuration", "kubectl", sha(AFTER))
    assert (shell.root / "text").read_text() == AFTER
    kept = shell.state / "backups/g1/ClusterConfiguration"
    assert kept.read_text() == TEXT
    assert list((shell.root / "run").iterdir()) == []
    values = values_of(shell("manifests_of", "g1"))
    assert base64.b64decode(values["configuration"][0]).decode() == TEXT
    assert values["stored"] == [sha(AFTER)]
    kept.write_text("damaged")
    assert "does not have the sha256" in shell("manifests_of", "g1", good=False)
    shell("store_configuration", *words)  # again
    back = json.dumps({"data": {"ClusterConfiguration": TEXT}})
    shell("store_configuration", "kubectl", sha(AFTER), sha(TEXT), back)
    assert (shell.root / "text").read_text() == TEXT


@pytest.mark.slow
def test_a_configuration_that_somebody_changed_is_left(shell: Shell) -> None:
    (shell.root / "text").write_text(f"{TEXT}# more\n")
    said = shell("store_configuration", "kubectl", sha(TEXT), sha(AFTER), "{}", "g1", good=False)
    assert "somebody has changed" in said
    (shell.root / "text").write_text(TEXT)
    (shell.root / "broken").touch()
    said = shell("store_configuration", "kubectl", sha(TEXT), sha(AFTER), "{}", "g1", good=False)
    assert "cannot be changed" in said
    assert (shell.root / "text").read_text() == TEXT
