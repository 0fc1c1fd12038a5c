"""Inventories of Ansible in the INI format, as ansible/plugins/inventory/ini.py (v2.16) reads it.

Its rules: a host line is split as a shell does, with comments; a line of ``[group:vars]`` is not,
so a ``#`` in it belongs to the value, and so do quotes, unless they enclose all of it.
"""

import re
import shlex

from kbuild.nodes.inventory.ranges import expand
from kbuild.nodes.inventory.tree import Tree, Value, Variables, bad, wanted

_SECTION = re.compile(r"\[([^:\]\s]+)(?::(\w+))?\]\s*(?:#.*)?")
_GROUP = re.compile(r"([^:\]\s]+)\s*(?:#.*)?")
_QUOTED = re.compile(r"""'[^'\\]*'|"[^"\\]*\"""")


class IniReader:
    """Reads the lines of one file into a tree."""

    def __init__(self, tree: Tree, path: str) -> None:
        self._tree, self._path, self._line = tree, path, 0
        self._group, self._kind = "ungrouped", "hosts"
        self._declared = {"all", "ungrouped", *tree.groups}
        self._used: dict[str, str] = {}

    def read(self, text: str) -> None:
        """Add what the text says; raises BadInventory."""
        for number, each in enumerate(text.splitlines(), 1):
            self._line, line = number, each.strip()
            if line and line[0] not in "#;":
                self._read_line(line)
        for name, place in self._used.items():
            if name not in self._declared:
                raise bad(place, f"the group {name} is not defined: it needs a section [{name}]")

    @property
    def _place(self) -> str:
        return f"{self._path}:{self._line}"

    def _read_line(self, line: str) -> None:
        section = _SECTION.fullmatch(line)
        if section:
            self._begin(section[1], section[2] or "hosts")
        elif line.startswith("[") and line.endswith("]"):
            raise bad(self._place, "this is not a section such as [group] or [group:vars]")
        elif self._kind == "hosts":
            self._hosts(line)
        elif self._kind == "vars":
            self._variable(line)
        else:
            self._child(line)

    def _begin(self, name: str, kind: str) -> None:
        if kind not in ("hosts", "children", "vars"):
            raise bad(self._place, f"a section cannot be of the kind {kind}")
        self._group, self._kind = name, kind
        self._tree.group(name, self._place)
        if kind == "vars":
            self._used.setdefault(name, self._place)
        else:
            self._declared.add(name)

    def _hosts(self, line: str) -> None:
        try:
            words = shlex.split(line, comments=True)
            names, port = expand(words[0]) if words else ([], "")
        except ValueError as error:
            raise bad(self._place, str(error)) from error
        if "---" in names:
            raise bad(self._place, "this is YAML: the name of its file has to end in .yml or .yaml")
        variables = {"ansible_port": Value(port, self._place)} if port else {}
        for word in words[1:]:
            name, equals, value = word.partition("=")
            if not equals:
                raise bad(self._place, "a word after the name of a host is not NAME=VALUE")
            variables[name] = self._value(value)
        variables = wanted(variables)
        for name in names:
            entry = self._tree.host(name, self._group, self._place)
            entry.variables |= variables

    def _variable(self, line: str) -> None:
        name, equals, value = line.partition("=")
        if not equals:
            raise bad(self._place, "this line of variables is not NAME=VALUE")
        found: Variables = {name.strip(): self._value(value.strip())}
        self._tree.groups[self._group].variables |= wanted(found)

    def _child(self, line: str) -> None:
        name = _GROUP.fullmatch(line)
        if not name:
            raise bad(self._place, "this line is not the name of a group")
        self._tree.child(self._group, name[1], self._place)
        self._used.setdefault(name[1], self._place)

    def _value(self, text: str) -> Value:
        if text == "None":
            return Value(None, self._place)
        return Value(text[1:-1] if _QUOTED.fullmatch(text) else text, self._place)
