"""Upstream's signature of a file on its release site: ``<file>.sig`` and ``<file>.cert``.

Since v1.26 upstream signs its release artifacts keyless with cosign: ``.sig`` is the base64 of an
ECDSA signature, ``.cert`` the base64 of a PEM certificate that Fulcio issued to upstream's identity
(https://kubernetes.io/docs/tasks/administer-cluster/verify-signed-artifacts/).

This shows that the key which signed was certified as upstream's. It does not show when it signed:
no entry of the transparency log is published beside the file, so the time is taken to lie in the
few minutes in which the certificate was valid. Whoever kept the key could have signed later.
"""

import base64
import importlib.util
import logging
from datetime import datetime
from typing import Any

IDENTITY = "krel-staging@k8s-releng-prod.iam.gserviceaccount.com"
ISSUER = "https://accounts.google.com"
SIGNER = f"{IDENTITY} ({ISSUER})"


class BadSignature(Exception):
    """A signature, or the certificate of its key, that is not upstream's."""


def can_verify() -> bool:
    """Return whether the extra ``keyless`` is installed."""
    return importlib.util.find_spec("sigstore") is not None


def verify(digest: str, signature: bytes, certificate: bytes) -> None:
    """Verify upstream's signature of a file by its sha256; the other two are as downloaded.

    Trusted are the roots that come with the package sigstore. Raises BadSignature.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        found = x509.load_pem_x509_certificate(base64.b64decode(certificate))
        _verify_certificate(found)
        _verify_signature(found.public_key(), digest, base64.b64decode(signature))
    except InvalidSignature as error:
        reason = "the signature is not of this file"
        raise BadSignature(reason) from error
    except Exception as error:  # sigstore's and cryptography's have no common base
        reason = f"it cannot be verified: {str(error) or type(error).__name__}"
        raise BadSignature(reason) from error


def _verify_signature(key: Any, digest: str, signature: bytes) -> None:  # noqa: ANN401
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    if not isinstance(key, ec.EllipticCurvePublicKey):
        reason = "the certificate has no ECDSA key"
        raise TypeError(reason)
    key.verify(signature, bytes.fromhex(digest), ec.ECDSA(utils.Prehashed(hashes.SHA256())))


def _verify_certificate(certificate: Any) -> None:  # noqa: ANN401
    """Verify chain, SCT and identity, as sigstore.verify.Verifier does it for a bundle."""
    from cryptography.x509 import ExtendedKeyUsage, KeyUsage
    from cryptography.x509.oid import ExtendedKeyUsageOID
    from sigstore._internal.sct import verify_sct
    from sigstore._internal.trust import KeyringPurpose
    from sigstore.models import ClientTrustConfig
    from sigstore.verify.policy import Identity

    logging.getLogger("sigstore").setLevel(logging.ERROR)  # it would warn of being offline
    root = ClientTrustConfig.production(offline=True).trusted_root
    chain = _chain(certificate, root.get_fulcio_certs(), certificate.not_valid_before_utc)
    verify_sct(certificate, chain, root.ct_keyring(KeyringPurpose.VERIFY))
    extensions = certificate.extensions
    usage = extensions.get_extension_for_class(KeyUsage).value
    purposes = extensions.get_extension_for_class(ExtendedKeyUsage).value
    if not usage.digital_signature or ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        reason = "the certificate is not for signing code"
        raise ValueError(reason)
    Identity(identity=IDENTITY, issuer=ISSUER).verify(certificate)


def _chain(certificate: Any, roots: list[Any], moment: datetime) -> list[Any]:  # noqa: ANN401
    from cryptography.x509 import ExtendedKeyUsage, UnsupportedGeneralNameType
    from cryptography.x509.verification import (
        Criticality,
        ExtensionPolicy,
        PolicyBuilder,
        Store,
        VerificationError,
    )

    # A client's certificate would need another extended key usage; that of Fulcio's is checked
    # by the caller.
    ca, leaf = (
        policy.may_be_present(ExtendedKeyUsage, Criticality.NON_CRITICAL, None)
        for policy in (ExtensionPolicy.webpki_defaults_ca(), ExtensionPolicy.webpki_defaults_ee())
    )
    verifier = (
        PolicyBuilder()
        .store(Store(roots))
        .time(moment)
        .extension_policies(ca_policy=ca, ee_policy=leaf)
        .build_client_verifier()
    )
    try:
        return verifier.verify(certificate, []).chain[1:]
    except (VerificationError, UnsupportedGeneralNameType) as error:
        reason = f"the certificate is not Fulcio's: {error}"
        raise ValueError(reason) from error
