"""Whether the key of one certificate signed another."""

from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from kbuild.x509.facts import CertificateFacts

_OLD_HASHES = ("md5", "sha1")


def signed_by(certificate: CertificateFacts, issuer: CertificateFacts) -> bool:
    """Tell whether the issuer has the right name, and its key signed the certificate.

    Dates, constraints and usages are not looked at. An algorithm that the library does not know
    counts as no signature.
    """
    try:
        if certificate.hash_name in _OLD_HASHES:
            return certificate.issuer == issuer.subject and _signed_in_the_past(certificate, issuer)
        signed = x509.load_der_x509_certificate(certificate.der)
        signed.verify_directly_issued_by(_issuer(issuer.der))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


@lru_cache(maxsize=64)
def _issuer(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _signed_in_the_past(certificate: CertificateFacts, issuer: CertificateFacts) -> bool:
    """Verify a signature with a hash that the library refuses in certificates."""
    signed, key = x509.load_der_x509_certificate(certificate.der), _issuer(issuer.der).public_key()
    algorithm = signed.signature_hash_algorithm
    if algorithm is None:
        return False
    match key:
        case rsa.RSAPublicKey():
            key.verify(
                signed.signature, signed.tbs_certificate_bytes, padding.PKCS1v15(), algorithm
            )
        case ec.EllipticCurvePublicKey():
            key.verify(signed.signature, signed.tbs_certificate_bytes, ec.ECDSA(algorithm))
        case _:
            return False
    return True
