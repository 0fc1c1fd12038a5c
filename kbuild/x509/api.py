"""The front of this package: other packages import from here only."""

from kbuild.x509.facts import CertificateFacts
from kbuild.x509.issue import NewCA, make_ca
from kbuild.x509.keys import KeyFacts
from kbuild.x509.kubeconfig import (
    BadKubeconfig,
    Cluster,
    Embedded,
    Kubeconfig,
    is_meant_as_kubeconfig,
    looks_like_kubeconfig,
    read_kubeconfig,
)
from kbuild.x509.pem import has_pem, looks_like_pem
from kbuild.x509.reading import Content, Unreadable, quiet, read_certificate, read_content
from kbuild.x509.signatures import signed_by

__all__ = [
    "BadKubeconfig",
    "CertificateFacts",
    "Cluster",
    "Content",
    "Embedded",
    "KeyFacts",
    "Kubeconfig",
    "NewCA",
    "Unreadable",
    "has_pem",
    "is_meant_as_kubeconfig",
    "looks_like_kubeconfig",
    "looks_like_pem",
    "make_ca",
    "quiet",
    "read_certificate",
    "read_content",
    "read_kubeconfig",
    "signed_by",
]
