"""The data of the advice against what was read in Kubernetes' own source, tag by tag."""

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.kubeadm.api import series_for
from kbuild.kubernetes.configuration import configuration_of
from kbuild.kubernetes.facts import facts, facts_of
from kbuild.kubernetes.renewal import renewal_of

OLD_FLAG, FLAG = "--experimental-cluster-signing-duration", "--cluster-signing-duration"
YEAR, THREE_YEARS = 365, 3 * 365 + 1  # days
ALPHA_RENEW, RENEW = "alpha certs renew all", "certs renew all"

# Read with `git show TAG:PATH` in whole source trees of these tags (v1.20.5 is a modified copy, so
# its lifetimes were not taken from it), the last two columns in github.com/kubernetes/apiserver:
#   decided by  cmd/kubeadm/app/phases/certs/certlist.go: is NotAfter set from the configuration
#   flag        cmd/kube-controller-manager/app/options/csrsigningcontroller.go
#   signing     pkg/controller/certificates/signer/config/v1alpha1/defaults.go
#               (v1.13: pkg/controller/apis/config/v1alpha1/defaults.go), ClusterSigningDuration
#   upload      cmd/kubeadm/app/constants/constants.go, DefaultCertTokenDuration
#   renew       cmd/kubeadm/app/cmd/certs.go, before v1.20 cmd/alpha/certs.go
#   loopback    pkg/server/options/serving_with_loopback.go, maxAge; before v1.33 that of
#               staging/src/k8s.io/client-go/util/cert/cert.go
#   ready       pkg/server/healthz/healthz.go and pkg/server/healthz.go
READ = [
    # tag, decided by, flag, signing, upload, renew, loopback, ready
    ("v1.13.7", "binary", OLD_FLAG, YEAR, None, ALPHA_RENEW, YEAR, "/healthz"),
    ("v1.18.9", "binary", OLD_FLAG, YEAR, "2 hours", ALPHA_RENEW, YEAR, "/readyz"),
    ("v1.19.3", "binary", FLAG, YEAR, "2 hours", ALPHA_RENEW, YEAR, "/readyz"),
    ("v1.20.5", "binary", FLAG, YEAR, "2 hours", RENEW, YEAR, "/readyz"),
    ("v1.22.2", "binary", FLAG, YEAR, "2 hours", RENEW, YEAR, "/readyz"),
    ("v1.25.1", "binary", FLAG, YEAR, "2 hours", RENEW, YEAR, "/readyz"),
    ("v1.28.3", "binary", FLAG, YEAR, "2 hours", RENEW, YEAR, "/readyz"),
    ("v1.30.0", "binary", FLAG, YEAR, "2 hours", RENEW, YEAR, "/readyz"),
    ("v1.31.2", "configuration", FLAG, YEAR, "2 hours", RENEW, YEAR, "/readyz"),
    ("v1.33.3", "configuration", FLAG, YEAR, "2 hours", RENEW, THREE_YEARS, "/readyz"),
]
# The same in every one of these trees:
#   kubelet_serving, own_serving  maxAge in staging/src/k8s.io/client-go/util/cert/cert.go, called
#                                 without another age by cmd/kubelet/app/server.go and
#                                 cmd/kube-{controller-manager,scheduler}/app/options/options.go
#   bootstrap_token               DefaultTokenDuration
#   stock_ca, stock_leaf          the expressions that patches/ replaces
SAME = {
    "kubelet_serving": YEAR,
    "own_serving": YEAR,
    "bootstrap_token": "24 hours",
    "stock_ca": 3650,
    "stock_leaf": 365,
}
# github.com/kubernetes/apiserver, pkg/server/options/serving_with_loopback.go at kubernetes-1.x.y.
LOOPBACK = {
    "v1.32.13": (YEAR, None),
    "v1.33.0-alpha.2": (YEAR, None),
    "v1.33.0-alpha.3": (THREE_YEARS, None),
    "v1.33.0": (THREE_YEARS, None),
    "v1.35.3": (THREE_YEARS, None),
    "v1.36.0": (THREE_YEARS, "loopback-serving-certificate"),
    "v1.37.0-beta.0": (THREE_YEARS, "loopback-serving-certificate"),
}
# github.com/kubernetes/apiserver has no /readyz at kubernetes-1.15.12, and has it at 1.16.0.
READY = {"v1.15.0": "/healthz", "v1.15.12": "/healthz", "v1.16.0": "/readyz"}
MINORS = [f"v1.{minor}.{patch}" for minor in range(13, 46) for patch in (0, 3)]


@pytest.mark.parametrize("row", READ, ids=lambda row: row[0])
def test_the_data_is_what_the_source_says(row: tuple[str, ...]) -> None:
    tag, decided_by, flag, signing, upload, renew, loopback, ready = row
    known = facts_of(Version(tag))
    assert known["decided_by"] == decided_by
    assert f"--{configuration_of(Version(tag)).signing_flag}" == flag
    assert known["signing"] == signing
    assert known.get("upload_certs") == upload
    assert " ".join(renewal_of(Version(tag)).renew) == renew
    assert known["loopback"] == loopback
    assert known["ready"] == ready
    assert {name: known[name] for name in SAME} == SAME


@pytest.mark.parametrize("tag", LOOPBACK)
def test_the_loopback_certificate_is_what_apiserver_says(tag: str) -> None:
    known = facts_of(Version(tag))
    assert (known["loopback"], known.get("loopback_check")) == LOOPBACK[tag]


@pytest.mark.parametrize("tag", READY)
def test_the_path_of_readiness_is_what_apiserver_says(tag: str) -> None:
    assert facts_of(Version(tag))["ready"] == READY[tag]


@pytest.mark.parametrize("tag", MINORS)
def test_a_version_has_one_value_of_a_name(tag: str) -> None:
    names = [fact.name for fact in facts() if fact.versions.contains(tag, prereleases=True)]
    assert len(names) == len(set(names))
    optional = {"upload_certs", "loopback_check"}
    assert set(names) | optional == {fact.name for fact in facts()}


@pytest.mark.parametrize("tag", MINORS)
def test_lifetimes_are_decided_where_the_patches_put_them(tag: str) -> None:
    """Series 1.31 patches defaults of the configuration, those before it what kubeadm computes."""
    expected = "configuration" if series_for(Version(tag))[-1].name == "1.31" else "binary"
    assert facts_of(Version(tag))["decided_by"] == expected


def test_every_fact_names_a_tag_and_a_path() -> None:
    for fact in facts():
        where, _, paths = fact.source.partition(": ")
        assert where.startswith(("v1.", "apiserver@1.")), fact
        assert all("/" in path for path in paths.split(",")), fact
        assert fact.versions != SpecifierSet()
