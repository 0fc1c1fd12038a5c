"""What pki.toml says of single certificates that are not as derived: [certificates.NAME]."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from kbuild.base.values import did_you_mean
from kbuild.pki.cfssl import host_names
from kbuild.pki.durations import go_duration
from kbuild.pki.errors import BadPkiFile, UnknownPkiKey
from kbuild.pki.fields import Fields, fields_of
from kbuild.pki.key_uris import KeyUri, key_uri
from kbuild.pki.model import Spec
from kbuild.x509.api import EXTENDED, KEY_USAGES, SUBJECT_FIELDS, KeyKind, Subject

TABLE = "certificates"
_USAGES = (*KEY_USAGES.values(), *EXTENDED.values())
_KEYS = (
    "subject",
    "extra-hosts",
    "without-hosts",
    "usages",
    "lifetime",
    "key",
    "server",
    "key-uri",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """What is different from what is derived; empty or None: nothing.

    Hosts are in the words of CertificateFacts.names. ``server`` is that of the kubeconfig.
    ``key_uri`` is that of a CA.
    """

    subject: Subject = ()
    extra_hosts: tuple[str, ...] = ()
    without_hosts: tuple[str, ...] = ()
    usages: tuple[str, ...] = ()
    lifetime: timedelta | None = None
    key_kind: KeyKind | None = None
    server: str = ""
    key_uri: KeyUri | None = None


def read_overrides(found: Fields, kinds: Mapping[str, KeyKind]) -> dict[str, Override]:
    """Return what a pki.toml says of single certificates; raises an error of kbuild.pki.errors."""
    return {
        name: _override(fields_of(found.path, f"{TABLE}.{name}", values, _KEYS), kinds)
        for name, values in (found.table(TABLE) or {}).items()
    }


def overridden(
    path: Path, specs: Iterable[Spec], overrides: Mapping[str, Override]
) -> Iterator[Spec]:
    """Yield certificates, with their overrides.

    Raises UnknownPkiKey for one of no certificate, and BadPkiFile for the usages of a CA.
    """
    planned = list(specs)
    known = [each.name for each in planned]
    for name in overrides:
        if name not in known:
            close = did_you_mean(name, known) or "`kbuild pki plan` shows the names"
            raise UnknownPkiKey(path=path, where=f"name in {TABLE}", name=name, suggestion=close)
    for spec in planned:
        if spec.wanted.is_ca and spec.name in overrides and overrides[spec.name].usages:
            reason = f"{TABLE}.{spec.name}.usages is that of a CA, whose usages are always the same"
            hint = "remove it; certificates that are not CAs can have other usages"
            raise BadPkiFile(path=path, reason=reason, hint=hint)
        if not spec.wanted.is_ca and spec.name in overrides and overrides[spec.name].key_uri:
            reason = f"{TABLE}.{spec.name}.key-uri is for CAs: nothing else may stay on a token"
            hint = "remove it; the components of Kubernetes read their keys from files"
            raise BadPkiFile(path=path, reason=reason, hint=hint)
        yield _applied(spec, overrides[spec.name]) if spec.name in overrides else spec


def _applied(spec: Spec, own: Override) -> Spec:
    names = (each for each in spec.wanted.names if each not in own.without_hosts)
    wanted = replace(
        spec.wanted,
        subject=own.subject or spec.wanted.subject,
        names=tuple(dict.fromkeys((*names, *own.extra_hosts))),
        usages=own.usages or spec.wanted.usages,
    )
    lifetime = spec.term.lifetime if own.lifetime is None else own.lifetime
    login = replace(spec.login, server=own.server or spec.login.server) if spec.login else None
    return replace(
        spec,
        wanted=wanted,
        asked=wanted,
        key_kind=own.key_kind or spec.key_kind,
        term=replace(spec.term, lifetime=lifetime),
        login=login,
        key_uri=own.key_uri,
    )


def _override(found: Fields, kinds: Mapping[str, KeyKind]) -> Override:
    key = found.text("key")
    if key and key not in kinds:
        hint = did_you_mean(key, kinds) or f"choose among {', '.join(kinds)}"
        raise found.bad(reason=f"{found.named('key')} cannot be {key!r}", hint=hint)
    return Override(
        subject=_subject(found),
        extra_hosts=_hosts(found, "extra-hosts"),
        without_hosts=_hosts(found, "without-hosts"),
        usages=_usages(found),
        lifetime=_lifetime(found),
        key_kind=kinds[key] if key else None,
        server=_server(found),
        key_uri=_key_uri(found),
    )


def _key_uri(found: Fields) -> KeyUri | None:
    text = found.text("key-uri")
    return key_uri(text, f"{found.named('key-uri')} in {found.path}") if text else None


def _hosts(found: Fields, name: str) -> tuple[str, ...]:
    return host_names(found.path, found.named(name), list(found.texts(name)))


def _subject(found: Fields) -> Subject:
    table = fields_of(
        found.path, found.named("subject"), found.table("subject") or {}, SUBJECT_FIELDS
    )
    return tuple((field, table.texts(field)) for field in SUBJECT_FIELDS if field in table.values)


def _usages(found: Fields) -> tuple[str, ...]:
    usages = found.texts("usages")
    for each in usages:
        if each not in _USAGES:
            close = did_you_mean(each, _USAGES) or f"the usages are {', '.join(_USAGES)}"
            place = f"usage in {found.where}"
            raise UnknownPkiKey(path=found.path, where=place, name=each, suggestion=close)
    return usages


def _lifetime(found: Fields) -> timedelta | None:
    text = found.text("lifetime")
    if not text:
        return None
    try:
        lifetime = go_duration(text)
    except ValueError as error:
        hint = "write a lifetime in hours, such as 43800h for five years"
        raise found.bad(reason=f"{found.named('lifetime')}: {error}", hint=hint) from error
    if not lifetime:
        raise found.bad(reason=f"{found.named('lifetime')} must not be zero")
    return lifetime


def _server(found: Fields) -> str:
    server = found.text("server")
    if server and (urlsplit(server).scheme != "https" or not urlsplit(server).hostname):
        reason = f"{found.named('server')} cannot be {server!r}"
        raise found.bad(reason=reason, hint="write it like https://192.0.2.100:6443")
    return server
