"""Declare settings once, and resolve them: flag, environment, settings file, default.

The settings of a command are the fields of a dataclass, each made by ``option``. A field defines a
flag (``--ca-years``), a key of kbuild.toml (``ca-years``, at the top level or in the table of the
command), and a variable of the environment (``KBUILD_CA_YEARS``, or for one command
``KBUILD_KUBEADM_CA_YEARS``). Unknown names are errors, so a misspelt name never goes unnoticed.
"""

import json
import os
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from kbuild.base.errors import BadSetting, BadSettingsFile, MissingSetting, UnknownSetting
from kbuild.base.files import read_file, reason_of
from kbuild.base.values import OneOf, Parse, did_you_mean, several, switch

FILE = Path("kbuild.toml")
PREFIX = "KBUILD_"
CONFIG = f"{PREFIX}CONFIG"
_MAX_FILE = 24 * 1024  # bytes; a dotted key takes tomllib the square of its length
_ALL_OF_THEM = "`kbuild config-file` shows every setting"
_LONG_PATH = 30  # characters that --help has room for in 80 columns
_NO_DEFAULT = "  # example; no default"
_ABOUT = """\
Every option of kbuild, with its default. Remove the # of an option to change it.
At the top level, an option applies to every command that has it. In the table of a command, it
applies to that command and overrides the top level. A flag (--ca-years) or an environment variable
(KBUILD_CA_YEARS, or for one command KBUILD_KUBEADM_CA_YEARS) overrides this file."""

# The words of a command or a group of commands; empty for the top level of the file.
Level = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A setting as declared.

    ``metavar`` is empty for a switch. ``choices`` are the only values, if they are a fixed set. A
    ``single`` setting is repeatable in other commands, and
    this command takes one value of it. ``default_text`` is the default as the user writes it.
    ``example`` is a value for a setting without a default. An ``own`` setting has another meaning
    than the setting of the same name of other commands, so it is not read from the top level of the
    file or from the variable for all commands. A ``trust`` setting decides who is trusted, so it is
    not read from a kbuild.toml that the user did not name: it may be part of a download.
    """

    parse: Parse
    default: Any
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    short: str = ""
    panel: str | None = None
    repeatable: bool = False
    single: bool = False
    default_text: str = ""
    example: Any = None
    own: bool = False
    trust: bool = False

    @property
    def is_switch(self) -> bool:
        """Return whether the flag takes no value."""
        return self.parse is switch

    @property
    def full_help(self) -> str:
        """Return the help of the flag, with its default."""
        parts = [self.help]
        if self.repeatable and not self.single:
            parts.append("Repeatable.")
        if self.default not in (None, False, ()):
            values = self.default if self.repeatable else [self.default]
            text = self.default_text or ", ".join(map(_in_words, values))
            # A full stop would look like a part of an address.
            parts.append(f"Default: {text}" if "://" in text else f"Default: {text}.")
        return " ".join(parts)


def option(parse: Parse, about: str, *, default: Any = None, **more: Any) -> Any:  # noqa: ANN401  # as dataclasses.field
    """Declare a setting: a field of a dataclass; ``more`` are fields of Option."""
    choices = parse.choices if isinstance(parse, OneOf) else ()
    parse = several(parse) if more.get("repeatable") else parse
    declared = Option(parse=parse, default=default, help=about, choices=choices, **more)
    return field(default=default, metadata={"option": declared})


@dataclass(frozen=True, kw_only=True)
class CommandSettings:
    """The parsed settings of a command; None for a setting without value and default.

    ``given`` is the origin of each setting that the user gave, for error messages. ``needed`` is
    what the help says of each setting that the command requires, if only by a variable or a file.
    """

    command: ClassVar[str]
    needed: ClassVar[Mapping[str, str]] = {}
    given: Mapping[str, str] = field(default_factory=dict, compare=False)

    def required(self, *names: str) -> list[Any]:
        """Return settings that are required; raises MissingSetting that names all missing ones."""
        values = [getattr(self, name) for name in names]
        missing = [name for name, value in zip(names, values, strict=True) if value is None]
        if missing:
            raise MissingSetting(names=", ".join(map(flag, missing)))
        return values

    def origin(self, name: str) -> str:
        """Return the origin of a setting: a flag, a variable, or a key in a file."""
        return self.given.get(name, flag(name))


S = TypeVar("S", bound=CommandSettings)
Kinds = tuple[type[CommandSettings], ...]


class _Entry(NamedTuple):
    level: Level
    name: str
    value: object
    origin: str


def flag(name: str) -> str:
    """Return the flag of a setting."""
    return f"--{key(name)}"


def key(name: str) -> str:
    """Return the name of a setting in files; one that is a word of Python ends in ``_``."""
    return name.rstrip("_").replace("_", "-")


def options(kind: type[CommandSettings]) -> dict[str, Option]:
    """Return the settings of a command by name."""
    return {f.name: f.metadata["option"] for f in fields(kind) if "option" in f.metadata}


def resolve(
    kind: type[S],
    kinds: Kinds,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    file: Path | None,
) -> S:
    """Resolve the settings of one of the commands; a flag of None was not given.

    If ``file`` is None, it is the file in KBUILD_CONFIG, or ``kbuild.toml`` in the current
    directory if it exists. Settings of other commands are checked too. Raises UnknownSetting,
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
                reason = "it decides who is trusted, and you did not name this file"
                hint = f"if the file is yours, name it: --config {FILE}"
                raise BadSetting(name=origin, value=value, reason=reason, hint=hint)
            values[name], given[name] = parsed, origin
    return kind(**values, given=given)


