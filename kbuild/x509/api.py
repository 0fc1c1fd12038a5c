"""The front of this package: other packages import from here only."""

from kbuild.x509.derive import NotWanted, kind_of, wanted_of
from kbuild.x509.facts import EXTENDED, KEY_USAGES, CertificateFacts, der_of
from kbuild.x509.foreign import Foreign, ForeignPublicKey, foreign_key, foreign_public
from kbuild.x509.issue import (
    SUBJECT_FIELDS,
    NewCA,
    Signer,
    Subject,
    Wanted,
    certificate_pem,
    extend,
    issue,
    make_ca,
    name_of,
    request,
)
from kbuild.x509.keys import KeyFacts
from kbuild.x509.kubeconfig import (
    BadKubeconfig,
    Cluster,
    Embedded,
    Kubeconfig,
    is_meant_as_kubeconfig,
    looks_like_kubeconfig,
    make_kubeconfig,
    read_kubeconfig,
)
from kbuild.x509.pem import has_pem, looks_like_pem
from kbuild.x509.private import (
    BadPrivateKey,
    KeyKind,
    PrivateKey,
    is_usable,
    key_pem,
    load_key,
    new_key,
    public_der,
    public_pem,
)
from kbuild.x509.reading import Content, Unreadable, quiet, read_certificate, read_content
from kbuild.x509.signatures import signed_by

__all__ = [
    "EXTENDED",
    "KEY_USAGES",
    "SUBJECT_FIELDS",
    "BadKubeconfig",
    "BadPrivateKey",
    "CertificateFacts",
    "Cluster",
    "Content",
    "Embedded",
    "Foreign",
    "ForeignPublicKey",
    "KeyFacts",
    "KeyKind",
    "Kubeconfig",
    "NewCA",
    "NotWanted",
    "PrivateKey",
    "Signer",
    "Subject",
    "Unreadable",
    "Wanted",
    "certificate_pem",
    "der_of",
    "extend",
    "foreign_key",
    "foreign_public",
    "has_pem",
    "is_meant_as_kubeconfig",
    "is_usable",
    "issue",
    "key_pem",
    "kind_of",
    "load_key",
    "looks_like_kubeconfig",
    "looks_like_pem",
    "make_ca",
    "make_kubeconfig",
    "name_of",
    "new_key",
    "public_der",
    "public_pem",
    "quiet",
    "read_certificate",
    "read_content",
    "read_kubeconfig",
    "request",
    "signed_by",
    "wanted_of",
]
