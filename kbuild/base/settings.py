"""Declare settings once, and resolve them: flag, environment, settings file, default.

The settings of a command are a dataclass, each a field made by ``option``. From it come the flags
(``--ca-years``), the keys of kbuild.toml (``ca-years``, at its top or in the table of the command),
and the variables of the environment (``KBUILD_CA_YEARS``, or for one command
``KBUILD_KUBEADM_CA_YEARS``). Unknown names are errors, so that a misspelt one never has no effect.
"""

import json
import os
import textwrap
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from kbuild.base.errors import BadSetting, BadSettingsFile, MissingSetting, UnknownSetting
from kbuild.base.files import read_file, reason_of
from kbuild.base.values import Parse, did_you_mean, several, switch

FILE = Path("kbuild.toml")
PREFIX = "KBUILD_"
CONFIG = f"{PREFIX}CONFIG"
_MAX_FILE = 16 * 1024  # bytes; a dotted key takes tomllib the square of its length
_ALL_OF_THEM = "`kbuild config-file` shows every setting"
_NO_DEFAULT = "  # example; no default"
_ABOUT = """\
Every setting of kbuild, with its default. Remove the # of those that you change.
Above the first table a setting holds for every command that has it; in the table of a command it
holds for that command, and wins. A flag (--ca-years) or a variable of the environment
(KBUILD_CA_YEARS, or for one command KBUILD_KUBEADM_CA_YEARS) wins over this file."""