def _variables(known: Mapping[Level, Mapping[str, Option]]) -> dict[str, tuple[Level, str]]:
    return {
        PREFIX + "_".join((*level, key(name))).upper().replace("-", "_"): (level, name)
        for level, names in known.items()
        for name in names
    }


@cache
def _known(kinds: Kinds) -> dict[Level, dict[str, Option]]:
    """Return the settings that each level may contain."""
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
        if file is None:
            _demand_trusted_owner(path)
        table = tomllib.loads(read_file(path, _MAX_FILE).decode("utf-8-sig"))
    except FileNotFoundError:
        if file is None:
            return []
        raise BadSettingsFile(path=path, reason="it does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadSettingsFile(path=path, reason=reason_of(error)) from error
    # The setting of one command overrides the others, wherever it is in the file.
    return sorted(_in_table(table, (), path, known), key=lambda entry: len(entry.level))


def _demand_trusted_owner(path: Path) -> None:
    """Raise BadSettingsFile for a file that somebody left in a directory of others, such as /tmp.

    Whoever owns the directory may decide what is in it: a container runs as root in a checkout of
    another user.
    """
    trusted = {os.geteuid(), 0, path.absolute().parent.stat().st_uid}
    if not {path.lstat().st_uid, path.stat().st_uid} <= trusted:
        reason = "it belongs to another user; if you trust it, name it with --config"
        raise BadSettingsFile(path=path, reason=reason)


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
            # All names have the same prefix, so only the rest is compared.
            rest = [name.removeprefix(PREFIX) for name in (*theirs, CONFIG)]
            close = did_you_mean(variable.removeprefix(PREFIX), rest, prefix=PREFIX)
            hint = close or _ALL_OF_THEM
            raise UnknownSetting(where="the environment", name=variable, suggestion=hint)
        entries.append(_Entry(*theirs[variable], value, variable))
    return sorted(entries, key=lambda entry: len(entry.level))


def example(kinds: Kinds) -> str:
    """Return a settings file with every setting of every command, commented out."""
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
    # JSON strings, numbers, lists and booleans are valid TOML.
    return json.dumps(value, ensure_ascii=False, default=_short)


def _in_words(value: object) -> str:
    """Return a default for --help, where rich cuts a word that is wider than its column."""
    if value == Path():  # two full stops would be the parent directory
        return "the current directory"
    if isinstance(value, Path) and len(_short(value)) > _LONG_PATH:
        return f"{value.name} in {_short(value.parent)}"
    return _short(value)


def _short(value: object) -> str:
    """Return a value as text; a path below the home directory begins with ``~``."""
    home = os.path.expanduser("~")  # noqa: PTH111  # Path.home() fails without one
    text = str(value)
    return f"~{text.removeprefix(home)}" if text.startswith(f"{home}/") else text
