"""The configuration that a living cluster has stored, and what must change in it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version

from kbuild.base.diff import unified
from kbuild.base.files import BROKEN, read_file, reason_of
from kbuild.config import yamltext
from kbuild.config.errors import BadStoredConfiguration
from kbuild.config.model import Request
from kbuild.kubernetes.configuration import Era, configuration_of, eras

_MAX_SIZE = 64 << 10  # bytes; kubeadm's own have 2 KiB, and kubectl takes a patch as one argument
_BYTE_ORDER_MARK = "\ufeff"
_KUBELET_API = "kubelet.config.k8s.io/v1beta1"
_ARGUMENTS = ("controllerManager", "extraArgs")
_GATE = "RotateKubeletServerCertificate"
_SERVING_FILES = ("tlsCertFile", "tlsPrivateKeyFile")

Change = tuple[tuple[str, ...], yamltext.Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A stored configuration before and after; ``key`` is its key in the ConfigMap.

    ``left_out`` are the kinds of other documents in the file, which this key does not hold.
    ``dropped`` is what an editor put into the file and was dropped; see ``_as_stored``.
    """

    name: str
    key: str
    before: str
    after: str
    left_out: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def diff(self) -> str:
        """Return the difference in the unified format, empty if nothing changes."""
        return unified(self.before, self.after, f"{self.name}.before.yaml", f"{self.name}.yaml")

    def patch(self, text: str) -> str:
        """Return the merge patch that stores this text; other keys of the ConfigMap stay."""
        return json.dumps({"data": {self.key: text}}) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """The document that a file was given for; the other fields are as in Stored."""

    text: str
    document: dict[str, Any]
    left_out: tuple[str, ...]
    dropped: tuple[str, ...]


def hours(years: int) -> str:
    """Return years of 365 days as a Go duration, which knows no unit above hours.

    292 years, the most that kbuild takes, are 2557920h; Go's limit is 2562047h.
    """
    return f"{years * 365 * 24}h"


def kubeadm_changes(request: Request, era: Era) -> tuple[Change, ...]:
    """Return what must be in the ClusterConfiguration."""
    leaf = hours(request.lifetimes.leaf_years)
    changes: list[Change] = []
    if era.validity:
        changes = [*_lifetimes(leaf, hours(request.lifetimes.ca_years))]
    if era.arguments == "list":
        return (*changes, (_ARGUMENTS, yamltext.Argument(name=era.signing_flag, value=leaf)))
    return (*changes, ((*_ARGUMENTS, era.signing_flag), leaf))


def _lifetimes(leaf: str, ca: str) -> Iterator[Change]:
    """Yield what the ClusterConfiguration says of lifetimes; one that is empty stays as it is."""
    if ca:
        yield ("caCertificateValidityPeriod",), ca
    yield ("certificateValidityPeriod",), leaf


def change_lifetimes(text: str, tag: str, leaf: str, ca: str = "") -> str:
    """Return a ClusterConfiguration with other lifetimes, which are Go durations.

    Everything else in it stays as it is, character by character. Raises BadStoredConfiguration,
    also for a version whose kubeadm does not read them.
    """
    path, era = Path("kube-system/kubeadm-config"), configuration_of(Version(tag))
    try:
        document = yamltext.load(text)
    except (*BROKEN, yaml.YAMLError) as error:
        raise _bad(path, _reason(error)) from error
    _demand_kind(path, document, "ClusterConfiguration", "kubeadm-config")
    _demand_api(path, document, era.kubeadm_api, tag)
    return _changed(path, text, document, tuple(_lifetimes(leaf, ca)))


KUBELET_CHANGES: tuple[Change, ...] = (
    (("rotateCertificates",), True),
    (("serverTLSBootstrap",), True),
)


