"""The hosts and groups of an inventory, with the variables of each."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kbuild.nodes.errors import BadInventory

MAX_HOSTS, MAX_GROUPS = 10_000, 1_000
_LONGEST_NAME = 200  # bytes: names of files in host_vars have 255
_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)
PRINT_IT = (
    "correct it, or print it with `ansible-inventory --list > hosts.json`, which kbuild reads too"
)


@dataclass(frozen=True, slots=True, repr=False)
class Value:
    """The value of a variable, which may be secret, and its place for messages.

    ``text`` is None for null. ``problem`` tells why it cannot be used.
    """

    text: str | None
    place: str
    problem: str = ""


Variables = dict[str, Value]


@dataclass(slots=True)
class Group:
    """A group: its own hosts, child groups and variables, and those of group_vars."""

    hosts: dict[str, None] = field(default_factory=dict)
    children: dict[str, None] = field(default_factory=dict)
    variables: Variables = field(default_factory=dict)
    of_files: Variables = field(default_factory=dict)


@dataclass(slots=True)
class HostEntry:
    """A host: the variables of the inventory, and those of host_vars."""

    groups: dict[str, None] = field(default_factory=dict)
    variables: Variables = field(default_factory=dict)
    of_files: Variables = field(default_factory=dict)


def bad(place: str, reason: str, hint: str = PRINT_IT) -> BadInventory:
    """Return the error about a place in an inventory: a path, or a path and a line."""
    return BadInventory(path=place, reason=reason, hint=hint)


class Tree:
    """An inventory while it is read, in the order of its files."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostEntry] = {}
        self.groups: dict[str, Group] = {"all": Group(), "ungrouped": Group()}

    def group(self, name: str, place: str) -> Group:
        """Return a group, which is new if there is none of this name; raises BadInventory."""
        if name not in self.groups:
            _demand_name(name, place)
            if len(self.groups) >= MAX_GROUPS:
                raise bad(place, f"it has more than {MAX_GROUPS} groups")
            self.groups[name] = Group()
        return self.groups[name]

    def host(self, name: str, group: str, place: str) -> HostEntry:
        """Return a host of a group, which is new if there is none; raises BadInventory."""
        if name not in self.hosts:
            _demand_name(name, place)
            if len(self.hosts) >= MAX_HOSTS:
                raise bad(place, f"it has more than {MAX_HOSTS} hosts")
            self.hosts[name] = HostEntry()
        self.group(group, place).hosts[name] = None
        self.hosts[name].groups[group] = None
        return self.hosts[name]

    def child(self, parent: str, name: str, place: str) -> None:
        """Put a group into another one; both are made if they are new; raises BadInventory."""
        if name == "all":
            raise bad(place, "the group all cannot be a child: it has all hosts")
        self.group(name, place)
        self.group(parent, place).children[name] = None

    def members(self) -> dict[str, set[str]]:
        """Return the names of all hosts of each group, with those of its children."""
        found = {name: set(group.hosts) for name, group in self.groups.items()}
        for name in reversed(self.order()):
            for child in self.groups[name].children:
                found[name] |= found[child]
        found["all"] = set(self.hosts)
        grouped = (found[n] for n in self.groups if n not in ("all", "ungrouped"))
        found["ungrouped"] = found["all"] - set().union(*grouped)
        return found

    def order(self) -> list[str]:
        """Return all groups, parents before children; raises BadInventory if there is a loop."""
        waiting = dict.fromkeys(self.groups, 0)
        for group in self.groups.values():
            for child in group.children:
                waiting[child] += 1
        ready = [name for name, parents in waiting.items() if not parents]
        for name in ready:  # which grows
            for child in self.groups[name].children:
                waiting[child] -= 1
                if not waiting[child]:
                    ready.append(child)
        if len(ready) < len(self.groups):
            name = min(name for name, parents in waiting.items() if parents)
            raise bad(name, "the group is, through its children, a child of itself")
        return ready


class Resolver:
    """Tells the variables of each host, as Ansible's precedence has them.

    That of one host, lowest first: groups of the inventory, group_vars/all, group_vars of other
    groups, variables of the host, host_vars. Parents come before children; among groups of the same
    depth the order is that of ansible_group_priority, then of the names
    (https://docs.ansible.com/ansible/latest/inventory_guide/intro_inventory.html).
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        order = tree.order()
        depth = {name: int(name != "all") for name in order}
        self._parents: dict[str, list[str]] = {name: [] for name in order}
        for name in order:
            for child in tree.groups[name].children:
                depth[child] = max(depth[child], depth[name] + 1)
                self._parents[child].append(name)
        self._rank = {name: (depth[name], _priority(tree.groups[name]), name) for name in order}
        self._known: dict[tuple[str, ...], Variables] = {}

    def variables(self, host: str) -> Variables:
        """Return the variables of a host."""
        entry = self._tree.hosts[host]
        direct = tuple(entry.groups)
        if direct not in self._known:
            self._known[direct] = self._of_groups(direct)
        return self._known[direct] | entry.variables | entry.of_files

    def _of_groups(self, direct: tuple[str, ...]) -> Variables:
        names = sorted({"all", *self._above(direct)}, key=self._rank.__getitem__)
        found: Variables = {}
        for name in names:
            found |= self._tree.groups[name].variables
        for name in names:
            found |= self._tree.groups[name].of_files
        return found

    def _above(self, direct: tuple[str, ...]) -> Iterator[str]:
        seen, open_ = set(direct), list(direct)
        while open_:
            name = open_.pop()
            yield name
            open_ += [each for each in self._parents[name] if each not in seen]
            seen.update(self._parents[name])


def wanted(variables: Mapping[str, Value]) -> Variables:
    """Return the variables that may tell how a host is reached."""
    return {name: value for name, value in variables.items() if name.startswith("ansible_")}


def _priority(group: Group) -> int:
    value = group.variables.get("ansible_group_priority")
    if value is None or value.text is None:
        return 1
    if not _NUMBER.fullmatch(value.text):
        raise bad(value.place, "ansible_group_priority is not a number")
    return int(value.text)


def _demand_name(name: str, place: str) -> None:
    is_plain = name.isprintable() and not any(c in " /\\" for c in name)
    if not name or not is_plain or name[0] in "-." or len(name.encode()) > _LONGEST_NAME:
        message = "a host or group has a name that is empty, too long, or has characters such as"
        raise bad(place, f"{message} spaces, slashes or control characters: {ascii(name)[:80]}")
