"""Manifests of static pods: what they say, and the edit that makes kubelet restart a pod.

kubelet restarts a static pod when its manifest differs, whatever the difference is
(pkg/kubelet/config/common.go, applyDefaults: the UID is a hash of the pod). An annotation differs
without a meaning.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from kbuild.base.files import BROKEN, demand_plain_yaml, reason_of

KEY = "kbuild.io/restarted-at"
_MAX_DEPTH = 32
_INDENT = 2


class BadManifest(ValueError):
    """A manifest cannot be read, or not be edited safely; its text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Lines to replace: ``text`` takes the place of ``removed`` lines after the first ``line``."""

    line: int
    removed: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Where a component tells its health; ``scheme`` is http or https."""

    scheme: str
    host: str
    port: int
    path: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest of a static pod; ``changed`` is its time, in seconds since the epoch."""

    content: bytes
    changed: int = 0

    @property
    def sha256(self) -> str:
        """Return the sha256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pod(self) -> Mapping[str, Any]:
        """Return the pod; raises BadManifest."""
        return _load(_text(self.content))

    @cached_property
    def container(self) -> Mapping[str, Any]:
        """Return the first container; raises BadManifest."""
        try:
            found = self.pod["spec"]["containers"][0]
        except (LookupError, TypeError) as error:
            message = "it has no container"
            raise BadManifest(message) from error
        if not isinstance(found, dict):
            message = "its container is not a mapping"
            raise BadManifest(message)
        return found

    def flag(self, name: str) -> str:
        """Return the value of a flag of the command, the last one, or an empty text."""
        words = [*_words(self.container, "command"), *_words(self.container, "args")]
        found = [word for word in words if word.startswith(f"--{name}=")]
        return found[-1].partition("=")[2] if found else ""

    def probe(self) -> Probe | None:
        """Return where the liveness probe asks, if it asks over HTTP."""
        probe = self.container.get("livenessProbe")
        get = probe.get("httpGet") if isinstance(probe, dict) else None
        if not isinstance(get, dict) or not isinstance(get.get("port"), int):
            return None
        return Probe(
            scheme=str(get.get("scheme", "HTTP")).lower(),
            host=str(get.get("host") or "127.0.0.1"),
            port=get["port"],
            path=str(get.get("path") or "/"),
        )


def restart_edit(content: bytes, value: str) -> Edit:
    """Return the edit that gives a manifest exactly one annotation KEY with a value.

    All other bytes stay. Raises BadManifest if that cannot be done safely: the manifest is JSON or
    another flow mapping, has aliases or several documents, or a key twice.
    """
    text = _text(content)
    before = _load(text)
    edit = _edit(text, value)
    try:
        after = _load(_text(edited(content, edit)))
    except BadManifest as error:
        message = f"it cannot be edited safely: {error}"
        raise BadManifest(message) from error
    metadata = before["metadata"]
    annotations = {**(metadata.get("annotations") or {}), KEY: value}
    if after != {**before, "metadata": {**metadata, "annotations": annotations}}:
        message = "it cannot be edited safely: its layout is unusual"
        raise BadManifest(message)
    return edit


def edited(content: bytes, edit: Edit) -> bytes:
    """Return a content after an edit, as the function rewrite of renew.sh makes it."""
    lines = content.split(b"\n")
    lines = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    rest = lines[edit.line + edit.removed :]
    return b"".join([*lines[: edit.line], edit.text.encode(), *rest])


def _edit(text: str, value: str) -> Edit:
    entry = f'{KEY}: "{value}"'
    metadata = _entry(_root(text), "metadata")
    annotations = _entry(_block(metadata, "metadata"), "annotations")
    if annotations is None:
        first = _block(metadata, "metadata").value[0][0].start_mark
        indent = " " * first.column
        lines = f"{indent}annotations:\n{indent}{' ' * _INDENT}{entry}\n"
        return Edit(line=_line(text, first.index), removed=0, text=lines)
    block = _block(annotations, "annotations")
    ours = next((key for key, _ in block.value if key.value == KEY), None)
    first = (ours or block.value[0][0]).start_mark
    line = _line(text, first.index)
    is_last = ours is not None and line == text.count("\n")  # which has no line end
    end = "" if is_last else "\n"
    return Edit(line=line, removed=int(ours is not None), text=f"{' ' * first.column}{entry}{end}")


def _line(text: str, index: int) -> int:
    """Return how many lines are before a place; YAML knows other line ends than head and tail."""
    return text.count("\n", 0, index)


def _root(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, yaml.SafeLoader)
    return _block(root, "the manifest")


def _entry(node: yaml.MappingNode, name: str) -> yaml.Node | None:
    return next((value for key, value in node.value if key.value == name), None)


def _block(node: yaml.Node | None, name: str) -> yaml.MappingNode:
    if not isinstance(node, yaml.MappingNode) or node.flow_style or not node.value:
        message = f"{name} is not a block mapping with an entry"
        raise BadManifest(message)
    return node


def _text(content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        message = "it is not UTF-8"
        raise BadManifest(message) from error
    if text.startswith("\ufeff"):
        message = "it begins with a byte order mark"
        raise BadManifest(message)
    return text


def _load(text: str) -> dict[str, Any]:
    try:
        demand_plain_yaml(text, _MAX_DEPTH)
        for mapping in _mappings(yaml.compose(text, yaml.SafeLoader)):
            keys = [(key.tag, key.value) for key, _ in mapping.value if _is_scalar(key)]
            if len(keys) != len(mapping.value) or len(set(keys)) != len(keys):
                message = "a key is there twice, or is no text"
                raise BadManifest(message)
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = "it is not YAML" + (f" (line {mark.line + 1})" if mark else "")
        raise BadManifest(message) from error
    except BROKEN as error:
        raise BadManifest(reason_of(error)) from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("metadata"), dict):
        message = "it is not a pod with metadata"
        raise BadManifest(message)
    return loaded


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)


def _words(container: Mapping[str, Any], name: str) -> list[str]:
    found = container.get(name)
    return [str(each) for each in found] if isinstance(found, list) else []
