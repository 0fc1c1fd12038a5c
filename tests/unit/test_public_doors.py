"""Tests use kbuild as its other modules do: what begins with an underscore may change any time."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests").rglob("*.py"))


def private_names(text: str) -> list[str]:
    """Return the private names of kbuild that a Python text imports, reads or patches."""
    nodes = list(ast.walk(ast.parse(text)))
    ours = {
        alias.asname or alias.name.partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom) and _is_of_kbuild(node)
        for alias in node.names
    }
    return sorted(name for node in nodes for name in _names(node, ours) if _is_private(name))


def _is_of_kbuild(node: ast.Import | ast.ImportFrom) -> bool:
    modules = (
        [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    )
    return any(module.partition(".")[0] == "kbuild" for module in modules)


def _names(node: ast.AST, ours: set[str]) -> Iterator[str]:
    match node:
        case ast.ImportFrom() | ast.Import() if _is_of_kbuild(node):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            yield from (f"{module}.{alias.name}" for alias in node.names)
        case ast.Attribute() if _root(node) in ours:
            yield ast.unparse(node)
        case ast.Constant(value=str(text)) if text.startswith("kbuild."):
            yield text  # as monkeypatch takes it
        case ast.Call(args=[target, ast.Constant(value=str(name)), *_]) if _root(target) in ours:
            yield f"{ast.unparse(target)}.{name}"  # setattr, getattr and the like


def _root(node: ast.AST) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_private(dotted: str) -> bool:
    parts = dotted.split(".")
    return any(part.startswith("_") and not part.startswith("__") for part in parts)


def test_no_test_uses_a_private_name_of_kbuild() -> None:
    found = {str(path.relative_to(ROOT)): private_names(path.read_text()) for path in FILES}
    assert len(found) > 100
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "text",
    [
        "from kbuild.base.network import _TICK",
        "from kbuild.base import _network",
        "import kbuild._patches",
        "from kbuild.base import network\nnetwork._TICK",
        "from kbuild.base import network as other\nother._TICK",
        "import kbuild.base\nkbuild.base.network._TICK",
        "from kbuild.base import network\npatch.setattr(network, '_TICK', 1)",
        "from kbuild.base import network\ngetattr(network, '_TICK')",
        "patch.setattr('kbuild.base.network._TICK', 1)",
    ],
)
def test_each_way_to_a_private_name_is_found(text: str) -> None:
    assert private_names(text) != []


def test_public_names_and_what_python_names_itself_are_free() -> None:
    text = "import kbuild\nfrom kbuild.base import network\nnetwork.TICK\nkbuild.__file__\nx._y"
    assert private_names(text) == []
