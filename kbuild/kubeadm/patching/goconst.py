"""Compute Go's constant expressions over durations.

Only the expressions that lifetimes are written with are supported. Everything else is an error,
because a lifetime that cannot be computed cannot be checked. Durations are nanoseconds in an int64,
like ``time.Duration`` (https://go.dev/ref/spec#Constant_expressions).
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node

UNITS = {
    "time.Nanosecond": 1,
    "time.Microsecond": 1_000,
    "time.Millisecond": 1_000_000,
    "time.Second": 1_000_000_000,
    "time.Minute": 60_000_000_000,
    "time.Hour": 3_600_000_000_000,
}
MAX_DURATION = 2**63 - 1
LEGACY_OCTAL = re.compile(r"0[0-7_]+")


class GoSourceError(ValueError):
    """The source is not Go, or does not contain the value in a supported form."""


class Constants:
    """The constants of one file by name, also those in groups."""

    def __init__(self, root: "Node") -> None:
        self._values: dict[str, list[Node | None]] = {}
        self._known: dict[str, int] = {}  # otherwise nested constants would take exponential time
        for declaration in root.children:
            if declaration.type == "const_declaration":
                for spec in declaration.named_children:
                    self._add(spec)

    def value(self, name: str, seen: tuple[str, ...] = ()) -> int:
        """Return the value of a constant; ``seen`` are the constants that refer to it.

        Raises GoSourceError.
        """
        if name in self._known:
            return self._known[name]
        found = self._values.get(name, [])
        if len(found) != 1 or found[0] is None or name in seen:
            msg = f"{name} is not declared exactly once with a value of its own"
            raise GoSourceError(msg)
        self._known[name] = self.evaluate(found[0], (*seen, name))
        return self._known[name]

    def evaluate(self, node: "Node", seen: tuple[str, ...] = ()) -> int:
        """Return the value of a constant expression.

        Raises GoSourceError.
        """
        value = self._evaluate(node, seen)
        if not -MAX_DURATION - 1 <= value <= MAX_DURATION:
            msg = f"{text(node)} overflows time.Duration"
            raise GoSourceError(msg)
        return value

    def _add(self, spec: "Node") -> None:
        listed = spec.child_by_field_name("value")
        values: list[Node | None] = [*parts(listed)] if listed else []
        names = [n for n in spec.children_by_field_name("name") if n.type == "identifier"]
        # Without a value, a name repeats the expression above it; no lifetime does that.
        for name, value in zip(names, values or [None] * len(names), strict=False):
            self._values.setdefault(text(name), []).append(value)

    def _evaluate(self, node: "Node", seen: tuple[str, ...]) -> int:
        if node.type == "int_literal":
            return _integer(text(node))
        if node.type == "identifier":
            return self.value(text(node), seen)
        if text(node) in UNITS:
            return UNITS[text(node)]
        if node.type == "binary_expression":
            left, right = (self.evaluate(child(node, side), seen) for side in ("left", "right"))
            return _calculate(left, text(child(node, "operator")), right)
        return self.evaluate(_inner(node), seen)


def _inner(node: "Node") -> "Node":
    """Return the expression in ``(…)`` or ``time.Duration(…)``."""
    holder = node
    if node.type == "call_expression" and text(child(node, "function")) == "time.Duration":
        holder = child(node, "arguments")
    elif node.type != "parenthesized_expression":
        msg = f"{text(node)} is not understood as a duration"
        raise GoSourceError(msg)
    return only(parts(holder), f"expression in {text(node)}")


def _calculate(left: int, operator: str, right: int) -> int:
    match operator:
        case "*":
            return left * right
        case "+":
            return left + right
        case "-":
            return left - right
        case "/" if right:
            quotient = abs(left) // abs(right)  # Go truncates towards zero
            return quotient if (left < 0) == (right < 0) else -quotient
        case _:
            msg = f"{left} {operator} {right} cannot be computed"
            raise GoSourceError(msg)


def _integer(literal: str) -> int:
    try:
        return int(literal, 8 if LEGACY_OCTAL.fullmatch(literal) else 0)
    except ValueError as error:
        msg = f"{literal} is not an integer"
        raise GoSourceError(msg) from error


def only(found: list["Node"], what: str) -> "Node":
    """Return the only element of ``found``; raises GoSourceError if there is another number."""
    if len(found) != 1:
        msg = f"there is {'more than one' if found else 'no'} {what}"
        raise GoSourceError(msg)
    return found[0]


def child(node: "Node", name: str) -> "Node":
    """Return the child in a field; raises GoSourceError if there is none."""
    found = node.child_by_field_name(name)
    if found is None:
        msg = f"{text(node)} is not understood"
        raise GoSourceError(msg)
    return found


def parts(node: "Node") -> list["Node"]:
    """Return the named children without comments."""
    return [each for each in node.named_children if each.type != "comment"]


def text(node: "Node") -> str:
    """Return the source of a node."""
    return (node.text or b"").decode()
