"""The certificates of a proof: those that kubeadm wrote, and the old CAs that it is given."""

from dataclasses import dataclass
from datetime import datetime

from kbuild.base.sandbox import Files
from kbuild.kubeadm.model import CertificateKind
from kbuild.x509.api import (
    BadKubeconfig,
    CertificateFacts,
    Unreadable,
    make_ca,
    quiet,
    read_certificate,
    read_kubeconfig,
)

CAS = {
    "pki/ca.crt": "kubernetes",
    "pki/front-proxy-ca.crt": "front-proxy-ca",
    "pki/etcd/ca.crt": "etcd-ca",
}
LEAVES = (
    "pki/apiserver.crt",
    "pki/apiserver-kubelet-client.crt",
    "pki/apiserver-etcd-client.crt",
    "pki/front-proxy-client.crt",
    "pki/etcd/server.crt",
    "pki/etcd/peer.crt",
    "pki/etcd/healthcheck-client.crt",
)
KUBECONFIGS = ("admin.conf", "kubelet.conf", "controller-manager.conf", "scheduler.conf")
_MAX_SIZE = 64 << 10  # bytes; kubeadm's largest, a kubeconfig, has 6 KiB


class UnreadableCertificate(Exception):
    """A file that should hold a certificate does not: its ``path`` and the ``reason``."""

    def __init__(self, path: str, reason: object) -> None:
        self.path, self.reason = path, str(reason) or type(reason).__name__
        super().__init__(f"{path}: {self.reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate: its kind (ca, leaf, kubeconfig), names, dates and fingerprint."""

    kind: CertificateKind
    path: str
    subject: str
    not_before: datetime
    not_after: datetime
    fingerprint: str


def read_certificates(files: Files) -> dict[str, Certificate]:
    """Return every certificate in the files of an /etc/kubernetes, by its relative path.

    A kubeconfig counts with its client certificate. Raises UnreadableCertificate.
    """
    found = {}
    for name, content in sorted(files.items()):
        if name.endswith((".crt", ".conf")):
            try:
                found[name] = _read(name, content)
            except (Unreadable, BadKubeconfig) as error:
                raise UnreadableCertificate(name, error) from error
    return found


def make_old_cas(*, born: datetime, ends: datetime) -> dict[str, bytes]:
    """Return the files of the three CAs of a cluster set up at ``born``."""
    files = {}
    for name, subject in CAS.items():
        ca = make_ca(subject, born=born, ends=ends)
        files[name], files[f"{name.removesuffix('.crt')}.key"] = ca.certificate, ca.key
    return files


def _read(name: str, content: bytes) -> Certificate:
    if len(content) > _MAX_SIZE:
        message = f"it has {len(content)} bytes"
        raise Unreadable(message)
    is_kubeconfig = name.endswith(".conf")
    with quiet():
        found = read_certificate(_client_certificate(content) if is_kubeconfig else content)
    return Certificate(
        kind="kubeconfig" if is_kubeconfig else _kind(found),
        path=name,
        subject=found.subject,
        not_before=found.not_before,
        not_after=found.not_after,
        fingerprint=found.fingerprint,
    )


def _kind(found: CertificateFacts) -> CertificateKind:
    return "ca" if found.is_ca else "leaf"  # kubeadm's leaves have no constraints before v1.21


def _client_certificate(content: bytes) -> bytes:
    users = read_kubeconfig(content).users
    if len(users) != 1 or not users[0].certificate.data:
        message = "it does not embed the client certificate of exactly one user"
        raise Unreadable(message)
    return users[0].certificate.data
