"""Say what a certificate says in the words in which ``issue`` is asked for one."""

import re

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID as Access

from kbuild.x509.facts import EXTENDED, KEY_USAGES, CertificateFacts, Extensions
from kbuild.x509.issue import SUBJECT_FIELDS, Subject, Wanted, name_of
from kbuild.x509.private import KeyKind
from kbuild.x509.reading import BROKEN, quiet

_FIELDS = {oid: field for field, oid in SUBJECT_FIELDS.items()}
_WRITTEN = (
    *(x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName),
    *(x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier, x509.OCSPNoCheck),
    *(x509.AuthorityInformationAccess, x509.CRLDistributionPoints),
)
_KINDS = ("DNS", "IP", "URI", "email")
_KEY = re.compile(r"(RSA|ECDSA P-)\s?(\d+)|Ed25519")


class NotWanted(ValueError):
    """A certificate says something that ``issue`` does not write; the text says what."""


def wanted_of(facts: CertificateFacts) -> Wanted:
    """Return what to ask for to get a certificate that says the same; raises NotWanted.

    The other extensions of a self-signed CA are passed over, as ``extend`` keeps them.
    """
    try:
        with quiet():
            found = x509.load_der_x509_certificate(facts.der)
            if not (facts.is_ca and facts.is_self_issued):
                _demand_written(found, facts)
            return _wanted(found, facts)
    except NotWanted:
        raise
    except BROKEN as error:
        raise NotWanted(str(error)) from error


def kind_of(facts: CertificateFacts) -> KeyKind:
    """Return the kind of a certificate's key; raises NotWanted."""
    match = _KEY.fullmatch(facts.key)
    if match is None:
        message = f"its key is {facts.key}"
        raise NotWanted(message)
    algorithm = {"RSA": "rsa", "ECDSA P-": "ecdsa", None: "ed25519"}[match[1]]
    return KeyKind(algorithm=algorithm, size=int(match[2] or 0))


def _wanted(found: x509.Certificate, facts: CertificateFacts) -> Wanted:
    extensions = Extensions(found)
    ocsp, issuers = _access(extensions.get(x509.AuthorityInformationAccess))
    return Wanted(
        subject=_subject(found.subject, facts),
        # An empty DNS name, which cfssl writes for the host "", matches nothing.
        names=tuple(dict.fromkeys(each for each in facts.names if each != "DNS:")),
        usages=facts.usages,
        is_ca=facts.is_ca,
        path_length=facts.path_length,
        crl_url=_crl_url(extensions.get(x509.CRLDistributionPoints)),
        ocsp_url=ocsp,
        issuer_urls=issuers,
        ocsp_no_check=extensions.get(x509.OCSPNoCheck) is not None,
    )


def _demand_written(found: x509.Certificate, facts: CertificateFacts) -> None:
    for each in found.extensions:
        if not isinstance(each.value, _WRITTEN):
            message = f"it has the extension {each.oid.dotted_string}"
            raise NotWanted(message)
    known = (*KEY_USAGES.values(), *EXTENDED.values())
    if strange := [each for each in facts.usages if each not in known]:
        message = f"it has the usage {strange[0]}"
        raise NotWanted(message)
    if strange := [each for each in facts.names if each.partition(":")[0] not in _KINDS]:
        message = f"it has a name of another kind: {strange[0]}"
        raise NotWanted(message)


def _subject(name: x509.Name, facts: CertificateFacts) -> Subject:
    subject: dict[str, tuple[str, ...]] = {}
    for part in name.rdns:
        fields = {_FIELDS.get(each.oid, "") for each in part}
        field = next(iter(fields))
        if len(fields) > 1 or not field or field in subject:
            message = f"its subject has another form: {facts.subject}"
            raise NotWanted(message)
        subject[field] = tuple(str(each.value) for each in part)
    ordered = tuple((field, subject[field]) for field in SUBJECT_FIELDS if field in subject)
    if name_of(ordered).rfc4514_string() != facts.subject:
        message = f"its subject has another order: {facts.subject}"
        raise NotWanted(message)
    return ordered


def _access(found: x509.AuthorityInformationAccess | None) -> tuple[str, tuple[str, ...]]:
    urls: dict[x509.ObjectIdentifier, list[str]] = {Access.OCSP: [], Access.CA_ISSUERS: []}
    for each in found or ():
        if not isinstance(each.access_location, x509.UniformResourceIdentifier):
            message = "its authority information access is no URL"
            raise NotWanted(message)
        urls.setdefault(each.access_method, []).append(each.access_location.value)
    if len(urls) > 2 or len(urls[Access.OCSP]) > 1:  # noqa: PLR2004  # the two kinds above
        message = "it has more than one OCSP server, or an unknown authority information access"
        raise NotWanted(message)
    return "".join(urls[Access.OCSP]), tuple(urls[Access.CA_ISSUERS])


def _crl_url(found: x509.CRLDistributionPoints | None) -> str:
    if found is None:
        return ""
    names = [name for point in found for name in point.full_name or ()]
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        message = "it has more than one place for CRLs, or one without a URL"
        raise NotWanted(message)
    return str(names[0].value)
