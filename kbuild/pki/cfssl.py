"""Read the files of cfssl: ca-config.json and *-csr.json, with the meaning that cfssl gives them.

Sources: config/config.go, csr/csr.go, initca/initca.go and signer/signer.go of cloudflare/cfssl at
7fb22c8 (Debian's 1.2.0) and v1.6.5. Where cfssl takes a mistake in silence, this refuses it: an
unknown key, an unknown usage, a host that is no host.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kbuild.base.files import read_file, reason_of
from kbuild.base.strictjson import load_json
from kbuild.base.values import did_you_mean
from kbuild.pki.durations import go_duration
from kbuild.pki.errors import (
    BadHost,
    BadPkiFile,
    DuplicateName,
    NotSupportedHere,
    ProfileWithoutUsages,
    UnknownPkiKey,
)
from kbuild.pki.fields import Fields, fields_of
from kbuild.pki.hosts import alternative_name, repeated
from kbuild.pki.model import Term
from kbuild.x509.api import EXTENDED, KEY_USAGES, KeyKind, Subject, Wanted

CONFIG, SUFFIX = "ca-config.json", "-csr.json"
_MAX_FILE = 1 << 20  # bytes; 10,000 hosts have 300 KiB
_BACKDATE = timedelta(minutes=5)
_CA_EXPIRY = timedelta(hours=43800)  # CAPolicy of initca/initca.go
_SYNONYMS = {
    "signing": "digital signature",
    "content commitment": "content commitment",
    "content committment": "content commitment",  # as 1.2.0 spells it
    "s/mime": "email protection",
}
_WORDS = {
    **{word: word for word in (*KEY_USAGES.values(), *EXTENDED.values())},
    **_SYNONYMS,
}
_RSA_BITS, _CURVE_BITS = range(2048, 8193), (256, 384, 521)
_FIELDS = ("C", "ST", "L", "O", "OU")
_HERE = "kbuild signs here, with the key of the CA"
# What a profile may have that changes nothing in what cfssl issues from the command line.
_WITHOUT_EFFECT = ("auth_key", "prev_auth_key", "cert_store", "allowed_extensions")
_REFUSED = {
    "remote": _HERE,
    "auth_remote": _HERE,
    "ct_log_servers": "kbuild sends certificates to nobody",
    "Policies": "kbuild writes no certificate policies",
    "CSRWhitelist": "kbuild takes everything from the request",
    "ClientProvidesSerialNumbers": "serial numbers are random",
    "name_whitelist": "kbuild does not restrict names",
    "copy_extensions": "requests of kbuild have no other extensions",
    "lint_error_level": "kbuild does not run zlint",
    "ignored_lints": "kbuild does not run zlint",
    "ignored_lint_sources": "kbuild does not run zlint",
}
_PROFILE = (
    *("usages", "expiry", "backdate", "not_before", "not_after", "ca_constraint"),
    *("issuer_urls", "ocsp_url", "crl_url", "ocsp_no_check"),
    *_WITHOUT_EFFECT,
    *_REFUSED,
)
_REQUEST = ("CN", "names", "hosts", "key", "ca", "serialnumber", "crl_url")
_REFUSED_REQUEST = {
    "extensions": "kbuild writes no other extensions",
    "delegation_enabled": "kbuild issues no delegated credentials",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A profile of ca-config.json."""

    name: str
    usages: tuple[str, ...]
    term: Term
    is_ca: bool
    path_length: int | None
    crl_url: str
    ocsp_url: str
    issuer_urls: tuple[str, ...]
    ocsp_no_check: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """ca-config.json; ``default`` has no usages if the file gives it none."""

    path: Path
    default: Profile
    profiles: dict[str, Profile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A *-csr.json. ``name`` is its file name without the ending; ``is_ca`` if it is one of a CA.

    ``hosts`` are in the words of CertificateFacts.names. ``empty_hosts`` counts those left out.
    ``term`` and ``path_length`` are those of a CA. ``says_ca`` tells whether it has a ca section.
    """

    path: Path
    name: str
    subject: Subject
    hosts: tuple[str, ...]
    empty_hosts: int
    key_kind: KeyKind
    is_ca: bool
    says_ca: bool
    term: Term
    path_length: int | None
    crl_url: str

    @property
    def asked(self) -> Wanted:
        """Return what cfssl writes into the request, a CSR."""
        return Wanted(
            subject=self.subject,
            names=self.hosts,
            usages=(),
            is_ca=self.says_ca,
            path_length=self.path_length if self.says_ca else None,
        )


def read_config(path: Path, content: bytes | None = None) -> Config:
    """Read a ca-config.json, or the content that it shall have.

    Raises an error of kbuild.pki.errors.
    """
    top = _fields(path, "", _load(path, content), ("signing", "ocsp", "auth_keys", "remotes"))
    signing = _fields(path, "signing", top.values.get("signing"), ("default", "profiles"))
    default = signing.table("default")
    standard = _profile(path, "default", default) if default is not None else _standard()
    if not standard.term.lifetime and standard.term.not_after is None:
        raise top.bad(reason="signing.default.expiry must not be zero")
    profiles = {
        name: _profile(path, name, values, standard)
        for name, values in (signing.table("profiles") or {}).items()
    }
    for profile in profiles.values():
        if not profile.usages:
            raise ProfileWithoutUsages(path=path, name=profile.name)
    return Config(path=path, default=standard, profiles=profiles)


def read_request(path: Path, content: bytes | None = None) -> Request:
    """Read a *-csr.json, or the content that it shall have.

    Raises an error of kbuild.pki.errors.
    """
    name = path.name.removesuffix(SUFFIX)
    found = _fields(path, "", _load(path, content), (*_REQUEST, *_REFUSED_REQUEST))
    _refuse(found, _REFUSED_REQUEST)
    authority = found.table("ca")
    is_ca = authority is not None or name == "ca" or name.endswith("-ca")
    term, path_length = _authority(path, authority or {})
    written = found.texts("hosts")
    hosts = _hosts(path, [each for each in written if each])
    subject = _subject(found)
    if not subject and (is_ca or not hosts):
        raise found.bad(
            reason="it has neither CN nor names", hint="give it a CN, such as kubernetes"
        )
    return Request(
        path=path,
        name=name,
        subject=subject,
        hosts=hosts,
        empty_hosts=len(written) - sum(map(bool, written)),
        key_kind=_key_kind(path, found.table("key")),
        is_ca=is_ca,
        says_ca=authority is not None,
        term=term,
        path_length=path_length,
        crl_url=found.text("crl_url"),
    )


def _load(path: Path, content: bytes | None = None) -> Any:  # noqa: ANN401  # any JSON
    try:
        return load_json(read_file(path, _MAX_FILE) if content is None else content)
    except FileNotFoundError:
        raise BadPkiFile(
            path=path, reason="it does not exist", hint="name its directory with --dir"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        hint = "correct the file; `cfssl print-defaults csr` prints an example"
        raise BadPkiFile(path=path, reason=reason_of(error), hint=hint) from error


def _fields(path: Path, where: str, values: object, known: tuple[str, ...]) -> Fields:
    return fields_of(path, where, values, known, ignores_case=True)


def _refuse(found: Fields, refused: dict[str, str]) -> None:
    for name, reason in refused.items():
        if found.values.get(name):
            raise NotSupportedHere(path=found.path, name=found.named(name), reason=reason)


def _standard() -> Profile:
    """Return the profile of a file that has no default (DefaultConfig of config/config.go)."""
    usages = ("digital signature", "key encipherment", "server auth", "client auth")
    return Profile(
        name="default",
        usages=usages,
        term=Term(lifetime=timedelta(hours=8760)),
        is_ca=False,
        path_length=None,
        crl_url="",
        ocsp_url="",
        issuer_urls=(),
        ocsp_no_check=False,
    )


def _profile(path: Path, name: str, values: object, default: Profile | None = None) -> Profile:
    where = f"signing.profiles.{name}" if default else "signing.default"
    found = _fields(path, where, values, _PROFILE)
    _refuse(found, _REFUSED)
    limits = _fields(
        path,
        f"{where}.ca_constraint",
        found.table("ca_constraint") or {},
        ("is_ca", "max_path_len", "max_path_len_zero"),
    )
    is_ca, most = limits.switch("is_ca"), limits.number("max_path_len")
    is_limited = most > 0 or (most == 0 and limits.switch("max_path_len_zero"))
    lifetime = _duration(found, "expiry")
    if not lifetime and default:  # FillTemplate of signer/signer.go
        lifetime = default.term.lifetime
    return Profile(
        name=name,
        usages=_usages(found),
        term=Term(
            lifetime=lifetime,
            backdate=(_duration(found, "backdate") if found.text("backdate") else None)
            or _BACKDATE,
            not_before=_moment(found, "not_before"),
            not_after=_moment(found, "not_after"),
        ),
        is_ca=is_ca,
        path_length=most if is_ca and is_limited else None,
        crl_url=found.text("crl_url") or (default.crl_url if default else ""),
        ocsp_url=found.text("ocsp_url") or (default.ocsp_url if default else ""),
        issuer_urls=found.texts("issuer_urls") or (default.issuer_urls if default else ()),
        ocsp_no_check=found.switch("ocsp_no_check"),
    )


def _duration(found: Fields, name: str) -> timedelta:
    try:
        return go_duration(found.text(name))
    except ValueError as error:
        reason = f"{found.named(name)} is missing" if not found.text(name) else str(error)
        hint = "write a lifetime in hours, such as 43800h for five years"
        raise found.bad(reason=reason, hint=hint) from error


def _moment(found: Fields, name: str) -> datetime | None:
    text = found.text(name)
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min  # noqa: DTZ901  # without a time zone, so it is refused below
    if moment.tzinfo is None:
        hint = "write it like 2031-01-31T12:00:00Z"
        raise found.bad(
            reason=f"{found.named(name)} is not a date and time with a time zone", hint=hint
        )
    return moment.astimezone(UTC).replace(microsecond=0)


def _usages(found: Fields) -> tuple[str, ...]:
    usages: list[str] = []
    for word in found.texts("usages"):
        if word not in _WORDS:
            close = did_you_mean(word, _WORDS) or f"the usages are {', '.join(_WORDS)}"
            raise UnknownPkiKey(
                path=found.path, where=f"usage in {found.where}", name=word, suggestion=close
            )
        usages.append(_WORDS[word])
    return tuple(dict.fromkeys(usages))


def _authority(path: Path, values: object) -> tuple[Term, int | None]:
    found = _fields(path, "ca", values, ("expiry", "pathlen", "pathlenzero", "backdate"))
    most, is_zero = found.number("pathlen"), found.switch("pathlenzero")
    lifetime = _duration(found, "expiry") if found.text("expiry") else _CA_EXPIRY
    if not lifetime:
        raise found.bad(reason="ca.expiry must not be zero")
    backdate = _duration(found, "backdate") if found.text("backdate") else _BACKDATE
    term = Term(lifetime=lifetime, backdate=backdate or _BACKDATE)
    if most < 0:
        return term, None
    return term, most if most or is_zero else None


def _hosts(path: Path, written: list[str]) -> tuple[str, ...]:
    return host_names(path, "hosts", written)


def host_names(path: Path, where: str, written: list[str]) -> tuple[str, ...]:
    """Return hosts in the words of CertificateFacts.names; raises BadHost or DuplicateName."""
    names = []
    for host in written:
        try:
            names.append(alternative_name(host))
        except ValueError as error:
            raise BadHost(path=path, where=where, host=host, reason=str(error)) from error
    # DNS names are compared without case, and an address is written in one way here.
    if twice := repeated(name.lower() if name.startswith("DNS:") else name for name in names):
        raise DuplicateName(path=path, name=twice.partition(":")[2], where=where)
    return tuple(names)


def _subject(found: Fields) -> Subject:
    """Return the subject: the values of a field of all names together, as in pkix.Name of Go."""
    values: dict[str, list[str]] = {field: [] for field in _FIELDS}
    for number, entry in enumerate(found.tables("names")):
        # SerialNumber of a name is read by cfssl and written nowhere.
        name = _fields(
            found.path, f"names[{number}]", entry, (*_FIELDS, "SerialNumber", "E", "OID")
        )
        _refuse(name, dict.fromkeys(("E", "OID"), "kbuild writes no such fields"))
        for field in _FIELDS:
            if text := name.text(field):
                values[field].append(text)
    values["CN"] = [found.text("CN")] if found.text("CN") else []
    values["SERIALNUMBER"] = [found.text("serialnumber")] if found.text("serialnumber") else []
    return tuple((field, tuple(dict.fromkeys(each))) for field, each in values.items() if each)


def _key_kind(path: Path, values: object) -> KeyKind:
    """Return the kind of key; without one it is ECDSA P-256 (NewBasicKeyRequest of csr/csr.go)."""
    if values is None:
        return KeyKind(algorithm="ecdsa", size=256)
    found = _fields(path, "key", values, ("algo", "size"))
    algorithm, size = found.text("algo"), found.number("size")
    match algorithm:
        case "rsa" if size in _RSA_BITS:
            return KeyKind(algorithm=algorithm, size=size)
        case "ecdsa" if size in _CURVE_BITS:
            return KeyKind(algorithm=algorithm, size=size)
        case "ed25519":
            return KeyKind(algorithm=algorithm, size=0)
        case "rsa":
            raise found.bad(reason=f"key.size cannot be {size}: cfssl takes 2048 to 8192 bits")
        case "ecdsa":
            raise found.bad(
                reason=f"key.size cannot be {size}: the curves have 256, 384 and 521 bits"
            )
        case _:
            raise found.bad(reason=f"key.algo cannot be {algorithm!r}: it is rsa, ecdsa or ed25519")
