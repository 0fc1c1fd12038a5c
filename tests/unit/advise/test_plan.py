"""What is advised for a version, new or living, without a cluster's certificates."""

import subprocess

import pytest

from kbuild.advise.api import Advice, Plan, advise, lasting
from kbuild.kubeadm.model import Lifetimes

LONG = Lifetimes(ca_years=100, leaf_years=50)
STOCK = Lifetimes(ca_years=10, leaf_years=1)
PLANS: tuple[Plan, ...] = ("new", "living")
# Those with which something changes, and one that is not known yet.
CHANGES = (13, 14, 15, 16, 19, 20, 31, 33, 36, 45)
EVERY = [(f"v1.{minor}.0", plan) for minor in CHANGES for plan in PLANS]


def names(advice: Advice) -> list[str]:
    return [step.name for step in advice.steps]


def commands(advice: Advice) -> list[str]:
    return [command for step in advice.steps for command in step.commands]


def limit(advice: Advice, name: str) -> str:
    [found] = [each for each in advice.limits if each.name == name]
    return f"{found.certificate}: {found.lasts}. {found.reason} {found.action}"


@pytest.mark.parametrize("tag", ["v1.13.0", "v1.22.2", "v1.30.14"])
@pytest.mark.parametrize("plan", PLANS)
def test_up_to_v1_30_another_kubeadm_is_needed(tag: str, plan: Plan) -> None:
    advice = advise(tag, plan, LONG)
    assert advice.rebuild.needed
    assert "10 years" in advice.rebuild.reason
    assert {"build", "check", "install"} <= set(names(advice))
    assert f"kbuild kubeadm --version {tag} --ca-years 100 --leaf-years 50" in commands(advice)


@pytest.mark.parametrize("tag", ["v1.31.0", "v1.33.3", "v1.40.0"])
@pytest.mark.parametrize(
    ("plan", "words"), [("new", "configuration file"), ("living", "kubeadm-config")]
)
def test_from_v1_31_on_the_configuration_is_enough(tag: str, plan: Plan, words: str) -> None:
    advice = advise(tag, plan, LONG)
    assert not advice.rebuild.needed
    assert words in advice.rebuild.reason
    assert advice.rebuild.optional == (
        f"kbuild kubeadm --version {tag} --ca-years 100 --leaf-years 50",
    )
    assert not {"build", "check", "install"} & set(names(advice))
    assert "configure" in names(advice)


def test_a_rebuilt_kubeadm_obeys_on_a_living_cluster() -> None:
    reason = advise("v1.33.3", "living", LONG).rebuild.reason
    assert "--stored-defaults override" in reason


@pytest.mark.parametrize("tag", ["v1.20.2", "v1.33.3"])
@pytest.mark.parametrize("plan", PLANS)
def test_stock_lifetimes_need_no_other_kubeadm(tag: str, plan: Plan) -> None:
    advice = advise(tag, plan, STOCK)
    assert not advice.rebuild.needed
    assert advice.rebuild.optional == ()
    assert "build" not in names(advice)


@pytest.mark.parametrize(
    "lifetimes",
    [Lifetimes(ca_years=10, leaf_years=2), Lifetimes(ca_years=5, leaf_years=1)],
)
def test_any_other_lifetime_needs_one(lifetimes: Lifetimes) -> None:
    assert advise("v1.20.2", "new", lifetimes).rebuild.needed


def test_a_living_cluster_is_changed_in_this_order() -> None:
    assert names(advise("v1.20.2", "living", LONG)) == [
        "look",
        "snapshot",
        "sign-cas",
        "spread-cas",
        "build",
        "check",
        "install",
        "configure",
        "renew",
        "restart",
        "cluster-info",
        "kubelet",
        "look-again",
    ]


def test_a_new_cluster_needs_no_longer_ca_and_no_renewal() -> None:
    assert names(advise("v1.33.3", "new", LONG)) == ["configure", "init", "kubelet", "look-again"]


@pytest.mark.parametrize(
    ("tag", "renew"),
    [
        ("v1.13.7", "kubeadm alpha certs renew all"),
        ("v1.19.3", "kubeadm alpha certs renew all"),
        ("v1.20.2", "kubeadm certs renew all"),
        ("v1.33.3", "kubeadm certs renew all"),
    ],
)
def test_renewal_is_spelled_as_the_version_spells_it(tag: str, renew: str) -> None:
    typed = "\n".join(commands(advise(tag, "living", LONG)))
    assert renew in typed


