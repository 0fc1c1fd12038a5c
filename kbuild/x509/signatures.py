"""Whether the key of one certificate signed another."""

from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from kbuild.x509.facts import CertificateFacts

_OF_RSA, _OF_ECDSA = "1.2.840.113549.1.1.", "1.2.840.10045.4."


def signed_by(certificate: CertificateFacts, issuer: CertificateFacts) -> bool | None:
    """Tell whether the issuer has the right name, and its key signed the certificate.

    Dates, constraints and usages are not looked at. None if it cannot be told: the library does not
    know the algorithm, or the exponent of an RSA key is so large that it would take long.
    """
    if certificate.issuer != issuer.subject:
        return False
    if issuer.has_large_exponent or not issuer.public_key:
        return None
    try:
        signed = x509.load_der_x509_certificate(certificate.der)
        return _verify(_key(issuer.der), signed, signed.signature_hash_algorithm)
    except InvalidSignature:
        return False
    except (UnsupportedAlgorithm, ValueError, TypeError):
        return None


@lru_cache(maxsize=64)
def _key(der: bytes) -> CertificatePublicKeyTypes:
    return x509.load_der_x509_certificate(der).public_key()


def _verify(
    key: CertificatePublicKeyTypes, signed: x509.Certificate, algorithm: hashes.HashAlgorithm | None
) -> bool:
    """Verify a signature, also with a hash that the library refuses in certificates.

    Tells whether the key is of the kind that the signature is; raises InvalidSignature.
    """
    signature, content = signed.signature, signed.tbs_certificate_bytes
    match key, _parameters(signed):
        case rsa.RSAPublicKey(), padding.PSS() | padding.PKCS1v15() as pad if algorithm:
            key.verify(signature, content, pad, algorithm)
        case ec.EllipticCurvePublicKey(), ec.ECDSA() as scheme:
            key.verify(signature, content, scheme)
        case dsa.DSAPublicKey(), None if algorithm:
            key.verify(signature, content, algorithm)
        case ((ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey()), None) if not algorithm:
            key.verify(signature, content)
        case _:
            return False
    return True


def _parameters(signed: x509.Certificate) -> padding.PSS | padding.PKCS1v15 | ec.ECDSA | None:
    """Return how a signature was made, also with MD5 and SHA-1, for which the library does not."""
    found, algorithm = signed.signature_algorithm_parameters, signed.signature_hash_algorithm
    kind = signed.signature_algorithm_oid.dotted_string
    if found is None and kind.startswith(_OF_RSA):
        return padding.PKCS1v15()
    if found is None and kind.startswith(_OF_ECDSA) and algorithm is not None:
        return ec.ECDSA(algorithm)
    return found
