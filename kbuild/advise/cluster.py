"""What the certificates of a cluster mean for its advice."""

from collections.abc import Iterable
from datetime import datetime

from kbuild.advise.errors import NoCertificates
from kbuild.advise.model import Cluster
from kbuild.certs.model import Certificate, Inventory
from kbuild.kubeadm.model import Lifetimes

# Roles of kbuild/certs/layouts.toml.
_KUBELET_CLIENT = "kubelet, client"
_KUBELET = (_KUBELET_CLIENT, "kubelet, server", "kubelet, server and client")
_SHOWN = 5  # findings, where there is nothing else to show
# In the names of the CAs that client-go's GenerateSelfSignedCertKey makes for one certificate each,
# as for kubelet.crt (v1.13.7 to v1.33.3: staging/src/k8s.io/client-go/util/cert/cert.go).
_OWN_CA = "-ca@"


def cluster_of(inventory: Inventory, lifetimes: Lifetimes) -> Cluster:
    """Return a cluster as its inventory shows it; findings that only inform are left out.

    Raises NoCertificates, with the worst findings as its details.
    """
    if not inventory.certificates:
        seen = [f"{each.path}: {each.reason}" for each in inventory.findings[:_SHOWN]]
        raise NoCertificates(paths=", ".join(inventory.paths), details="\n".join(seen))
    found = [each for each in _each_once(inventory.certificates) if not _is_without_use(each)]
    return Cluster(
        read_at=inventory.read_at,
        paths=inventory.paths,
        authorities=tuple(each for each in found if each.is_ca),
        kubelets=tuple(each for each in found if each.role in _KUBELET),
        others=tuple(each for each in found if not each.is_ca and each.role not in _KUBELET),
        findings=tuple(each for each in inventory.findings if each.severity != "info"),
        ca_end=inventory.read_at + lifetimes.ca,
        leaf_end=inventory.read_at + lifetimes.leaf,
    )


def next_request(certificate: Certificate) -> tuple[datetime, datetime] | None:
    """Return when a kubelet asks for its next client certificate: at some time between the two.

    None for any other certificate. Source: jitteryDuration in
    staging/src/k8s.io/client-go/util/certificate/certificate_manager.go (v1.13.7 to v1.33.3).
    """
    if certificate.role != _KUBELET_CLIENT:
        return None
    born, lifetime = certificate.not_before, certificate.lifetime
    return born + 0.7 * lifetime, born + 0.9 * lifetime


def _is_without_use(certificate: Certificate) -> bool:
    is_own_ca = certificate.is_ca and _OWN_CA in certificate.subject
    return is_own_ca or (certificate.is_superseded and not certificate.is_ca)


def _each_once(certificates: Iterable[Certificate]) -> list[Certificate]:
    """Return each certificate once: kubeconfigs repeat the CA, and its own file is preferred."""
    first: dict[str, Certificate] = {}
    for each in sorted(certificates, key=lambda c: (c.not_after, c.rank)):
        first.setdefault(each.fingerprint, each)
    return list(first.values())
