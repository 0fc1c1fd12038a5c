"""Derive a pki.toml from the certificates of a cluster, in the layout of cfssl or of kubeadm."""

import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from kbuild.base.errors import UsageError
from kbuild.pki.cluster import FILE, KEYS, MAX_YEARS, Node
from kbuild.pki.components import Component, authorities_of, certificates_of, pairs_of
from kbuild.pki.components import names as component_names
from kbuild.pki.draft import Draft
from kbuild.pki.durations import go_text
from kbuild.pki.errors import NotExpressible, NotReproduced, UnknownCertificate
from kbuild.pki.found import Found, certificates_in, expressed
from kbuild.pki.hosts import alternative_name
from kbuild.pki.model import Login, Plan, Spec
from kbuild.pki.planning import plan_of
from kbuild.pki.state import held_of
from kbuild.pki.store import content_of
from kbuild.x509.api import KeyKind, read_kubeconfig

_SUFFIX = {"cfssl": ".pem", "kubeadm": ".crt"}
_USER = "system:node:"
_LOOPBACK = ("DNS:localhost", "IP:127.0.0.1", "IP:::1")
_SERVICE = "DNS:kubernetes.default.svc."
_KUBERNETES = ("DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc")
# The defaults of kubeadm, of the recipes with cfssl, and of other installers.
_NETWORKS = ("10.96.0.0/12", "10.254.0.0/16", "10.0.0.0/24", "10.32.0.0/24", "10.233.0.0/18")
_YEAR = timedelta(days=365)


def has_every_name(output: Path, names: Collection[str]) -> bool:
    """Tell whether certificates with cfssl's names are all those of components or CAs."""
    known = {each.name for each in certificates_of("cfssl") if not each.role}
    known |= {each.name for each in authorities_of("cfssl").values()}
    known |= {f"kubelet-{node}" for node in _nodes(output, "cfssl")}
    return set(names) <= known


def has_logins(output: Path) -> bool:
    """Tell whether there is what only a pki.toml plans: a kubeconfig or a key pair."""
    paths = [each.kubeconfig for each in certificates_of("cfssl") if each.kubeconfig]
    paths += [each.key for each in pairs_of("cfssl")]
    nodes = ("", *_nodes(output, "cfssl"))
    return any((output / path.format(node=node)).exists() for path in paths for node in nodes)


def cluster_file(
    folder: Path,
    output: Path,
    layout: str,
    without: Collection[str],
    ca_keys: Mapping[str, str],
    notes: list[str],
) -> str:
    """Return the text of a pki.toml; raises an error of kbuild.pki.errors."""
    path = folder / FILE
    draft = _first(folder, output, layout)
    draft = _reduced(draft, _plan(path, draft), without)
    plan = _plan(path, draft)
    found = {spec.name: each for spec in plan.specs if (each := _found(spec))}
    draft = _with_common_values(draft, plan, found)
    draft = _with_server(draft, path, _servers(plan))
    plan = _plan(path, draft)
    _demand_cas(plan, ca_keys)
    own = {
        spec.name: {**_own(spec, found.get(spec.name)), **_key_uri(spec, ca_keys)}
        for spec in plan.specs
    }
    notes += _passed_over(output, plan)
    return replace(draft, overrides={name: each for name, each in own.items() if each}).text()


def _demand_cas(plan: Plan, ca_keys: Mapping[str, str]) -> None:
    cas = [spec.name for spec in plan.specs if spec.wanted.is_ca]
    for name in ca_keys:
        if name not in cas:
            raise UnknownCertificate(name=name, known=", ".join(cas))


def _key_uri(spec: Spec, ca_keys: Mapping[str, str]) -> dict[str, object]:
    return {"key-uri": ca_keys[spec.name]} if spec.name in ca_keys else {}


def planned(folder: Path, files: Mapping[Path, bytes]) -> Plan:
    """Return the plan that files would be; raises NotReproduced if they cannot be one.

    Such as for a host that cfssl or openssl has taken, and kbuild does not.
    """
    try:
        return plan_of(folder, contents=files)
    except UsageError as error:
        raise NotReproduced(name=str(folder), reason=error.happened) from error


def _plan(path: Path, draft: Draft) -> Plan:
    return planned(path.parent, {path: draft.text().encode()})


def _first(folder: Path, output: Path, layout: str) -> Draft:
    components = tuple(name for name in component_names() if any(_is_there(output, layout, name)))
    others = [each for purpose, each in authorities_of(layout).items() if purpose != "cluster"]
    cas = 3 if any((output / f"{ca.name}{_SUFFIX[layout]}").exists() for ca in others) else 1
    api, etcd = (_names(output, layout, purpose) for purpose in ("api", "etcd"))
    nodes = _nodes_with_roles(_nodes(output, layout), api, etcd)
    nodes = nodes or _only_node(api, etcd)
    of_nodes = {host for node in nodes if "control-plane" in node.roles for host in node.hosts}
    rest = [each for each in api if each not in {*_LOOPBACK, *_KUBERNETES, *of_nodes}]
    domains = [each.removeprefix(_SERVICE) for each in rest if each.startswith(_SERVICE)]
    services = list(_services(rest))
    firsts = {f"IP:{ipaddress.ip_network(each)[1]}" for each in services}
    rest = [each for each in rest if not each.startswith(_SERVICE) and each not in firsts]
    return Draft(
        layout=layout,
        output=str(output.relative_to(folder)) if output != folder else ".",
        cas=cas,
        components=components,
        nodes=nodes,
        domain=next(iter(domains), "cluster.local"),
        services=tuple(services),
        vips=tuple(each.partition(":")[2] for each in rest),
    )


