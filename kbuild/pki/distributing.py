"""Who must get which files that were written, and restarts in which order: rotation.toml."""

import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from kbuild.pki.model import Plan, Spec, Written
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
    """Yield what each component must get after a step of a rotation, in the order of restarts.

    ``with_leaves`` tells whether certificates were issued again, not only CAs changed.
    """
    turned = tuple(cas)
    signing = {
        each.spec.name: signing_file(each.spec) if each.is_on else each.spec.place
        for each in turned
    }
    leaves = [each for each in plan.specs if each.issuer in signing] if with_leaves else []
    files = {each.name: each.files for each in leaves}
    for each in plan.specs:
        if each.login is not None and each.login.ca in signing:
            files.setdefault(each.name, (each.login.path,))
    specs = [each.spec for each in turned]
    both = _Batch(plan=plan, cas=specs, signing=signing, files=files, is_change=True)
    yield from both.deliveries()


def deliveries_of(plan: Plan, written: Collection[Written]) -> Iterator[Delivery]:
    """Yield what each component must get of what a run has written, in the order of restarts."""
    paths = {path for each in written for path in each.files}
    found = {each.name: tuple(path for path in each.files if path in paths) for each in plan.items}
    cas = [each for each in plan.specs if not each.issuer and found[each.name]]
    roots = {each.name: each.place for each in cas}
    files = {name: new for name, new in found.items() if new and name not in roots}
    is_change = any(each.state == "extended" for each in written)
    both = _Batch(plan=plan, cas=cas, signing=roots, files=files, is_change=is_change)
    for each in both.deliveries():
        trusted = {path: options for path, options in each.trusted.items() if path in paths}
        if trusted or each.files or is_change:
            yield replace(each, trusted=trusted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """What is to be distributed: CAs, each with the file of the one that signs, and other files.

    ``is_change`` tells whether the CAs replace others, which programs may trust that kbuild does
    not know.
    """

    plan: Plan
    cas: Sequence[Spec]
    signing: Mapping[str, Path]
    files: Mapping[str, tuple[Path, ...]]
    is_change: bool

    def deliveries(self) -> Iterator[Delivery]:
        if unknown := self._files_of([""]):
            yield Delivery(
                component="whoever uses them",
                trusted={},
                files=unknown,
                restart="with the components below" if self.signing else "restart what reads them",
            )
        for user in _users():
            trusted: dict[Path, tuple[str, ...]] = {}
            for path, options in self._trusted(user):
                trusted[path] = (*trusted.get(path, ()), *options)
            files = self._files_of(user.components)
            is_user = any(_purposes_of(each) & set(user.options) for each in self.cas)
            if trusted or files or (is_user and self.is_change):
                yield Delivery(
                    component=user.name, trusted=trusted, files=files, restart=user.restart
                )

    def _files_of(self, components: Collection[str]) -> tuple[Path, ...]:
        found = [
            path
            for each in self.plan.items
            if each.component in components
            for path in self.files.get(each.name, ())
        ]
        return tuple(dict.fromkeys(found))

    def _trusted(self, user: _User) -> Iterator[tuple[Path, tuple[str, ...]]]:
        for each in self.cas:
            purposes = [name for name in _PURPOSES if name in _purposes_of(each)]
            if options := [word for name in purposes for word in user.options.get(name, ())]:
                yield each.place, tuple(options)
            signs = [word for name in purposes for word in user.signs.get(name, ())]
            if signs and each.key is not None and not signing_problem(self.plan, each):
                yield self.signing[each.name], tuple(signs[:1])
                yield each.key, tuple(signs[1:])


def _purposes_of(ca: Spec) -> set[str]:
    return set(ca.purposes or _PURPOSES)


def facts_to_know(plan: Plan, cas: Iterable[Turned]) -> Iterator[str]:
    """Yield what else must be done after a step, or before the next one."""
    turned = tuple(cas)
    for note in _table()["note"]:
        found = [
            each
            for each in turned
            if each.after in note["after"]
            and _purposes_of(each.spec) & set(note["purposes"])
            and not (note.get("signs") and signing_problem(plan, each.spec))
            and note.get("loses") in (None, _loses_signer(plan, each))
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


def _loses_signer(plan: Plan, turned: Turned) -> bool:
    """Tell whether the controller manager can sign with the old CA, and not with the new one."""
    old = replace(turned.spec, key_uri=None, key=turned.old_key_file)
    if not turned.is_on or turned.old_key or signing_problem(plan, old):
        return False
    if turned.after == "begin":  # what is there is the key of the old CA
        return bool(turned.new_key) or plan.encrypts_ca_keys
    return bool(signing_problem(plan, turned.spec))


def _some(names: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(names))


def _users() -> Iterator[_User]:
    return (_User(**entry) for entry in _table()["user"])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(resources.files("kbuild.pki").joinpath("rotation.toml").read_text("utf-8"))
