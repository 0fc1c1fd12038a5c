"""Who must get which files after a step of a rotation, and in which order: rotation.toml."""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from kbuild.pki.model import Plan
from kbuild.pki.rotating import Turned, signing_file
from kbuild.pki.uses import signing_problem

_PURPOSES = ("cluster", "etcd", "front-proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Files for a component: ``trusted`` with the options that name them, and all others.

    ``restart`` tells how it takes them.
    """

    component: str
    trusted: dict[Path, tuple[str, ...]]
    files: tuple[Path, ...]
    restart: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _User:
    name: str
    components: list[str]
    restart: str
    options: dict[str, list[str]] = field(default_factory=dict)
    signs: dict[str, list[str]] = field(default_factory=dict)


def deliveries(plan: Plan, cas: Iterable[Turned], *, with_leaves: bool) -> Iterator[Delivery]:
    """Yield what each component must get, in the order of their restarts.

    ``with_leaves`` tells whether certificates were issued again, not only CAs changed.
    """
    turned = tuple(cas)
    names = {each.spec.name for each in turned}
    leaves = [each for each in plan.specs if each.issuer in names] if with_leaves else []
    unknown = [file for each in leaves if not each.component for file in each.files]
    if unknown:
        yield Delivery(
            component="whoever uses them",
            trusted={},
            files=tuple(unknown),
            restart="with the components below",
        )
    for user in _users():
        trusted: dict[Path, tuple[str, ...]] = {}
        for path, options in _trusted(plan, user, turned):
            trusted[path] = (*trusted.get(path, ()), *options)
        mine = [each for each in plan.specs if each.component in user.components]
        files = [file for each in leaves if each in mine for file in each.files]
        files += [
            each.login.path for each in mine if each.login is not None and each.login.ca in names
        ]
        if trusted or files or any(_purposes(each) & set(user.options) for each in turned):
            yield Delivery(
                component=user.name,
                trusted=trusted,
                files=tuple(dict.fromkeys(files)),
                restart=user.restart,
            )


def _trusted(
    plan: Plan, user: _User, cas: tuple[Turned, ...]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    for each in cas:
        purposes = [name for name in _PURPOSES if name in _purposes(each)]
        if options := [word for name in purposes for word in user.options.get(name, ())]:
            yield each.spec.place, tuple(options)
        signs = [word for name in purposes for word in user.signs.get(name, ())]
        if signs and each.spec.key is not None and not signing_problem(plan, each.spec):
            is_on = each.after in ("begin", "leaves")
            yield (signing_file(each.spec) if is_on else each.spec.place), tuple(signs[:1])
            yield each.spec.key, tuple(signs[1:])


def _purposes(turned: Turned) -> set[str]:
    return set(turned.spec.purposes or _PURPOSES)


def facts_to_know(plan: Plan, cas: Iterable[Turned]) -> Iterator[str]:
    """Yield what else must be done after a step, or before the next one."""
    turned = tuple(cas)
    for note in _table()["note"]:
        found = [
            each
            for each in turned
            if each.after in note["after"]
            and _purposes(each) & set(note["purposes"])
            and not (note.get("signs") and signing_problem(plan, each.spec))
            and not (each.old_key and "{keys}" in note["text"])  # it was in no file
        ]
        if found:
            folders = {each.spec.key.parent for each in found if each.spec.key is not None}
            outside = [each for each in folders if each in plan.key_folders]
            yield note["text"].format(
                ca=_some(each.spec.place.name for each in found),
                signing=_some(signing_file(each.spec).name for each in found),
                keys=_some(f"{each}/.kbuild-pki/generations" for each in outside or [plan.output]),
            )


def _some(names: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(names))


def _users() -> Iterator[_User]:
    return (_User(**entry) for entry in _table()["user"])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(resources.files("kbuild.pki").joinpath("rotation.toml").read_text("utf-8"))
