import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.kubernetes.configuration import configuration_of, eras


@pytest.mark.parametrize("minor", range(13, 40))
def test_every_minor_is_of_exactly_one_era(minor: int) -> None:
    for version in (f"1.{minor}.0", f"1.{minor}.0rc1", f"1.{minor}.17"):
        assert sum(era.versions.contains(version, prereleases=True) for era in eras()) == 1


def test_the_tags_that_were_read_are_of_their_eras() -> None:
    for era in eras():
        assert isinstance(era.versions, SpecifierSet)
        assert era.read
        assert all(configuration_of(Version(tag)) is era for tag in era.read)


@pytest.mark.parametrize(
    ("tag", "api", "arguments", "validity", "flag", "config_map"),
    [
        ("1.13.0", "v1beta1", "map", False, "experimental-cluster-signing-duration", "-1.13"),
        ("1.14.10", "v1beta1", "map", False, "experimental-cluster-signing-duration", "-1.14"),
        ("1.15.0", "v1beta2", "map", False, "experimental-cluster-signing-duration", "-1.15"),
        ("1.18.20", "v1beta2", "map", False, "experimental-cluster-signing-duration", "-1.18"),
        ("1.19.0", "v1beta2", "map", False, "cluster-signing-duration", "-1.19"),
        ("1.21.14", "v1beta2", "map", False, "cluster-signing-duration", "-1.21"),
        ("1.22.0", "v1beta3", "map", False, "cluster-signing-duration", "-1.22"),
        ("1.23.17", "v1beta3", "map", False, "cluster-signing-duration", "-1.23"),
        ("1.24.0", "v1beta3", "map", False, "cluster-signing-duration", ""),
        ("1.30.14", "v1beta3", "map", False, "cluster-signing-duration", ""),
        ("1.31.0", "v1beta4", "list", True, "cluster-signing-duration", ""),
        ("1.99.0", "v1beta4", "list", True, "cluster-signing-duration", ""),
    ],
)
def test_what_each_version_wants(
    tag: str, api: str, arguments: str, validity: bool, flag: str, config_map: str
) -> None:
    era = configuration_of(Version(tag))
    assert era.kubeadm_api == f"kubeadm.k8s.io/{api}"
    assert (era.arguments, era.validity, era.signing_flag) == (arguments, validity, flag)
    name = era.kubelet_config_map.format(minor=Version(tag).minor)
    assert name == f"kubelet-config{config_map}"


def test_the_commands_are_those_of_the_version() -> None:
    def commands(tag: str) -> tuple[str, str]:
        era = configuration_of(Version(tag))
        return era.check.split()[2], era.kubelet_update.split()[3]

    assert commands("1.14.10") == ("migrate", "config")
    assert commands("1.15.0") == ("migrate", "phase")
    assert commands("1.27.16") == ("migrate", "phase")
    assert commands("1.28.0") == ("validate", "phase")


def test_signers_have_a_verb_since_1_18() -> None:
    assert not configuration_of(Version("1.17.17")).signers
    assert configuration_of(Version("1.18.0")).signers
