"""Derive the files of cfssl from certificates: ca-config.json and NAME-csr.json."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kbuild.pki.cfssl import CONFIG, SUFFIX
from kbuild.pki.durations import go_text
from kbuild.pki.errors import NothingToImport, SignerMissing, UnknownCertificate
from kbuild.pki.found import KEY, Found
from kbuild.x509.api import Subject, signed_by

_ONLY = "kubernetes"  # the profile if there is one only, as in the recipes
_EXPIRY = "43800h"  # of the default, which no request uses
_NAME_FIELDS = ("C", "ST", "L", "O", "OU")


def cfssl_files(
    folder: Path, found: list[Found], ca_keys: Mapping[str, str], notes: list[str]
) -> dict[Path, str]:
    """Return the content of each file.

    Raises SignerMissing or NothingToImport, and UnknownCertificate for a key of no CA.
    """
    roots = [each for each in found if each.is_root]
    leaves = [each for each in found if not each.is_root]
    if not found:
        raise NothingToImport(path=folder)
    for each in leaves:
        _demand_signer(each, roots)
    for name in ca_keys:
        if name not in {each.name for each in roots}:
            known = ", ".join(each.name for each in roots)
            raise UnknownCertificate(name=name, known=known)
        notes.append(f"The files of cfssl name no token: give --ca-key for {name} to each command.")
    notes += _missing_keys([each for each in found if each.name not in ca_keys])
    files = {folder / CONFIG: _text(_config(leaves))}
    for each in found:
        files[folder / f"{each.name}{SUFFIX}"] = _text(_request(each))
    return files


def _demand_signer(leaf: Found, roots: list[Found]) -> None:
    if not any(signed_by(leaf.facts, root.facts) for root in roots):
        known = ", ".join(root.path.name for root in roots) or "there is none"
        raise SignerMissing(path=leaf.path, name=leaf.name, issuer=leaf.facts.issuer, known=known)


def _missing_keys(found: list[Found]) -> Iterator[str]:
    for each in found:
        if each.path.with_name(f"{each.name}{KEY}").exists():
            continue
        if each.is_root:
            yield f"{each.name}{KEY} is not there: nothing can be signed without it."
        else:
            yield f"{each.name}{KEY} is not there: `kbuild pki issue` would make a new one."


def _config(leaves: list[Found]) -> dict[str, Any]:
    profiles = {each.name: _profile(each) for each in leaves}
    different = {_text(profile) for profile in profiles.values()}
    if len(different) == 1:
        profiles = {_ONLY: next(iter(profiles.values()))}
    return {"signing": {"default": {"expiry": _EXPIRY}, "profiles": profiles}}


def _profile(found: Found) -> dict[str, Any]:
    wanted = found.wanted
    profile: dict[str, Any] = {"expiry": go_text(found.lifetime), "usages": list(wanted.usages)}
    urls = {
        "crl_url": wanted.crl_url,
        "ocsp_url": wanted.ocsp_url,
        "issuer_urls": list(wanted.issuer_urls),
        "ocsp_no_check": wanted.ocsp_no_check,
    }
    profile |= {name: value for name, value in urls.items() if value}
    if wanted.is_ca:
        limits: dict[str, Any] = {"is_ca": True}
        if wanted.path_length is not None:
            limits |= {"max_path_len": wanted.path_length}
            limits |= {} if wanted.path_length else {"max_path_len_zero": True}
        profile["ca_constraint"] = limits
    return profile


def _request(found: Found) -> dict[str, Any]:
    wanted, kind = found.wanted, found.key_kind
    subject = dict(wanted.subject)
    key: dict[str, Any] = {"algo": kind.algorithm, "size": kind.size}
    request: dict[str, Any] = {
        "CN": subject.get("CN", ("",))[0],
        "hosts": [each.partition(":")[2] for each in wanted.names],
        "key": key,
        "names": _names(wanted.subject),
    }
    if number := subject.get("SERIALNUMBER"):
        request["serialnumber"] = number[0]
    if found.is_root:
        request["ca"] = {"expiry": go_text(found.lifetime)}
        if wanted.path_length is not None:
            request["ca"]["pathlen"] = wanted.path_length
            request["ca"]["pathlenzero"] = wanted.path_length == 0
        if wanted.crl_url:
            request["crl_url"] = wanted.crl_url
    return request


def _names(subject: Subject) -> list[dict[str, str]]:
    """Return the fields but CN; the further values of a field are in further tables."""
    fields = [(field, values) for field, values in subject if field in _NAME_FIELDS]
    most = max((len(values) for _, values in fields), default=0)
    return [
        {field: values[number] for field, values in fields if number < len(values)}
        for number in range(most)
    ]


def _text(document: object) -> str:
    return json.dumps(document, indent=4, ensure_ascii=False) + "\n"
