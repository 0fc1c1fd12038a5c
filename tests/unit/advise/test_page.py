"""docs/lifetimes.md tells what the data says."""

import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from packaging.version import Version

from kbuild.advise.api import Step, advise, cluster_of, lasting
from kbuild.kubeadm.model import Lifetimes
from kbuild.kubernetes.configuration import configuration_of
from kbuild.kubernetes.facts import facts_of
from kbuild.kubernetes.renewal import renewal_of
from tests.unit.advise.test_cluster import LEAF, LONG, NOW, inventory

PAGE = (Path(__file__).parents[3] / "docs/lifetimes.md").read_text()
# One minor after the newest whose source was read in any way, so that "and newer" is meant.
MINORS = range(13, 39)
PLACES = {"binary": "the kubeadm binary", "configuration": "the configuration"}


def section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def cells(minor: int) -> tuple[str, ...]:
    version = Version(f"1.{minor}.0")
    known = facts_of(version)
    flag, loopback = configuration_of(version).signing_flag, known["loopback"]
    assert isinstance(loopback, int)
    return (
        PLACES[str(known["decided_by"])],
        f"`{flag}`",
        lasting(loopback),
        f"`kubeadm {' '.join(renewal_of(version).renew)}`",
    )


def rows() -> list[str]:
    made = []
    for same, group in groupby(MINORS, cells):
        minors = list(group)
        first, last = (f"v1.{minor}" for minor in (minors[0], minors[-1]))
        if minors[-1] == MINORS[-1]:
            versions = f"{first} and newer"
        else:
            versions = first if first == last else f"{first} to {last}"
        made.append(f"| {' | '.join((versions, *same))} |")
    return made


def test_the_table_of_versions_is_the_data() -> None:
    table = [
        line for line in section("What differs between versions").splitlines() if line[:1] == "|"
    ]
    assert table[2:] == rows()


def test_the_steps_for_the_cas_are_those_of_the_plan() -> None:
    part = section("Make the CAs of a living cluster last longer")
    told = "\n".join(re.findall(r"^```sh\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)).split("\n")
    advice = advise("v1.20.2", "living", Lifetimes(ca_years=100, leaf_years=100))
    planned = [
        line
        for step in advice.steps
        if step.name in ("look", "snapshot", "sign-cas", "spread-cas", "cluster-info")
        for command in step.commands
        for line in command.split("\n")
    ]
    assert [line for line in told if line] == planned


def test_the_way_back_begins_with_a_copy_that_the_page_makes() -> None:
    part = section("Make the CAs of a living cluster last longer")
    made, _, back = part.partition("**The way back**")
    assert "cp -a /etc/kubernetes /root/kubernetes-before" in made
    assert "/root/kubernetes-before" in back
    assert "snapshot save" in made


def test_the_steps_for_expired_certificates_are_those_of_the_plan() -> None:
    told = re.findall(r"^```sh\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
    for heading, names in (
        ("When certificates have expired", ("renew", "restart")),
        ("An expired kubelet", ("recover-kubelet", "bootstrap", "rejoin")),
    ):
        part = section(heading)
        assert part
        planned = [step for step in expired_steps() if step.name in names]
        assert len(planned) == len(names)
        for step in planned:
            assert "\n".join(step.commands) in told
            assert "\n".join(step.commands) in part


def expired_steps() -> tuple[Step, ...]:
    ended = replace(LEAF, not_after=NOW)
    cluster = cluster_of(inventory(ended), LONG)
    return advise("v1.20.2", "living", LONG, cluster).steps


def test_the_lifetimes_in_the_first_table_are_those_of_every_version() -> None:
    told = section("What expires")
    for minor in MINORS:
        known = facts_of(Version(f"1.{minor}.0"))
        days = [known[name] for name in ("stock_leaf", "signing", "kubelet_serving", "own_serving")]
        assert [lasting(int(value)) for value in days] == ["1 year"] * 4
        assert lasting(int(known["stock_ca"])) == "10 years"
        assert str(known["bootstrap_token"]) in told
        assert str(known.get("upload_certs", "2 hours")) in told
