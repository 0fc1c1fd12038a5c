"""A function that does not fit on a screen does more than one thing."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST = 40  # lines, decorators not counted


def long_functions(text: str) -> list[str]:
    """Return the functions of a Python text that have too many lines."""
    return [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MOST
    ]


def test_no_function_is_longer_than_a_screen() -> None:
    files = sorted((ROOT / "kbuild").rglob("*.py"))
    assert len(files) > 80
    found = {str(path.relative_to(ROOT)): long_functions(path.read_text()) for path in files}
    assert {name: functions for name, functions in found.items() if functions} == {}


def test_a_long_function_is_found() -> None:
    body = "    pass\n" * (MOST - 1)
    assert long_functions(f"def fits():\n{body}") == []
    assert long_functions(f"class A:\n  def long():\n{body}    pass\n") == ["long"]
