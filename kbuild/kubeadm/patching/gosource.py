"""Read lifetimes from Go source: constants, and the duration that a NotAfter adds to now."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kbuild.kubeadm.patching.goconst import Constants, GoSourceError, child, only, parts, text

if TYPE_CHECKING:
    from tree_sitter import Node

ASSIGNMENTS = ("short_var_declaration", "assignment_statement")


def const_value(source: str, name: str) -> int:
    """Return the value of a package's constant in nanoseconds.

    Raises GoSourceError.
    """
    with _not_too_deep():
        return Constants(_parse(source)).value(name)


def added_duration(source: str, function: str, field: str) -> int:
    """Return the nanoseconds that ``field: now.Add(…)`` adds in a function.

    ``field`` is a field of a literal or a variable; ``time.Now()`` may stand for ``now`` and a
    ``.UTC()`` may follow. Raises GoSourceError.
    """
    with _not_too_deep():
        return _added_duration(_parse(source), function, field)


@contextlib.contextmanager
def _not_too_deep() -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        msg = "it is nested too deep"
        raise GoSourceError(msg) from error


def _added_duration(root: "Node", function: str, field: str) -> int:
    home = only(_functions(root, function), f"function {function}")
    value = only(_values(home, field), f"{field} in {function}")
    added = _added(value, f"{field} in {function}")
    used, everywhere = _identifiers(added), _identifiers(home)
    for name in used.keys() - {"time"}:
        # A name that also occurs elsewhere in the function may be declared again there.
        if everywhere[name] != used[name]:
            msg = f"{name} may be declared again in {function}"
            raise GoSourceError(msg)
    return Constants(root).evaluate(added)


def _parse(source: str) -> "Node":
    # Imported here: only a few commands patch anything.
    import tree_sitter_go
    from tree_sitter import Language, Parser

    root = Parser(Language(tree_sitter_go.language())).parse(source.encode()).root_node
    if root.has_error:
        msg = "it does not parse as Go"
        raise GoSourceError(msg)
    return root


def _functions(root: "Node", name: str) -> list["Node"]:
    functions = [node for node in root.children if node.type == "function_declaration"]
    return [node for node in functions if text(child(node, "name")) == name]


def _values(function: "Node", field: str) -> list["Node"]:
    found = []
    for node in _walk(function):
        if node.type == "keyed_element":
            left, right = [each for each in parts(node) if each.type == "literal_element"]
        elif node.type in ASSIGNMENTS:
            left, right = child(node, "left"), child(node, "right")
        else:
            continue
        if text(left) == field:
            found += parts(right)
    return found


def _added(value: "Node", where: str) -> "Node":
    call = value
    if text(value).endswith(".UTC()"):
        call = child(child(value, "function"), "operand")
    function = call.child_by_field_name("function")
    if function is None or function.type != "selector_expression":
        msg = f"{where} is {text(value)}, not now.Add(…)"
        raise GoSourceError(msg)
    receiver = child(function, "operand")
    is_now = receiver.type == "identifier" or text(receiver) == "time.Now()"
    if not is_now or text(child(function, "field")) != "Add":
        msg = f"{where} is {text(value)}, not now.Add(…)"
        raise GoSourceError(msg)
    return only(parts(child(call, "arguments")), f"duration in {where}")


def _identifiers(node: "Node") -> Counter[str]:
    return Counter(text(each) for each in _walk(node) if each.type == "identifier")


def _walk(node: "Node") -> Iterator["Node"]:
    yield node
    for each in node.children:
        yield from _walk(each)
