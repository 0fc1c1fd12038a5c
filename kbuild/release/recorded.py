"""Demand that what a provenance records is what kbuild can have written.

Everything in it comes from whoever wrote it. Only what passes here is compared, used in the name of
a file, or given to a compiler.
"""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from kbuild.base.arches import ARCHES
from kbuild.kubeadm.api import is_go_version, is_tag
from kbuild.kubeadm.model import MAX_YEARS, STOCK_CA_YEARS, STOCK_LEAF_YEARS
from kbuild.release.names import BUILD, PATCH, PROOF, binary_name, sbom_name
from kbuild.release.packages import package_name
from kbuild.settings import BUILDERS, LAYOUTS, PACKAGES, STORED_DEFAULTS, TREE_STATES

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_IMAGE = re.compile(r"[^\s@]+@sha256:([0-9a-f]{64})", re.ASCII)
_PATCH = re.compile(r"patches/[\w.-]+", re.ASCII)
_TEXTS = ("requested_version", "source", "golang_repository", "go_site", "release_site")
_OPTIONAL_TEXTS = ("commit", "source_sha256", "verify_against", "image", "go_version", "go_root")
_SWITCHES = ("stock", "against_stock", "independent")
_PROOFS = ("git-object", "compared", "archive-claim")


def demand_request(asked: Mapping[str, Any]) -> None:
    """Raise ValueError unless the external parameters are those of a request to kbuild."""
    for name in _TEXTS:
        _demand(name, asked[name], _is_text(asked[name]))
    for name in _OPTIONAL_TEXTS:
        _demand(name, asked[name], asked[name] is None or _is_text(asked[name]))
    for name in _SWITCHES:
        _demand(name, asked[name], isinstance(asked[name], bool))
    choices = {"builder": BUILDERS, "layout": LAYOUTS, "tree_state": TREE_STATES}
    for name, known in choices.items():
        _demand(name, asked[name], _is_text(asked[name]) and asked[name] in known)
    # An earlier kbuild did not know it.
    stored = asked.get("stored_defaults", "keep")
    _demand("stored_defaults", stored, _is_text(stored) and stored in STORED_DEFAULTS)
    _demand("version", asked["version"], _is_text(asked["version"]) and is_tag(asked["version"]))
    _demand("arches", asked["arches"], bool(asked["arches"]) and _are_of(asked["arches"], ARCHES))
    _demand("package", asked["package"], _are_of(asked["package"], PACKAGES))
    _demand("build_date", asked["build_date"], _is_moment(asked["build_date"]))
    _demand_lifetimes(asked["lifetimes"])
    stock = {"ca_years": STOCK_CA_YEARS, "leaf_years": STOCK_LEAF_YEARS}
    _demand("lifetimes", asked["lifetimes"], not asked["stock"] or asked["lifetimes"] == stock)


def demand_dependencies(dependencies: list[Mapping[str, Any]], asked: Mapping[str, Any]) -> None:
    """Raise ValueError unless each resolved dependency is one that kbuild records, once."""
    names = [each["name"] for each in dependencies]
    _demand("dependencies", names, all(map(_is_text, names)) and len({*names}) == len(names))
    for each in dependencies:
        match each["name"]:
            case "source":
                _demand_source(each, asked)
            case "go":
                _demand_go(each)
            case name:
                _demand("dependency", name, _PATCH.fullmatch(name) is not None)
                _demand_digests(name, each["digest"], {"sha256": _SHA256})
    _demand("dependencies", names, {"source", "go"} <= {*names})


def demand_subjects(subjects: object) -> None:
    """Raise ValueError unless subjects are named, and have digests, by text."""
    right = isinstance(subjects, Mapping) and all(
        _is_text(name) and isinstance(digests, Mapping) and _are_texts(digests)
        for name, digests in subjects.items()
    )
    _demand("subject", subjects, right)


def artifacts(asked: Mapping[str, Any]) -> set[str]:
    """Return the names of the subjects that a release of this request has."""
    names = {PATCH, PROOF, BUILD}
    for arch in asked["arches"]:
        names |= {binary_name(arch, asked["layout"]), sbom_name(arch)}
        names |= {package_name(kind, asked["version"], arch) for kind in asked["package"]}
    return names


def _demand_source(source: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    notes, digest = source["annotations"], source["digest"]
    proof = notes["commitProof"]
    _demand("commitProof", proof, _is_text(proof) and proof in _PROOFS)
    kinds = {}
    if proof == "archive-claim":
        _demand("claimedCommit", notes["claimedCommit"], _matches(_COMMIT, notes["claimedCommit"]))
    else:
        kinds["gitCommit"] = _COMMIT
        _demand("claimedCommit", notes.get("claimedCommit"), "claimedCommit" not in notes)
    if proof == "compared":
        _demand("verify_against", asked["verify_against"], asked["verify_against"] is not None)
    if proof != "git-object":
        kinds["sha256"] = _SHA256
    _demand_digests("source", digest, kinds)


def _demand_go(go: Mapping[str, Any]) -> None:
    notes, digest = go["annotations"], go["digest"]
    for name in ("version", "pin"):
        _demand(f"Go {name}", notes[name], _is_text(notes[name]) and is_go_version(notes[name]))
    _demand_digests("go", digest, {"sha256": _SHA256})
    if (image := notes.get("image")) is not None:
        found = _IMAGE.fullmatch(image) if _is_text(image) else None
        _demand("image", image, found is not None and found[1] == digest["sha256"])


def _demand_digests(name: str, digest: object, kinds: Mapping[str, re.Pattern[str]]) -> None:
    right = (
        isinstance(digest, Mapping)
        and digest.keys() == kinds.keys()
        and all(_matches(kind, digest[algorithm]) for algorithm, kind in kinds.items())
    )
    _demand(f"digest of {name}", digest, right)


def _demand_lifetimes(lifetimes: object) -> None:
    right = (
        isinstance(lifetimes, Mapping)
        and lifetimes.keys() == {"ca_years", "leaf_years"}
        and all(type(years) is int and 1 <= years <= MAX_YEARS for years in lifetimes.values())
        and lifetimes["leaf_years"] <= lifetimes["ca_years"]
    )
    _demand("lifetimes", lifetimes, right)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _are_texts(digests: Mapping[Any, Any]) -> bool:
    return all(map(_is_text, (*digests, *digests.values())))


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _are_of(values: object, known: Collection[str]) -> bool:
    """Tell whether this is a list of known words, each of them once."""
    return (
        isinstance(values, list)
        and all(isinstance(value, str) and value in known for value in values)
        and len({*values}) == len(values)
    )


def _is_moment(value: object) -> bool:
    """Tell whether this is a moment as kbuild writes it: RFC 3339, UTC, whole seconds."""
    if not isinstance(value, str) or not value.endswith("Z"):
        return False
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return False
    return value == moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _demand(name: str, value: object, right: bool) -> None:  # noqa: FBT001
    if not right:
        message = f"{name} cannot be {value!r}"
        raise ValueError(message)
