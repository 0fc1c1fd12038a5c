"""YAML and JSON of Ansible as nodes that know their line: nothing in them is run or expanded."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from kbuild.base.files import BROKEN, plain_yaml_events, reason_of
from kbuild.nodes.inventory.tree import Value, Variables, bad

_MAX_DEPTH = 64  # a child group takes two levels
_MAX_EVENTS = 1_000_000  # of the parser; a host with five variables has 15
_NULLS = ("", "~", "null", "Null", "NULL")
# YAML may begin with a brace, too, but then it rarely quotes its keys.
_JSON = re.compile(r"\s*\{\s*[\"}]")
_VAULT = "$ANSIBLE_VAULT;"
_ENCRYPTED = "it is encrypted with ansible-vault, and kbuild cannot decrypt it"
_WITH_VAULT = (
    "print it with `ansible-inventory --list --ask-vault-pass > hosts.json`, which kbuild reads;"
    " that file has the secrets in plain text, so delete it afterwards"
)

# Text, or null, or a list, or a mapping.
Content = str | None | list["Node"] | dict[str, "Node"]


@dataclass(frozen=True, slots=True, repr=False)
class Node:
    """A value of a document; ``place`` is where its key is, ``is_vault`` that it is encrypted."""

    content: Content
    place: str
    is_vault: bool = False

    def mapping(self, of: str) -> dict[str, "Node"]:
        """Return the entries of a mapping; null has none, a text is one; raises BadInventory."""
        if self.content is None:
            return {}
        if isinstance(self.content, str) and not self.is_vault:  # as Ansible does
            return {self.content: Node(None, self.place)}
        if not isinstance(self.content, dict):
            raise bad(self.place, f"{of} is not a mapping")
        return self.content

    def value(self) -> Value:
        """Return this as the value of a variable."""
        if self.is_vault or (isinstance(self.content, dict) and "__ansible_vault" in self.content):
            return Value("", self.place, _ENCRYPTED)
        content = self.content
        if isinstance(content, dict) and set(content) == {"__ansible_unsafe"}:
            content = content["__ansible_unsafe"].content
        if content is None or isinstance(content, str):
            return Value(content, self.place)
        return Value("", self.place, "it is a list or a mapping")

    def variables(self, of: str) -> Variables:
        """Return the variables of a mapping that kbuild may need; raises BadInventory."""
        entries = self.mapping(of).items()
        return {name: node.value() for name, node in entries if name.startswith("ansible_")}


def read_document(text: str, path: str) -> Node:
    """Parse JSON if the text begins as JSON does, or else YAML; raises BadInventory."""
    if text.startswith(_VAULT):
        raise bad(path, _ENCRYPTED, _WITH_VAULT)
    is_json = path.endswith(".json") or _JSON.match(text)
    return _read_json(text, path) if is_json else _read_yaml(text, path)


def _read_json(text: str, path: str) -> Node:
    try:
        return _of_json(json.loads(text, parse_int=str, parse_float=str), path, _MAX_DEPTH)
    except BROKEN as error:
        raise bad(path, reason_of(error)) from error


def _of_json(value: object, path: str, depth: int) -> Node:
    if not depth:
        raise RecursionError
    if isinstance(value, dict):
        return Node({key: _of_json(each, path, depth - 1) for key, each in value.items()}, path)
    if isinstance(value, list):
        return Node([_of_json(each, path, depth - 1) for each in value], path)
    return Node(None if value is None else str(value), path)


def _read_yaml(text: str, path: str) -> Node:
    import yaml  # slow to import, and many inventories are INI

    # All values are text for this loader: YAML's numbers may take quadratic time.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        return _Builder(plain_yaml_events(text, _MAX_DEPTH, loader), path).document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else path
        raise bad(place, f"it is not YAML ({getattr(error, 'problem', None) or error})") from error
    except BROKEN as error:
        raise bad(path, reason_of(error)) from error


class _Event(Protocol):
    """An event of PyYAML's parser; only a scalar has all of these."""

    tag: str | None
    implicit: tuple[bool, bool]
    value: str
    start_mark: Any


class _Builder:
    def __init__(self, events: Iterator[_Event], path: str) -> None:
        self._events, self._path, self._count = events, path, 0

    def document(self) -> Node:
        node, documents = Node(None, self._path), 0
        for event in self._events:
            kind = type(event).__name__
            documents += kind == "DocumentStartEvent"
            if documents > 1:
                raise bad(self._place(event), "a second YAML document begins here")
            if kind in ("ScalarEvent", "MappingStartEvent", "SequenceStartEvent"):
                node = self._node(event, self._place(event))
        return node

    def _place(self, event: _Event) -> str:
        return f"{self._path}:{event.start_mark.line + 1}"

    def _next(self) -> _Event:
        self._count += 1
        if self._count > _MAX_EVENTS:
            raise bad(self._path, f"it has more than {_MAX_EVENTS} YAML tokens")
        return next(self._events)

    def _node(self, event: _Event, place: str) -> Node:
        kind = type(event).__name__
        if kind == "ScalarEvent":
            is_null = event.tag is None and event.implicit[0] and event.value in _NULLS
            content = None if is_null else event.value
            return Node(content, place, event.tag in ("!vault", "!vault-encrypted"))
        return Node(self._entries(place) if kind == "MappingStartEvent" else self._items(), place)

    def _items(self) -> list[Node]:
        items = []
        while type(event := self._next()).__name__ != "SequenceEndEvent":
            items.append(self._node(event, self._place(event)))
        return items

    def _entries(self, of: str) -> dict[str, Node]:
        entries = {}
        while type(key := self._next()).__name__ != "MappingEndEvent":
            place = self._place(key)
            if type(key).__name__ != "ScalarEvent" or key.value == "<<":
                raise bad(place, f"a key in the mapping of {of} is not text, or merges another one")
            entries[key.value] = self._node(self._next(), place)
        return entries