def _is_there(output: Path, layout: str, component: str) -> Iterator[bool]:
    nodes = _nodes(output, layout)
    for each in certificates_of(layout):
        if each.component == component:
            for path in _paths(layout, each, nodes):
                yield (output / path).exists()
    yield from (
        (output / each.key).exists() for each in pairs_of(layout) if each.component == component
    )


def _paths(layout: str, each: Component, nodes: Iterable[str]) -> Iterator[str]:
    for node in nodes if each.role else [""]:
        if each.name:
            yield f"{each.name}{_SUFFIX[layout]}".format(node=node)
        if each.kubeconfig:
            yield each.kubeconfig.format(node=node)


def _nodes(output: Path, layout: str) -> dict[str, tuple[str, ...]]:
    """Return the nodes that have certificates of kubelets, with the names in them."""
    found: dict[str, tuple[str, ...]] = {}
    for each in certificates_of(layout):
        if each.hosts != "node":
            continue
        before, _, after = f"{each.name}{_SUFFIX[layout]}".partition("{node}")
        for path in sorted(output.glob(f"{before}*{after}")):
            node = str(path.relative_to(output)).removeprefix(before).removesuffix(after)
            facts = _facts(path)
            if facts is not None and facts.facts.common_name == f"{_USER}{node}":
                found[node] = facts.wanted.names
    return found


def _facts(path: Path) -> Found | None:
    content = certificates_in(path) if path.exists() else []
    return expressed(path.stem, path, content[0]) if content else None


def _names(output: Path, layout: str, purpose: str) -> tuple[str, ...]:
    """Return the names in the certificates of API servers, or those that all of etcd's have."""
    names: list[tuple[str, ...]] = []
    for each in certificates_of(layout):
        if each.hosts == purpose and (found := _facts(output / f"{each.name}{_SUFFIX[layout]}")):
            names.append(found.wanted.names)
    return tuple(each for each in names[0] if all(each in n for n in names)) if names else ()


def _nodes_with_roles(
    kubelets: dict[str, tuple[str, ...]], api: tuple[str, ...], etcd: tuple[str, ...]
) -> tuple[Node, ...]:
    nodes = []
    for name, names in kubelets.items():
        own = alternative_name(name)
        hosts = (own, *(each for each in names if each != own))
        roles = [r for r, known in (("control-plane", api), ("etcd", etcd)) if {*hosts} <= {*known}]
        nodes.append(Node(name=name, hosts=hosts, roles=tuple(roles or ["worker"])))
    return tuple(nodes)


def _only_node(api: tuple[str, ...], etcd: tuple[str, ...]) -> tuple[Node, ...]:
    """Return the node that API server and etcd name, if it is one.

    With more of them it is not known which address is that of which name.
    """
    both = [each for each in api if each in etcd and each not in _LOOPBACK]
    names = [each for each in both if each.startswith("DNS:")]
    if len(names) != 1 or len(both) == 1:
        return ()
    name = names[0].removeprefix("DNS:")
    hosts = (names[0], *(each for each in both if each != names[0]))
    return (Node(name=name, hosts=hosts, roles=("control-plane", "etcd")),)


def _services(names: list[str]) -> Iterator[str]:
    """Yield service networks whose first addresses are in the certificate of API servers.

    The size of a network is not in it, and kbuild uses the first address only.
    """
    addresses = [
        ipaddress.ip_address(each.removeprefix("IP:")) for each in names if each.startswith("IP:")
    ]
    usual = [each for each in _NETWORKS if ipaddress.ip_network(each)[1] in addresses]
    yield from usual[:1]
    for version, bits, mask in ((4, 24, 0xFF), (6, 112, 0xFFFF)):
        first = [
            each
            for each in addresses
            if each.version == version and int(each) & mask == 1 and each.is_private
        ]
        if len(first) == 1 and not (version == 4 and usual):  # noqa: PLR2004  # of IP
            yield str(ipaddress.ip_network(f"{first[0]}/{bits}", strict=False))


def _reduced(draft: Draft, plan: Plan, without: Collection[str]) -> Draft:
    """Return the draft without the components of these certificates."""
    components = {each.name: each.source.partition(" of ")[0] for each in plan.specs if each.issuer}
    for name in without:
        if name not in components:
            raise UnknownCertificate(name=name, known=", ".join(components))
    gone = {components[name] for name in without}
    return replace(draft, components=tuple(e for e in draft.components if e not in gone))