def change_kubeadm_config(path: Path, request: Request, era: Era) -> Stored:
    """Read a stored ClusterConfiguration and change it; raises BadStoredConfiguration."""
    given = _read(path, "ClusterConfiguration", "kubeadm-config")
    _demand_api(path, given.document, era.kubeadm_api, request.tag)
    _demand_version(path, given.document.get("kubernetesVersion"), request)
    text, loaded = _with_one_name(path, given.text, given.document, era)
    after = _changed(path, text, loaded, kubeadm_changes(request, era))
    return Stored(
        name="kubeadm-config",
        key="ClusterConfiguration",
        before=given.text,
        after=after,
        left_out=given.left_out,
        dropped=given.dropped,
    )


def change_kubelet_config(path: Path, request: Request) -> Stored:
    """Read a stored KubeletConfiguration and change it; raises BadStoredConfiguration."""
    given = _read(path, "KubeletConfiguration", "kubelet-config")
    _demand_api(path, given.document, _KUBELET_API, request.tag)
    _demand_serving(path, given.document)
    return Stored(
        name="kubelet-config",
        key="kubelet",
        before=given.text,
        after=_changed(path, given.text, given.document, KUBELET_CHANGES),
        left_out=given.left_out,
        dropped=given.dropped,
    )


def _read(path: Path, kind: str, name: str) -> _Given:
    """Return the document of a kind."""
    try:
        text, dropped = _as_stored(read_file(path, _MAX_SIZE).decode())
        parts = [(part, yamltext.load(part)) for part in yamltext.documents(text)]
    except OSError as error:
        raise _bad(path, reason_of(error)) from error
    except (*BROKEN, yaml.YAMLError) as error:
        raise _bad(path, _reason(error)) from error
    if len(parts) == 1:
        text, document = parts[0]
        _demand_kind(path, document, kind, name)
        return _Given(text=text, document=document, left_out=(), dropped=dropped)
    kinds = tuple(str(document.get("kind")) for _, document in parts)
    if kinds.count(kind) != 1:
        reason = f"{kinds.count(kind)} of its {len(parts)} documents have the kind {kind}"
        raise _bad(path, reason, f"give a file with the {kind} of the ConfigMap {name} only")
    at = kinds.index(kind)
    text, document = parts[at]
    left_out = kinds[:at] + kinds[at + 1 :]
    return _Given(text=text, document=document, left_out=left_out, dropped=dropped)


