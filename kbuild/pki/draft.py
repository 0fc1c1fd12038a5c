"""A pki.toml that is being derived, and its text."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kbuild.pki.cluster import Node
from kbuild.pki.overrides import TABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The values of a pki.toml, and for single certificates those that are not as derived."""

    layout: str
    output: str
    cas: int
    components: tuple[str, ...]
    nodes: tuple[Node, ...]
    domain: str
    services: tuple[str, ...]
    vips: tuple[str, ...]
    port: int = 6443
    key: str = "rsa-2048"
    ca_years: int = 100
    leaf_years: int = 100
    overrides: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def text(self) -> str:
        """Return the file."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "# Derived from certificates by `kbuild pki import`. docs/pki.md explains the keys."
        for name in ("layout", "output", "cas"):
            yield _line(name, getattr(self, name))
        yield _line("ca-years", self.ca_years)
        yield _line("leaf-years", self.leaf_years)
        yield _line("key", self.key)
        yield _line("cluster-domain", self.domain)
        if self.services:
            yield "# Certificates hold its first address only, so its size is a guess."
            yield _line("service-network", list(self.services))
        yield "# What the API server is called besides, and kbuild knows no node for."
        yield _line("vips", list(self.vips))
        yield _line("port", self.port)
        yield _line("components", list(self.components))
        for node in self.nodes:
            yield ""
            yield f"[nodes.{json.dumps(node.name)}]"
            yield _line("addresses", [each.partition(":")[2] for each in node.hosts[1:]])
            yield _line("roles", list(node.roles))
        for name, own in self.overrides.items():
            yield ""
            yield f"[{TABLE}.{json.dumps(name)}]"
            yield from (_line(key, value) for key, value in own.items())


def _line(key: str, value: object) -> str:
    return f"{key} = {_value(value)}"


def _value(value: object) -> str:
    """Return a value as TOML, whose texts, numbers and lists are those of JSON."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
