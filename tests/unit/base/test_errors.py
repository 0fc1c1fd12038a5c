import ast
import pickle
import pkgutil
import re
import string
from collections.abc import Iterator
from importlib import import_module
from inspect import get_annotations
from pathlib import Path

import pytest

import kbuild
from kbuild.base.errors import (
    BadSetting,
    EngineFailed,
    InternalError,
    Interrupted,
    KbuildError,
    LeafOutlivesCA,
    NotACache,
    SourceUnreachable,
)
from kbuild.kubeadm.source.errors import TagNotFound
from tests.support.failures import FAMILIES

PACKAGE = Path(kbuild.__file__).parent
ALONE: tuple[type[KbuildError], ...] = (InternalError, Interrupted)  # each is a family of its own


def below(base: type[KbuildError]) -> Iterator[type[KbuildError]]:
    for error in base.__subclasses__():
        yield error
        yield from below(error)


for module in pkgutil.walk_packages(kbuild.__path__, "kbuild."):
    import_module(module.name)
ERRORS = [error for error in below(KbuildError) if error not in FAMILIES]


def test_there_are_errors_of_every_family() -> None:
    assert {error.exit_code for error in ERRORS} == {1, 2, 20, 30, 40, 50, 60, 70, 80, 90, 100, 130}
    assert len(ERRORS) > 60


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.kind)
def test_an_error_is_documented_and_of_one_family(error: type[KbuildError]) -> None:
    assert re.fullmatch(r"\S.+\.", str(error.__doc__).splitlines()[0])
    [family] = [one for one in (*FAMILIES, *ALONE) if issubclass(error, one)]
    assert error.exit_code == family.exit_code
    assert error is family or "exit_code" not in vars(error)


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.kind)
def test_the_texts_of_an_error_use_its_fields_and_all_of_them(error: type[KbuildError]) -> None:
    declared = set(get_annotations(error))
    used = {
        name
        for text in (error.what, error.todo)
        for _, name, _, _ in string.Formatter().parse(text)
        if name
    }
    assert used == declared
    assert not declared & {"kind", "what", "todo", "happened", "details", "exit_code", "args"}


def test_every_family_has_an_exit_code_of_its_own() -> None:
    codes = [family.exit_code for family in (*FAMILIES, *ALONE)]
    assert codes == [2, 20, 30, 40, 50, 60, 70, 80, 90, 100, 1, 130]


def test_the_kind_is_the_name_of_the_class_in_kebab_case() -> None:
    assert LeafOutlivesCA.kind == "leaf-outlives-ca"
    assert NotACache.kind == "not-a-cache"
    assert EngineFailed.kind == "engine-failed"
    assert len({error.kind for error in ERRORS}) == len(ERRORS)


def test_every_error_is_raised_somewhere() -> None:
    called = {
        getattr(node.func, "id", getattr(node.func, "attr", ""))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert [error.__name__ for error in ERRORS if error.__name__ not in called] == []


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = TagNotFound(source="git://x", version="1.2.3", suggestion="", details=" git\n")
    assert str(error) == "git://x has no tag for 1.2.3"
    assert error.hint == "list its tags with `kbuild versions --source git://x`"
    assert error.details == "git"
    assert (error.source, error.version) == ("git://x", "1.2.3")


@pytest.mark.parametrize(
    "error",
    [
        TagNotFound(source="git://x", version="1.2.3", suggestion="; try 1", details="git"),
        BadSetting(name="ca-years", value="x" * 300, reason="it is long", hint="give a number"),
        Interrupted(),
    ],
    ids=lambda error: error.kind,
)
def test_an_error_can_be_pickled(error: KbuildError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_no_field_of_an_error_keeps_a_credential() -> None:
    error = SourceUnreachable(source="https://me:secret@example.invalid/k.git?token=secret")
    assert "example.invalid" in error.source
    assert "secret" not in repr(error) + str(vars(error))


def test_a_value_that_cannot_be_printed_is_told_all_the_same() -> None:
    def told(value: object) -> str:
        return str(BadSetting(name="x", value=value, reason="no", hint=""))

    assert told("a") == "x cannot be 'a': no"
    assert told(10**5000) == "x cannot be that: no"
    assert told("y" * 500) == f"x cannot be '{'y' * 199}…: no"