@pytest.mark.parametrize(("tag", "falls_back"), [("v1.30.0", False), ("v1.31.0", True)])
def test_renewal_without_the_api_is_warned_of(tag: str, falls_back: bool) -> None:
    [renew] = [step for step in advise(tag, "living", LONG).steps if step.name == "renew"]
    assert ("Falling back to default configuration" in renew.text) is falls_back
    assert ("pass --config" in renew.text) is falls_back


@pytest.mark.parametrize(
    ("tag", "etcdctl"),
    [("v1.16.0", "  env ETCDCTL_API=3 etcdctl "), ("v1.17.0", "  etcdctl ")],
)
def test_etcd_is_asked_in_version_3_of_its_interface(tag: str, etcdctl: str) -> None:
    [snapshot] = [each for each in advise(tag, "living", LONG).steps if each.name == "snapshot"]
    assert etcdctl in snapshot.commands[0]


@pytest.mark.parametrize("tag", ["v1.20.2", "v1.36.0"])
@pytest.mark.parametrize("plan", PLANS)
def test_the_loopback_certificate_can_be_looked_at(tag: str, plan: Plan) -> None:
    last = advise(tag, plan, LONG).steps[-1]
    assert "-servername apiserver-loopback-client " in last.commands[-1]
    assert "The last step of the plan shows its end" in limit(advise(tag, plan, LONG), "loopback")


@pytest.mark.parametrize(("tag", "by_hand"), [("v1.14.10", True), ("v1.15.0", False)])
def test_kubeconfigs_are_made_again_where_renewal_leaves_them(tag: str, by_hand: bool) -> None:
    typed = "\n".join(commands(advise(tag, "living", LONG)))
    assert ("init phase kubeconfig" in typed) is by_hand


@pytest.mark.parametrize(
    ("tag", "flag"),
    [
        ("v1.18.20", "its flag --experimental-cluster-signing-duration sets"),
        ("v1.19.0", "its flag --cluster-signing-duration sets"),
    ],
)
def test_the_flag_of_the_controller_manager_is_that_of_the_version(tag: str, flag: str) -> None:
    assert flag in limit(advise(tag, "new", LONG), "kubelet-client")


@pytest.mark.parametrize(
    ("tag", "lasts"),
    [
        ("v1.32.13", "1 year from its start"),
        ("v1.33.0", "3 years and 1 day from its start"),
        ("v1.36.0", "3 years and 1 day from its start"),
    ],
)
def test_the_loopback_certificate_has_its_lifetime(tag: str, lasts: str) -> None:
    told = limit(advise(tag, "new", LONG), "loopback")
    assert lasts in told
    assert "Restart each kube-apiserver before that" in told
    assert ("kubelet restarts" in told) is (tag == "v1.36.0")


def test_only_a_living_cluster_has_an_old_ca() -> None:
    limits = {plan: {each.name for each in advise("v1.20.2", plan, LONG).limits} for plan in PLANS}
    assert limits["living"] - limits["new"] == {"living-ca"}


@pytest.mark.parametrize(("tag", "known"), [("v1.13.12", False), ("v1.14.0", True)])
def test_certificates_are_uploaded_since_v1_14(tag: str, known: bool) -> None:
    assert ("upload-certs" in [each.name for each in advise(tag, "new", LONG).limits]) is known


@pytest.mark.parametrize(
    ("tag", "warned"), [("v1.33.3", False), ("v1.33.9", False), ("v1.34.0", True)]
)
def test_a_version_whose_source_was_not_read_comes_with_a_caution(tag: str, warned: bool) -> None:
    caution = advise(tag, "new", LONG).caution
    assert (tag in caution and "v1.33.3" in caution) is warned


@pytest.mark.parametrize(("tag", "plan"), EVERY)
def test_every_command_is_one_that_a_shell_can_read(tag: str, plan: Plan) -> None:
    typed = "\n".join(commands(advise(tag, plan, LONG)))
    done = subprocess.run(["bash", "-n"], input=typed, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("tag", "plan"), EVERY)
def test_nothing_is_left_to_fill_in(tag: str, plan: Plan) -> None:
    advice = advise(tag, plan, LONG)
    texts = [text for each in advice.limits for text in (each.lasts, each.reason, each.action)]
    for text in (*texts, advice.rebuild.reason, *(step.text for step in advice.steps)):
        assert "$" not in text
        assert text == text.strip()


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (365, "1 year"),
        (3650, "10 years"),
        (1096, "3 years and 1 day"),
        (2, "2 days"),
        (0, "0 days"),
    ],
)
def test_days_are_told_in_words(days: int, words: str) -> None:
    assert lasting(days) == words
