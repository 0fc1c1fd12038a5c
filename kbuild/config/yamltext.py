"""Change values in a YAML document, and keep the rest of its text as it is.

Loading and dumping a document would lose its comments and quotes, and show a difference in lines
that nobody changed. So the parser only tells where in the text a value is. ``put`` changes the
text; ``with_value`` makes the same change to the loaded document, to compare the two.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from kbuild.base.files import demand_plain_yaml

_MAX_DEPTH = 32
_INDENT = 2
_REST_OF_MARK = re.compile(r"\A[ \t]*(#.*)?\r?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """An entry of a list of arguments, as kubeadm has them from v1beta4 on."""

    name: str
    value: str


Path = Sequence[str]
Value = str | bool | Argument


def documents(text: str) -> list[str]:
    """Return the text of each document of a file that is not empty, without the marks between them.

    Raises ValueError or yaml.YAMLError as ``load`` does, but not for several documents.
    """
    demand_plain_yaml(text, _MAX_DEPTH)
    parts: list[str] = []
    start = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        assert event.start_mark is not None
        assert event.end_mark is not None
        if isinstance(event, yaml.DocumentStartEvent) and event.explicit:
            start = event.end_mark.index
        elif isinstance(event, yaml.DocumentEndEvent):
            part = text[start : event.start_mark.index]
            parts.append(_REST_OF_MARK.sub("", part) if start else part)
            start = event.end_mark.index
    return [part for part in parts if part.strip()] if len(parts) > 1 else [text]


def load(text: str) -> dict[str, Any]:
    """Return the mapping that a document is.

    Raises ValueError or yaml.YAMLError, also for aliases, several documents, and a key that is
    there twice, of which parsers take the last.
    """
    demand_plain_yaml(text, _MAX_DEPTH)
    _demand_unique_keys(_root(text))
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def put(text: str, path: Path, value: Value) -> str:
    """Return a document with a value at the path of keys, whose missing mappings are made.

    An Argument is put into the list that is there, in place of the one of the same name. Raises
    ValueError if something else than a mapping is on the path, or several such arguments.
    """
    node: yaml.Node = _root(text)
    column, flow = node.start_mark.column, False
    for depth, key in enumerate(path):
        if _is_empty(node):
            return _fill(text, node, path[depth:], value, column + _INDENT, flow=flow)
        if not isinstance(node, yaml.MappingNode):
            message = f"{'.'.join(path[:depth])} is not a mapping"
            raise ValueError(message)
        flow = bool(node.flow_style)
        found = next(((k, v) for k, v in node.value if k.value == key), None)
        if found is None:
            return _insert(text, node, path[depth:], value)
        column, node = found[0].start_mark.column, found[1]
    if isinstance(value, Argument):
        if _is_empty(node):
            return _fill(text, node, (), value, column, flow=flow)
        return _put_argument(text, node, value)
    return _replace(text, node, _scalar(value, flow=flow))


def rename(text: str, path: Path, name: str, new: str) -> str:
    """Return a document in which a key of the mapping at the path, or an argument, has a new name.

    It must be there once.
    """
    node: yaml.Node = _root(text)
    for key in path:
        node = dict(_entries(node))[key]
    if isinstance(node, yaml.SequenceNode):
        names = [dict(_entries(item))["name"] for item in node.value if _name_of(item) == name]
    else:
        names = [key for key, _ in node.value if key.value == name]
    [old] = names
    return _replace(text, old, new)


def with_value(document: Mapping[str, Any], path: Path, value: Value) -> dict[str, Any]:
    """Return a loaded document with a value at the path of keys; see ``put``."""
    key, *rest = path
    there = document.get(key)
    if rest:
        return {**document, key: with_value(there or {}, rest, value)}
    if isinstance(value, Argument):
        new, old = {"name": value.name, "value": value.value}, there or []
        if value.name in [entry["name"] for entry in old]:
            listed = [{**e, **new} if e["name"] == value.name else e for e in old]
        else:
            listed = [new, *old]
        return {**document, key: listed}
    return {**document, key: value}


def _root(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        message = "it is not a mapping"
        raise ValueError(message)
    return root


def _demand_unique_keys(node: yaml.Node) -> None:
    counts = Counter(key for key, _ in _entries(node))
    if twice := [key for key, count in counts.items() if count > 1]:
        message = f"it has the key {twice[0]} twice in one mapping"
        raise ValueError(message)
    if isinstance(node, yaml.MappingNode):
        children = [child for _, child in node.value]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    for child in children:
        _demand_unique_keys(child)


def _entries(node: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if not isinstance(key, yaml.ScalarNode):
            message = "it has a key that is not text"
            raise ValueError(message)
        yield key.value, value


def _name_of(argument: yaml.Node) -> str | None:
    name = dict(_entries(argument)).get("name")
    return name.value if isinstance(name, yaml.ScalarNode) else None


def _is_empty(node: yaml.Node) -> bool:
    """Tell whether a value is null, or an empty mapping or list."""
    if isinstance(node, yaml.ScalarNode):
        return str(node.tag) == "tag:yaml.org,2002:null"
    return not node.value


def _put_argument(text: str, node: yaml.Node, argument: Argument) -> str:
    """Put an argument into a list that is not empty."""
    if not isinstance(node, yaml.SequenceNode):
        message = f"the place of {argument.name} is not a list"
        raise ValueError(message)
    same = [item for item in node.value if _name_of(item) == argument.name]
    if len(same) > 1:
        message = f"it has the argument {argument.name} twice"
        raise ValueError(message)
    if same:
        old = dict(_entries(same[0]))["value"]
        return _replace(text, old, _scalar(argument.value, flow=bool(same[0].flow_style)))
    at = node.start_mark.index
    if node.flow_style:
        return f"{text[: at + 1]}{_flow_entry(argument)}, {text[at + 1 :]}"
    column = node.start_mark.column
    return f"{text[:at]}{_block((), argument, column).lstrip()}\n{' ' * column}{text[at:]}"


def _insert(text: str, node: yaml.MappingNode, path: Path, value: Value) -> str:
    """Add a key to a mapping that is not empty, before the first key that sorts after it.

    Without such a key it comes last, or before the last key if that has many lines.
    """
    if node.flow_style:
        at = node.start_mark.index + 1
        return f"{text[:at]}{_flow(path, value)}, {text[at:]}"
    last, value_of_last = node.value[-1]
    follows = next((key for key, _ in node.value if key.value > path[0]), last)
    at, column = follows.start_mark.index, follows.start_mark.column
    if last.value < path[0] and _is_on_one_line(value_of_last):
        line_end = text.find("\n", value_of_last.end_mark.index)
        at = len(text) if line_end < 0 else line_end
        return f"{text[:at]}\n{_block(path, value, column)}{text[at:]}"
    return f"{text[:at]}{_block(path, value, column).lstrip()}\n{' ' * column}{text[at:]}"


def _is_on_one_line(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.start_mark.line == node.end_mark.line


def _fill(text: str, node: yaml.Node, path: Path, value: Value, column: int, *, flow: bool) -> str:
    """Put something where there is null, or an empty mapping or list."""
    if flow:
        return _replace(text, node, f"{{{_flow(path, value)}}}" if path else _flow_list(value))
    start, end = node.start_mark.index, node.end_mark.index
    return f"{text[:start].rstrip(' ')}\n{_block(path, value, column)}{text[end:]}"


def _replace(text: str, node: yaml.Node, new: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):  # it ends in the next line
        end = start + len(text[start:end].rstrip())
    gap = " " if text[start - 1 : start] == ":" else ""  # of a key without a value
    return f"{text[:start]}{gap}{new}{text[end:]}"


def _block(path: Path, value: Value, column: int) -> str:
    """Return lines in block style, the first at this column."""
    indent = " " * column
    if path:
        key, *rest = path
        if rest:
            return f"{indent}{key}:\n{_block(rest, value, column + _INDENT)}"
        if not isinstance(value, Argument):
            return f"{indent}{key}: {_scalar(value, flow=False)}"
        return f"{indent}{key}:\n{_block((), value, column)}"
    assert isinstance(value, Argument)
    return f"{indent}- name: {value.name}\n{indent}  value: {value.value}"


def _flow(path: Path, value: Value) -> str:
    """Return the inside of a mapping in flow style, which JSON is too."""
    key, *rest = path
    if rest:
        return f"{json.dumps(key)}: {{{_flow(rest, value)}}}"
    inner = _flow_list(value) if isinstance(value, Argument) else _scalar(value, flow=True)
    return f"{json.dumps(key)}: {inner}"


def _flow_list(value: Value) -> str:
    assert isinstance(value, Argument)
    return f"[{_flow_entry(value)}]"


def _flow_entry(argument: Argument) -> str:
    return json.dumps({"name": argument.name, "value": argument.value})


def _scalar(value: str | bool, *, flow: bool) -> str:  # noqa: FBT001
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if flow else value
