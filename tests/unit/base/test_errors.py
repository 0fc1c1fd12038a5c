import ast
import string
from collections import Counter
from pathlib import Path

import kbuild
from kbuild.base import errors
from kbuild.base.errors import KbuildError

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, KbuildError) and value is not KbuildError
}
PACKAGE = Path(kbuild.__file__).parent


def fields(error: type[KbuildError]) -> set[str]:
    texts = (error.what, error.todo)
    return {name for text in texts for _, name, _, _ in string.Formatter().parse(text) if name}


def raises() -> list[tuple[Path, ast.Call, str]]:
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in CLASSES:
                    found.append((path, node, name))
    return found


def test_every_raise_gives_exactly_the_facts_of_its_text() -> None:
    for path, call, name in raises():
        given = {keyword.arg for keyword in call.keywords} - {"details"}
        assert given == fields(CLASSES[name]), f"{path.name}:{call.lineno} {name}"
        assert not call.args, f"{path.name}:{call.lineno} {name}"


def test_every_error_is_raised_somewhere() -> None:
    used = {name for _, _, name in raises()}
    assert used == set(CLASSES)


def test_exit_codes_are_unique_but_for_usage() -> None:
    codes = Counter(error.exit_code for error in CLASSES.values() if error.exit_code != 2)
    assert [code for code, times in codes.items() if times > 1] == []
    assert all(code in (1, 2, 130) or 10 <= code < 100 for code in codes)


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = errors.TagNotFound(source="git://x", version="1.2.3", suggestion="", details=" git\n")
    assert str(error) == "git://x has no tag for 1.2.3"
    assert error.hint == "see what it has with `kbuild versions --source git://x`"
    assert error.details == "git"