def _as_stored(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a text as kubeadm stores it, and what was dropped for that.

    kubeadm writes neither a byte order mark nor CRLF, but editors and shells of Windows do. For
    YAML both ends of a line are the same (YAML 1.2.2 section 5.4).
    """
    dropped = []
    if text.startswith(_BYTE_ORDER_MARK):
        text = text.removeprefix(_BYTE_ORDER_MARK)
        dropped.append("a byte order mark")
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        dropped.append("lines that end in CRLF")
    return text, tuple(dropped)


def _demand_kind(path: Path, document: dict[str, Any], kind: str, name: str) -> None:
    found = document.get("kind")
    if found == "ConfigMap":
        reason = "it is a whole ConfigMap"
        raise _bad(path, reason, f"print only its data: -o jsonpath='{{.data.{_key(kind)}}}'")
    if found != kind:
        hint = f"give the {kind} of the ConfigMap {name}"
        raise _bad(path, f"its kind is {found!r}, not {kind}", hint)


def _key(kind: str) -> str:
    return "kubelet" if kind == "KubeletConfiguration" else kind


def _demand_api(path: Path, document: dict[str, Any], api: str, tag: str) -> None:
    found = document.get("apiVersion")
    if found == api:
        return
    reason = f"its apiVersion is {found!r}, and kubeadm {tag} writes {api}"
    hint = "give the --version of the cluster"
    if str(found) < api:  # kubeadm reads what is older than what it writes
        hint += (
            f", or convert the file with a kubeadm {tag}, and give NEW:"
            " kubeadm config migrate --old-config FILE --new-config NEW"
        )
    raise _bad(path, reason, hint)


def _demand_serving(path: Path, document: dict[str, Any]) -> None:
    """Refuse what serverTLSBootstrap does not go with.

    Without the gate the kubelet does not start, and it serves the files rather than what the
    cluster issues. Source: cmd/kubelet and pkg/kubelet/apis/config/validation of v1.13.7 and
    v1.33.3.
    """
    given = document.get("featureGates")
    gates = given if isinstance(given, dict) else {}
    for gate in (_GATE, "AllBeta"):
        if gates.get(gate) is False and gates.get(_GATE) is not True:
            reason = f"its featureGates set {gate} to false, so serverTLSBootstrap is not possible"
            hint = f"set {_GATE} to true, first in the cluster and then in the file"
            raise _bad(path, f"{reason}: the kubelet would not start", hint)
    if files := [name for name in _SERVING_FILES if document.get(name)]:
        reason = f"it sets {' and '.join(files)}, so serverTLSBootstrap would have no use"
        hint = (
            f"remove {' and '.join(files)}, first in the cluster and then in the file; or leave"
            " this file out, and renew that certificate yourself"
        )
        raise _bad(path, reason, hint)


def _demand_version(path: Path, found: object, request: Request) -> None:
    try:
        stored = Version(str(found))
    except InvalidVersion:
        reason = f"its kubernetesVersion is {found!r}"
        raise _bad(path, reason, "it must be a version such as v1.31.2") from None
    if stored.release[:2] != request.version.release[:2]:
        reason = f"it is of Kubernetes {found}, not {request.tag}"
        raise _bad(path, reason, f"give --version {found}, or the file of another cluster")


def _with_one_name(
    path: Path, text: str, document: dict[str, Any], era: Era
) -> tuple[str, dict[str, Any]]:
    """Rename an option that has the name of another version, which may no longer be accepted."""
    others = {other.signing_flag for other in eras()} - {era.signing_flag}
    given = _arguments(path, document, era)
    named = [name for name in given if name in {*others, era.signing_flag}]
    if len(named) > 1:
        reason = f"its extraArgs hold {' and '.join(named)}"
        raise _bad(path, reason, "both set the same; remove one of them")
    if not named or named == [era.signing_flag]:
        return text, document
    text = yamltext.rename(text, _ARGUMENTS, named[0], era.signing_flag)
    return text, yamltext.load(text)


def _arguments(path: Path, document: dict[str, Any], era: Era) -> list[str]:
    """Return the names of the controller manager's arguments."""
    manager = document.get("controllerManager") or {}
    given = (manager.get("extraArgs") or []) if isinstance(manager, dict) else None
    if given == []:
        return []
    if era.arguments == "map" and isinstance(given, dict):
        return [str(name) for name in given]
    if (
        era.arguments == "list"
        and isinstance(given, list)
        and all(isinstance(e, dict) and {"name", "value"} <= e.keys() for e in given)
    ):
        return [str(entry["name"]) for entry in given]
    reason = f"its controllerManager.extraArgs is no {era.arguments} of arguments"
    raise _bad(path, reason, "kubeadm would not read it either; fix the file")


def _changed(path: Path, text: str, document: dict[str, Any], changes: tuple[Change, ...]) -> str:
    try:
        for place, value in changes:
            text = yamltext.put(text, place, value)
            document = yamltext.with_value(document, place, value)
        is_right = yamltext.load(text) == document
    except (*BROKEN, yaml.YAMLError) as error:
        raise _bad(path, _reason(error)) from error
    if not is_right:
        hint = "write the lines to change in block style, one key a line"
        raise _bad(path, "it is written in a way that kbuild cannot change safely", hint)
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"it is not YAML ({error.problem}, line {error.problem_mark.line + 1})"
    if isinstance(error, yaml.YAMLError):
        return f"it is not YAML ({' '.join(str(error).split())})"
    return reason_of(error)


def _bad(path: Path, reason: str, hint: str = "") -> BadStoredConfiguration:
    hint = hint or "give the file as kubectl printed it; see docs/configuration.md"
    return BadStoredConfiguration(path=path, reason=reason, hint=hint)
