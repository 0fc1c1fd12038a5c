import ast
import string
from pathlib import Path

import kbuild
from kbuild.base import errors
from kbuild.base.errors import InternalError, Interrupted, KbuildError
from tests.support.failures import FAMILIES

FAMILY_OF_ONE: tuple[type[KbuildError], ...] = (InternalError, Interrupted)
CLASSES: dict[str, type[KbuildError]] = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type)
    and issubclass(value, KbuildError)
    and value not in (KbuildError, *FAMILIES)
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


def test_every_error_has_the_exit_code_of_its_family() -> None:
    for name, error in CLASSES.items():
        [family] = [one for one in (*FAMILIES, *FAMILY_OF_ONE) if issubclass(error, one)]
        assert error.exit_code == family.exit_code, name


def test_every_family_has_an_exit_code_of_its_own() -> None:
    codes = [family.exit_code for family in (*FAMILIES, *FAMILY_OF_ONE)]
    assert codes == [2, 20, 30, 40, 50, 60, 70, 80, 90, 1, 130]


def test_the_kind_is_the_name_of_the_class_in_kebab_case() -> None:
    assert errors.LeafOutlivesCA.kind == "leaf-outlives-ca"
    assert errors.NotACache.kind == "not-a-cache"
    assert errors.DiskFull.kind == "disk-full"
    assert len({error.kind for error in CLASSES.values()}) == len(CLASSES)


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = errors.TagNotFound(source="git://x", version="1.2.3", suggestion="", details=" git\n")
    assert str(error) == "git://x has no tag for 1.2.3"
    assert error.hint == "see what it has with `kbuild versions --source git://x`"
    assert error.details == "git"
