"""pki.toml: a cluster, from which all names in its certificates are derived."""

import ipaddress
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from kbuild.base.files import read_file, reason_of
from kbuild.base.values import did_you_mean
from kbuild.pki.cfssl import host_names
from kbuild.pki.components import names as component_names
from kbuild.pki.errors import BadPkiFile, DuplicateName, UnknownPkiKey
from kbuild.pki.fields import Fields, fields_of
from kbuild.pki.hosts import repeated
from kbuild.pki.overrides import Override, read_overrides
from kbuild.x509.api import KeyKind

FILE = "pki.toml"
LAYOUTS = ("cfssl", "kubeadm")
ROLES = ("control-plane", "etcd", "worker")
MAX_YEARS = 292
KEYS = {
    **{f"rsa-{size}": KeyKind(algorithm="rsa", size=size) for size in (2048, 3072, 4096)},
    **{f"ecdsa-p{size}": KeyKind(algorithm="ecdsa", size=size) for size in (256, 384, 521)},
    "ed25519": KeyKind(algorithm="ed25519", size=0),
}
_MAX_FILE = 16 << 20  # bytes; 10,000 nodes have one
_KEYS = (
    *("layout", "output", "cas", "ca-years", "leaf-years", "key", "ca-keys"),
    *("cluster-domain", "service-network", "vips", "port", "components", "nodes"),
    *("certificates", "encrypt-ca-keys"),
)
_NODE = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node; ``hosts`` are its name and addresses in the words of CertificateFacts.names."""

    name: str
    hosts: tuple[str, ...]
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A pki.toml. ``services`` are the first addresses of the service networks."""

    path: Path
    layout: str
    output: Path
    ca_keys: Path | None
    cas: int
    ca_lifetime: timedelta
    leaf_lifetime: timedelta
    key: str
    domain: str
    services: tuple[str, ...]
    vips: tuple[str, ...]
    port: int
    components: tuple[str, ...]
    nodes: tuple[Node, ...]
    overrides: dict[str, Override]
    encrypts_ca_keys: bool

    def hosts_of(self, purpose: str, node: Node | None) -> tuple[str, ...]:
        """Return the names for a purpose: api, etcd, node, or none."""
        loopback = ("DNS:localhost", "IP:127.0.0.1", "IP:::1")
        match purpose:
            case "api":
                found = [*self._service_names(), *self._of("control-plane"), *self.vips, *loopback]
                found += (f"IP:{each}" for each in self.services)
            case "etcd":
                found = [*self._of("etcd"), *loopback]
            case "node":
                assert node is not None
                found = list(node.hosts)
            case _:
                found = []
        return tuple(dict.fromkeys(found))

    @property
    def server(self) -> str:
        """Return the URL of the API server: that of the first VIP, else of a control plane."""
        first = next(iter(self.vips), "") or next(
            (
                each
                for node in self.nodes
                if "control-plane" in node.roles
                for each in node.hosts[1:]
            ),
            "IP:127.0.0.1",
        )
        host = first.partition(":")[2]
        return f"https://{f'[{host}]' if ':' in host else host}:{self.port}"

    def _service_names(self) -> Iterator[str]:
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
        yield from (f"DNS:{name}" for name in names)
        yield f"DNS:kubernetes.default.svc.{self.domain}"

    def _of(self, role: str) -> Iterator[str]:
        yield from (host for node in self.nodes if role in node.roles for host in node.hosts)


def cluster_content(path: Path) -> bytes:
    """Return the content of a pki.toml; raises BadPkiFile."""
    try:
        return read_file(path, _MAX_FILE)
    except OSError as error:
        raise _unreadable(path, error) from error


def cluster_text(path: Path, content: bytes | None = None) -> str:
    """Return the text of a pki.toml, or of the content that it shall have; raises BadPkiFile."""
    try:
        return (cluster_content(path) if content is None else content).decode("utf-8-sig")
    except ValueError as error:
        raise _unreadable(path, error) from error


def read_cluster(path: Path, content: bytes | None = None) -> Cluster:
    """Read a pki.toml, or the content that it shall have; raises an error of kbuild.pki.errors."""
    return _cluster_of(path, cluster_text(path, content))


def _unreadable(path: Path, error: Exception) -> BadPkiFile:
    hint = "name its directory with --dir"
    return BadPkiFile(path=path, reason=reason_of(error), hint=hint)


