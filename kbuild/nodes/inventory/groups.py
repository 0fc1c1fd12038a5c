"""Inventories of Ansible in YAML, and JSON as `ansible-inventory --list` prints it."""

from kbuild.nodes.inventory.documents import Node
from kbuild.nodes.inventory.ranges import expand
from kbuild.nodes.inventory.tree import Tree, Value, bad

_KEYS = ("hosts", "children", "vars")
_META = "_meta"


def read_groups(document: Node, tree: Tree) -> None:
    """Add what a document says to a tree; raises BadInventory.

    The formats are those of ansible/plugins/inventory/yaml.py and script.py (v2.16).
    """
    if not isinstance(document.content, dict):
        raise bad(document.place, "it is not a mapping of groups, such as `all:`")
    if "plugin" in document.content:
        raise bad(document.place, "it configures a plugin of Ansible, and kbuild runs none")
    is_listed = _META in document.content
    for name, group in document.content.items():
        if name != _META:
            _group(name, group, tree, is_listed=is_listed)
    if is_listed:
        _hostvars(document.content[_META], tree)


def _group(name: str, node: Node, tree: Tree, *, is_listed: bool) -> None:
    group = tree.group(name, node.place)
    if is_listed and isinstance(node.content, list):  # the short form of script.py
        node = Node({"hosts": node}, node.place)
    if not isinstance(node.content, dict | None):
        raise bad(node.place, f"the group {name} is not a mapping with hosts, children or vars")
    sections = node.mapping(f"the group {name}")
    for key, section in sections.items():
        if key not in _KEYS:
            known = ", ".join(_KEYS)
            raise bad(section.place, f"{ascii(key)[:80]} is not a key of a group: {known} are")
    empty = Node(None, node.place)
    _hosts(name, sections.get("hosts", empty), tree, is_listed=is_listed)
    group.variables |= sections.get("vars", empty).variables(f"vars of {name}")
    _children(name, sections.get("children", empty), tree, is_listed=is_listed)


def _hosts(group: str, node: Node, tree: Tree, *, is_listed: bool) -> None:
    if is_listed and isinstance(node.content, list):
        for each in node.content:
            tree.host(_text(each), group, each.place)
        return
    for pattern, host in node.mapping(f"hosts of {group}").items():
        try:
            names, port = expand(pattern)
        except ValueError as error:
            raise bad(host.place, str(error)) from error
        variables = host.variables(f"what belongs to {ascii(pattern)[1:80]}")
        if port:
            variables = {"ansible_port": Value(port, host.place)} | variables
        for name in names:
            entry = tree.host(name, group, host.place)
            entry.variables |= variables


def _children(parent: str, node: Node, tree: Tree, *, is_listed: bool) -> None:
    if is_listed and isinstance(node.content, list):
        for each in node.content:
            tree.child(parent, _text(each), each.place)
        return
    for name, group in node.mapping(f"children of {parent}").items():
        tree.child(parent, name, group.place)
        _group(name, group, tree, is_listed=is_listed)


def _hostvars(meta: Node, tree: Tree) -> None:
    hostvars = meta.mapping(_META).get("hostvars", Node(None, meta.place))
    for name, variables in hostvars.mapping("hostvars").items():
        entry = tree.hosts.get(name) or tree.host(name, "ungrouped", variables.place)
        entry.variables |= variables.variables(f"hostvars of {ascii(name)[1:80]}")


def _text(node: Node) -> str:
    if not isinstance(node.content, str):
        raise bad(node.place, "the name of a host or group is not text")
    return node.content
