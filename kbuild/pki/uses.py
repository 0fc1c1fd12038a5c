"""Tell which certificate of a plan serves for what."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kbuild.base.values import did_you_mean
from kbuild.certs.api import role_of
from kbuild.pki.errors import (
    BadCertificateFile,
    CertificateNotCertain,
    UnknownCertificate,
    UnknownUse,
    WrongCertificate,
)
from kbuild.pki.model import Pair, Plan, Spec
from kbuild.pki.store import content_of
from kbuild.x509.api import read_content

_SERVER, _CLIENT = "server auth", "client auth"
_KUBELET, _BOTH = "system:node:", "kubelet, server and client"
_PART = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
# What no node can be called is no directory of one either.
_KUBELET_NAME = re.compile(rf"{_KUBELET}{_PART}(?:\.{_PART})*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a certificate can serve for.

    ``roles`` are those of `kbuild certs` that are certain. ``needs`` are the extended key usages
    without which it does not work.
    """

    component: str
    roles: tuple[str, ...]
    needs: tuple[str, ...]


USES = {
    "etcd-server": Use(
        component="etcd", roles=("etcd, server", "etcd, server and peer"), needs=(_SERVER,)
    ),
    "etcd-peer": Use(
        component="etcd", roles=("etcd, peer", "etcd, server and peer"), needs=(_SERVER, _CLIENT)
    ),
    "flannel": Use(component="flanneld", roles=("flannel, etcd client",), needs=(_CLIENT,)),
    "apiserver": Use(component="kube-apiserver", roles=("API server, server",), needs=(_SERVER,)),
    "apiserver-etcd-client": Use(
        component="kube-apiserver", roles=("API server to etcd, client",), needs=(_CLIENT,)
    ),
    "apiserver-kubelet-client": Use(
        component="kube-apiserver", roles=("API server to kubelet, client",), needs=(_CLIENT,)
    ),
    "front-proxy-client": Use(
        component="kube-apiserver", roles=("front proxy, client",), needs=(_CLIENT,)
    ),
    "service-account": Use(component="kube-apiserver", roles=("service account signer",), needs=()),
    "controller-manager": Use(
        component="kube-controller-manager", roles=("controller manager, client",), needs=(_CLIENT,)
    ),
    "scheduler": Use(component="kube-scheduler", roles=("scheduler, client",), needs=(_CLIENT,)),
    "kube-proxy": Use(component="kube-proxy", roles=("kube-proxy, client",), needs=(_CLIENT,)),
    "kubelet": Use(component="kubelet", roles=("kubelet, client", _BOTH), needs=(_CLIENT,)),
    "kubelet-server": Use(component="kubelet", roles=("kubelet, server", _BOTH), needs=(_SERVER,)),
}
OF_NODES = ("kubelet", "kubelet-server")

# The uses of a certificate, and for the kubelets the node; else an empty text.
Serving = dict[tuple[str, str], Spec | Pair]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """A planned certificate as `kbuild certs` describes one."""

    common_name: str
    organizations: tuple[str, ...]
    usages: tuple[str, ...]
    is_ca: bool


def serving(plan: Plan, given: Mapping[str, str]) -> Serving:
    """Return which certificate serves for what: as it was given, else as its role says.

    A use that no certificate has is left out. Raises CertificateNotCertain if several could serve,
    UnknownUse, UnknownCertificate or WrongCertificate.
    """
    found: Serving = {(pair.name, ""): pair for pair in plan.pairs}  # that of service accounts
    found |= {(use, ""): _given(plan, use, name) for use, name in given.items()}
    for name, use in USES.items():
        if (name, "") in found:
            continue
        fitting = [each for each in plan.specs if _fits(plan, each, use)]
        for node in sorted({node_of(each) if name in OF_NODES else "" for each in fitting}):
            of_node = [e for e in fitting if name not in OF_NODES or node_of(e) == node]
            if len(of_node) > 1:
                names = " and ".join(each.name for each in of_node)
                raise CertificateNotCertain(use=name, names=names, first=of_node[0].name)
            found[name, node] = of_node[0]
    return found


def common_name(spec: Spec) -> str:
    """Return the CN of a planned certificate, empty if it has none."""
    return next((values[0] for field, values in spec.wanted.subject if field == "CN"), "")


def organizations(spec: Spec) -> tuple[str, ...]:
    """Return each O of a planned certificate."""
    return tuple(v for field, values in spec.wanted.subject if field == "O" for v in values)


def signing_problem(plan: Plan, ca: Spec) -> str:
    """Return why kube-controller-manager cannot sign with a CA, empty if it can."""
    assert ca.key is not None
    if ca.key_uri is not None:
        return f"the key of {ca.name} is on a token"
    if not ca.key.is_relative_to(plan.output):
        return f"the key of {ca.name} is kept in another directory ({ca.key.parent})"
    try:
        keys = read_content(content_of(ca.key)).keys
    except BadCertificateFile as error:
        return f"the key of {ca.name} cannot be read: {error.reason}"
    if keys[0].encrypted if keys else plan.encrypts_ca_keys:
        return f"the key of {ca.name} is encrypted, and kube-controller-manager reads no such key"
    return ""


def node_of(spec: Spec) -> str:
    """Return the node whose kubelet has a planned certificate, empty if it is of none."""
    name = common_name(spec)
    return name.removeprefix(_KUBELET) if _KUBELET_NAME.fullmatch(name) else ""


def _given(plan: Plan, use: str, name: str) -> Spec:
    known = {each.name: each for each in plan.specs if not each.wanted.is_ca}
    if use not in USES or use in OF_NODES:
        uses = [each for each in USES if each not in OF_NODES]
        hint = did_you_mean(use, uses) or f"choose among {', '.join(uses)}"
        raise UnknownUse(use=use, suggestion=hint)
    if name not in known:
        raise UnknownCertificate(name=name, known=", ".join(known))
    missing = [each for each in USES[use].needs if each not in known[name].wanted.usages]
    if missing:
        raise WrongCertificate(name=name, use=use, usage=missing[0])
    return known[name]


def _fits(plan: Plan, spec: Spec, use: Use) -> bool:
    planned = _Planned(
        common_name=common_name(spec),
        organizations=organizations(spec),
        usages=spec.wanted.usages,
        is_ca=spec.wanted.is_ca,
    )
    # The name of the directory is no sign: everything may be in one called etcd.
    if use.component == "kubelet" and not _KUBELET_NAME.fullmatch(planned.common_name):
        return False  # nobody knows of which node it is
    path, place = spec.place.relative_to(plan.output), "" if spec.certificate else "users[0]"
    return role_of(str(path), place, planned) in use.roles and set(use.needs) <= set(planned.usages)