def _cluster_of(path: Path, text: str) -> Cluster:
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "correct it; `kbuild pki init` writes an example into an empty directory"
        raise BadPkiFile(path=path, reason=reason_of(error), hint=hint) from error
    found = fields_of(path, "", table, _KEYS)
    layout = _one_of(found, "layout", LAYOUTS, "cfssl")
    cas = found.number("cas", 3)
    if cas not in (1, 3):
        raise found.bad(
            reason="cas must be 1 or 3", hint="3: one for the cluster, etcd and the front proxy"
        )
    keys = found.text("ca-keys")
    key = _one_of(found, "key", tuple(KEYS), "rsa-2048")
    if key == "ed25519" and layout == "kubeadm":
        raise found.bad(
            reason="kubeadm reads RSA and ECDSA keys only", hint="choose ecdsa-p256 as key"
        )
    ca_years, leaf_years = _years(found, "ca-years", 100), _years(found, "leaf-years", 100)
    nodes = tuple(_nodes(found))
    return Cluster(
        path=path,
        layout=layout,
        output=path.parent / (found.text("output") or "pki"),
        ca_keys=path.parent / keys if keys else None,
        cas=cas,
        ca_lifetime=timedelta(days=365 * ca_years),
        leaf_lifetime=timedelta(days=365 * leaf_years),
        key=key,
        domain=_domain(found),
        services=tuple(_first_addresses(found)),
        vips=host_names(path, "vips", list(found.texts("vips"))),
        port=_port(found),
        components=_components(found),
        nodes=nodes,
        overrides=read_overrides(found, KEYS),
        encrypts_ca_keys=found.switch("encrypt-ca-keys"),
    )


def _one_of(found: Fields, name: str, known: tuple[str, ...], default: str) -> str:
    value = found.text(name, default)
    if value not in known:
        hint = did_you_mean(value, known) or f"choose among {', '.join(known)}"
        raise found.bad(reason=f"{name} cannot be {value!r}", hint=hint)
    return value


def _years(found: Fields, name: str, default: int) -> int:
    years = found.number(name, default)
    if not 1 <= years <= MAX_YEARS:
        raise found.bad(reason=f"{name} must be from 1 to {MAX_YEARS}", hint="a year has 365 days")
    return years


def _domain(found: Fields) -> str:
    domain = found.text("cluster-domain", "cluster.local")
    [name] = host_names(found.path, "cluster-domain", [domain])
    if name != f"DNS:{domain}" or domain.startswith("*."):
        reason = f"cluster-domain cannot be {domain!r}"
        raise found.bad(reason=reason, hint="write a DNS name without wildcard: cluster.local")
    return domain


def _port(found: Fields) -> int:
    port = found.number("port", 6443)
    if not 1 <= port <= 65535:  # noqa: PLR2004  # ports
        raise found.bad(reason="port must be from 1 to 65535")
    return port


def _first_addresses(found: Fields) -> Iterator[str]:
    """Yield the first address of each service network, which the API server has there."""
    written = found.values.get("service-network", "10.96.0.0/12")
    networks = [written] if isinstance(written, str) else found.texts("service-network")
    for each in networks:
        try:
            network = ipaddress.ip_network(each)
        except ValueError as error:
            reason = f"service-network cannot be {each!r}: {error}"
            raise found.bad(
                reason=reason, hint="write it as for --service-cluster-ip-range"
            ) from error
        yield str(network[1] if network.num_addresses > 1 else network[0])


def _components(found: Fields) -> tuple[str, ...]:
    known = component_names()
    chosen = found.texts("components", known)
    for each in chosen:
        if each not in known:
            close = did_you_mean(each, known) or f"the components are {', '.join(known)}"
            raise UnknownPkiKey(path=found.path, where="component", name=each, suggestion=close)
    return tuple(dict.fromkeys(chosen))


def _nodes(found: Fields) -> Iterator[Node]:
    owners: dict[str, str] = {}
    for name, values in (found.table("nodes") or {}).items():
        node = _node(found.path, name, values)
        for host in node.hosts:
            if (other := owners.setdefault(host, name)) != name:
                what, where = host.partition(":")[2], f"in the nodes {other} and {name}"
                raise DuplicateName(path=found.path, name=what, where=where)
        yield node


def _node(path: Path, name: str, values: Any) -> Node:  # noqa: ANN401  # any TOML
    where = f"nodes.{name}"
    found = fields_of(path, where, values, ("addresses", "roles"))
    if not _NODE.fullmatch(name) or ".." in name:
        raise found.bad(
            reason=f"a node cannot be called {name!r}", hint="as Kubernetes, use a-z, 0-9, - and ."
        )
    roles = found.texts("roles", ("worker",))
    for each in roles:
        if each not in ROLES:
            hint = did_you_mean(each, ROLES) or f"the roles are {', '.join(ROLES)}"
            raise UnknownPkiKey(path=path, where=f"role in {where}", name=each, suggestion=hint)
    if twice := repeated(roles):
        raise DuplicateName(path=path, name=twice, where=f"{where}.roles")
    hosts = host_names(path, f"{where}.addresses", list(found.texts("addresses")))
    if not hosts:
        raise found.bad(reason=f"{where} has no addresses", hint='write addresses = ["192.0.2.1"]')
    own = host_names(path, where, [name])
    return Node(name=name, hosts=tuple(dict.fromkeys((*own, *hosts))), roles=roles)