def _found(spec: Spec) -> Found | None:
    facts = held_of(spec).facts
    if facts is None:
        return None
    found = expressed(spec.name, spec.place, facts)
    wanted = found.wanted
    if not spec.wanted.is_ca and (
        wanted.is_ca or wanted.crl_url or wanted.ocsp_url or wanted.issuer_urls
    ):
        reason = f"it is a CA, or names a CRL or OCSP, which {FILE} cannot say"
        raise NotExpressible(path=spec.place, name=spec.name, reason=reason)
    return found


def _with_common_values(draft: Draft, plan: Plan, found: dict[str, Found]) -> Draft:
    """Return the draft with the lifetimes and the kind of key that most certificates have."""
    cas = [found[spec.name] for spec in plan.specs if spec.wanted.is_ca and spec.name in found]
    leaves = [each for each in found.values() if each not in cas]
    kinds = {kind: name for name, kind in KEYS.items()}
    used = Counter(kinds[each.key_kind] for each in found.values() if each.key_kind in kinds)
    if draft.layout == "kubeadm":
        del used["ed25519"]
    return replace(
        draft,
        key=used.most_common(1)[0][0] if used else draft.key,
        ca_years=_years(cas, draft.ca_years),
        leaf_years=_years(leaves, draft.leaf_years),
    )


def _years(found: list[Found], default: int) -> int:
    """Return the most common lifetime in years, rounded if none is one of whole years."""
    if not found:
        return default
    whole = [each.lifetime // _YEAR for each in found if each.lifetime % _YEAR == timedelta()]
    years = whole or [round(each.lifetime / _YEAR) for each in found]
    return min(max(Counter(years).most_common(1)[0][0], 1), MAX_YEARS)


def _servers(plan: Plan) -> dict[str, str]:
    """Return the URL of the API server in each kubeconfig of a plan."""
    logins = {spec.name: spec.login for spec in plan.specs if spec.login is not None}
    return {name: server for name, login in logins.items() if (server := _server(login))}


def _server(login: Login) -> str:
    content = content_of(login.path)
    clusters = read_kubeconfig(content).clusters if content else ()
    return clusters[0].server if clusters else ""


def _with_server(draft: Draft, path: Path, servers: dict[str, str]) -> Draft:
    """Return the draft with the API server of most kubeconfigs; the first of vips is that.

    One that is no node wins: controller manager and scheduler may use that of their own node.
    """
    addresses = {host.partition(":")[2] for node in draft.nodes for host in node.hosts}
    urls = Counter(server for server in servers.values() if _host(server)[0])
    if not urls:
        return draft
    common = max(urls, key=lambda url: (_host(url)[0] not in addresses, urls[url]))
    host, port = _host(common)
    draft = replace(draft, port=port)
    first = next((each.login for each in _plan(path, draft).specs if each.login), None)
    if first is None or first.server == common:
        return draft
    return replace(draft, vips=tuple(dict.fromkeys((host, *draft.vips))))


def _host(server: str) -> tuple[str, int]:
    """Return host and port of a URL, empty if it has none."""
    try:
        parts = urlsplit(server)
        return parts.hostname or "", parts.port or 443
    except ValueError:
        return "", 0


def _own(spec: Spec, found: Found | None) -> dict[str, object]:
    """Return what a certificate has other than is derived, with the keys of pki.toml."""
    if found is None:
        return {}
    own: dict[str, object] = {}
    planned, wanted = spec.wanted, found.wanted
    if wanted.subject != planned.subject:
        own["subject"] = {field: list(values) for field, values in wanted.subject}
    if found.lifetime != spec.term.lifetime:
        own["lifetime"] = go_text(found.lifetime)
    if found.key_kind != spec.key_kind:
        own["key"] = _key(found)
    if not planned.is_ca:
        own["extra-hosts"] = _beyond(wanted.names, planned.names)
        own["without-hosts"] = _beyond(planned.names, wanted.names)
        own["usages"] = list(wanted.usages) if {*wanted.usages} != {*planned.usages} else []
    if spec.login is not None and (server := _server(spec.login)) != spec.login.server:
        own["server"] = server
    return {name: value for name, value in own.items() if value}


def _key(found: Found) -> str:
    kinds: dict[KeyKind, str] = {kind: name for name, kind in KEYS.items()}
    if found.key_kind not in kinds:
        reason = f"its key is {found.key_kind.shown}, which {FILE} cannot say"
        raise NotExpressible(path=found.path, name=found.name, reason=reason)
    return kinds[found.key_kind]


def _beyond(names: Iterable[str], others: Collection[str]) -> list[str]:
    return [each.partition(":")[2] for each in names if each not in others]


def _passed_over(output: Path, plan: Plan) -> Iterator[str]:
    known = {spec.place for spec in plan.specs} | {e.login.path for e in plan.specs if e.login}
    shapes = ("*.conf", "*.kubeconfig", "*.pem", "pki/**/*.crt", "nodes/*/*")
    for path in sorted({path for shape in shapes for path in output.glob(shape)}):
        is_key = re.search(r"(-key\.pem|\.key)$", path.name)
        if path not in known and not is_key and path.is_file():
            yield f"{path.relative_to(output)} is passed over: it has no place in a {FILE}."