# The words of a command, or of the group that it is in; none are the top of the file.
Level = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A setting as declared.

    ``metavar`` is empty for a switch. ``default_text`` is the default as the user writes it.
    ``example`` is a value of a setting that has no default.
    ``own`` settings mean something else than those of the same name of other commands, so they are
    not read from the top of the file, nor from the variable that names no command. ``trust``
    settings decide who is trusted, so they are read from no file that nobody named: a kbuild.toml
    may lie beside the release that is to be checked.
    """

    parse: Parse
    default: Any
    help: str
    metavar: str = ""
    short: str = ""
    panel: str | None = None
    repeatable: bool = False
    default_text: str = ""
    example: Any = None
    own: bool = False
    trust: bool = False

    @property
    def is_switch(self) -> bool:
        """Tell whether the flag has no value."""
        return self.parse is switch

    @property
    def full_help(self) -> str:
        """Return the help of the flag, with its default."""
        parts = [self.help]
        if self.repeatable:
            parts.append("Repeatable.")
        if self.default not in (None, False, ()):
            values = self.default if self.repeatable else [self.default]
            text = self.default_text or ", ".join(map(_short, values))
            parts.append(f"Default: {text}.")
        return " ".join(parts)


def option(parse: Parse, about: str, *, default: Any = None, **more: Any) -> Any:  # noqa: ANN401  # as dataclasses.field
    """Declare a setting: a field of a dataclass; ``more`` are fields of Option."""
    parse = several(parse) if more.get("repeatable") else parse
    declared = Option(parse=parse, default=default, help=about, **more)
    return field(default=default, metadata={"option": declared})


@dataclass(frozen=True, kw_only=True)
class CommandSettings:
    """The settings of a command, parsed; None where nobody gave one and there is no default.

    ``given`` says where each that the user gave comes from, in the words of an error message.
    """

    command: ClassVar[str]
    given: Mapping[str, str] = field(default_factory=dict, compare=False)

    def required(self, *names: str) -> list[Any]:
        """Return settings that have to be there; raises MissingSetting with all that are not."""
        values = [getattr(self, name) for name in names]
        missing = [name for name, value in zip(names, values, strict=True) if value is None]
        if missing:
            raise MissingSetting(names=", ".join(map(flag, missing)))
        return values

    def origin(self, name: str) -> str:
        """Return where a setting comes from: the flag, the variable, or the key in its file."""
        return self.given.get(name, flag(name))


S = TypeVar("S", bound=CommandSettings)
Kinds = Collection[type[CommandSettings]]


class _Entry(NamedTuple):
    level: Level
    name: str
    value: object
    origin: str


def flag(name: str) -> str:
    """Return the flag of a setting."""
    return f"--{key(name)}"


def key(name: str) -> str:
    """Return the name of a setting as files have it."""
    return name.replace("_", "-")


def options(kind: type[CommandSettings]) -> dict[str, Option]:
    """Return the settings of a command by their names."""
    return {f.name: f.metadata["option"] for f in fields(kind) if "option" in f.metadata}


def resolve(
    kind: type[S],
    kinds: Kinds,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    file: Path | None,
) -> S:
    """Resolve the settings of one of the commands; a flag of None was not given.

    ``file`` None means the one that KBUILD_CONFIG names, else ``kbuild.toml`` in the current folder
    if there is one. What is for other commands is checked too. Raises UnknownSetting,
    BadSettingsFile or BadSetting.
    """
    known, mine, command = _known(kinds), options(kind), tuple(kind.command.split())
    named = environment.get(CONFIG)
    entries = [
        *_from_file(file or (Path(named) if named else None), known),
        *_from_environment(environment, known),
        *(
            _Entry(command, n, value, flag(n))
            for n, value in flags.items()
            if n in mine and value is not None
        ),
    ]
    values, given = {}, {}
    for level, name, value, origin in entries:
        parsed = known[level][name].parse(origin, value)
        if name in mine and command[: len(level)] == level and len(level) >= mine[name].own:
            if mine[name].trust and file is None and not named and origin.startswith(f"{FILE}: "):
                reason = "it decides who is trusted, and nobody named this file"
                hint = f"if the file is yours, name it: --config {FILE}"
                raise BadSetting(name=origin, value=value, reason=reason, hint=hint)
            values[name], given[name] = parsed, origin
    return kind(**values, given=given)


def _variables(known: Mapping[Level, Mapping[str, Option]]) -> dict[str, tuple[Level, str]]:
    return {
        PREFIX + "_".join((*level, name)).upper().replace("-", "_"): (level, name)
        for level, names in known.items()
        for name in names
    }


def _known(kinds: Kinds) -> dict[Level, dict[str, Option]]:
    """Return what may be given at each level."""
    known: dict[Level, dict[str, Option]] = {(): {}}
    for kind in kinds:
        words = tuple(kind.command.split())
        for name, declared in options(kind).items():
            for depth in range(declared.own, len(words) + 1):
                known.setdefault(words[:depth], {}).setdefault(name, declared)
    return known


def _from_file(file: Path | None, known: Mapping[Level, Mapping[str, Option]]) -> list[_Entry]:
    path = file or FILE
    try:
        table = tomllib.loads(read_file(path, _MAX_FILE).decode())
    except FileNotFoundError:
        if file is None:
            return []
        raise BadSettingsFile(path=path, reason="it does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadSettingsFile(path=path, reason=reason_of(error)) from error
    # What is for one command wins, wherever in the file it is.
    return sorted(_in_table(table, (), path, known), key=lambda entry: len(entry.level))


def _in_table(
    table: Mapping[str, object],
    level: Level,
    path: Path,
    known: Mapping[Level, Mapping[str, Option]],
) -> Iterator[_Entry]:
    where = f"[{'.'.join(level)}]" if level else ""
    keys = {key(name): name for name in known[level]}
    for word, value in table.items():
        origin = f"{path}: {where} {word}" if where else f"{path}: {word}"
        if (inner := (*level, word)) in known:
            if not isinstance(value, dict):
                reason, hint = "it is a command", f"write its settings below [{'.'.join(inner)}]"
                raise BadSetting(name=origin, value=value, reason=reason, hint=hint)
            yield from _in_table(value, inner, path, known)
        elif word in keys:
            yield _Entry(level, keys[word], value, origin)
        else:
            tables = [inner[-1] for inner in known if inner and inner[:-1] == level]
            close = did_you_mean(word, [*keys, *tables])
            every = f"the keys of {where} are {', '.join(keys)}" if where else _ALL_OF_THEM
            hint = f"{close} {every}".strip() if where else close or every
            raise UnknownSetting(where=f"{path} {where}".strip(), name=word, suggestion=hint)


def _from_environment(
    environment: Mapping[str, str], known: Mapping[Level, Mapping[str, Option]]
) -> list[_Entry]:
    theirs = _variables(known)
    entries = []
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable == CONFIG or not value:
            continue
        if variable not in theirs:
            # All begin alike, so only the rest tells how close a name is.
            rest = [name.removeprefix(PREFIX) for name in (*theirs, CONFIG)]
            close = did_you_mean(variable.removeprefix(PREFIX), rest, prefix=PREFIX)
            hint = close or _ALL_OF_THEM
            raise UnknownSetting(where="the environment", name=variable, suggestion=hint)
        entries.append(_Entry(*theirs[variable], value, variable))
    return sorted(entries, key=lambda entry: len(entry.level))


def example(kinds: Kinds) -> str:
    """Return a settings file of every setting of every command, each behind a ``#``."""
    uses: dict[int, list[str]] = {}
    for kind in kinds:
        for declared in options(kind).values():
            uses.setdefault(id(declared), []).append(kind.command)
    lines, seen = [*_comment(_ABOUT)], set[int]()
    for kind in kinds:
        for name, declared in options(kind).items():
            if len(uses[id(declared)]) > 1 and id(declared) not in seen:
                seen.add(id(declared))
                lines += _example_of(name, declared)
    for kind in kinds:
        shared = [key(name) for name, each in options(kind).items() if id(each) in seen]
        about = f"kbuild {kind.command}, which also has {', '.join(shared)}"
        lines += ["", f"[{'.'.join(kind.command.split())}]", *_comment(about)]
        for name, declared in options(kind).items():
            if id(declared) not in seen:
                lines += _example_of(name, declared)
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [
        f"# {line}"
        for part in text.splitlines()
        for line in textwrap.wrap(part, 98, break_on_hyphens=False)
    ]


def _example_of(name: str, declared: Option) -> list[str]:
    value = declared.example or declared.default_text or declared.default
    note = _NO_DEFAULT if declared.example else ""
    return ["", *_comment(declared.help), f"#{key(name)} = {_toml(value)}{note}"]


def _toml(value: object) -> str:
    # JSON's texts, numbers, lists, true and false are TOML's.
    return json.dumps(value, ensure_ascii=False, default=_short)


def _short(value: object) -> str:
    """Return a value as text, a path below the home folder with ``~``."""
    home = os.path.expanduser("~")  # noqa: PTH111  # Path.home() fails where there is none
    text = str(value)
    return f"~{text.removeprefix(home)}" if text.startswith(f"{home}/") else text
