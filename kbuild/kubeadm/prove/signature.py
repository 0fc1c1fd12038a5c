"""Verify upstream's signature of a file on its release site: ``<file>.sig``, ``<file>.cert``.

Since v1.26 upstream signs its release artifacts keyless with cosign: ``.sig`` is the base64 of an
ECDSA signature, ``.cert`` the base64 of a PEM certificate that Fulcio issued to upstream's identity
(https://kubernetes.io/docs/tasks/administer-cluster/verify-signed-artifacts/).

This shows that the signing key was certified as upstream's, but not when it signed: upstream
publishes no transparency log entry with the file. kbuild assumes that it was in the ten minutes for
which the certificate was valid. Somebody who kept the key could have signed later.
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
    """The signature or the certificate of its key is not upstream's."""


def can_verify() -> bool:
    """Return whether the extra ``keyless`` is installed."""
    return importlib.util.find_spec("sigstore") is not None


def verify(digest: str, signature: bytes, certificate: bytes) -> None:
    """Verify upstream's signature of a file with this sha256.

    ``signature`` and ``certificate`` are as downloaded. The trusted roots are those of the package
    sigstore. Raises BadSignature.
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
    """Verify chain, SCT and identity, as sigstore.verify.Verifier does for a bundle."""
    from cryptography.x509 import ExtendedKeyUsage, KeyUsage
    from cryptography.x509.oid import ExtendedKeyUsageOID
    from sigstore._internal.sct import verify_sct
    from sigstore._internal.trust import KeyringPurpose
    from sigstore.models import ClientTrustConfig
    from sigstore.verify.policy import Identity

    logging.getLogger("sigstore").setLevel(logging.ERROR)  # it warns about being offline
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

    # The verifier of clients expects another extended key usage; the caller checks Fulcio's.
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
