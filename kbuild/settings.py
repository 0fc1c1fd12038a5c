"""Settings from one cascade: default, file, environment, flag; the last one that speaks wins.

A name is the flag's (``ca-years``); in the environment it is ``KBUILD_CA_YEARS``. Unknown names
are errors, so that a misspelt one is never without effect.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path, user_config_path

from kbuild.base.arches import ARCHES
from kbuild.base.errors import (
    BadSetting,
    BadSettingsFile,
    LeafOutlivesCA,
    MissingSetting,
    UnknownSetting,
)
from kbuild.base.files import read_file, reason_of
from kbuild.kubeadm.model import (
    MAX_YEARS,
    STOCK_CA_YEARS,
    STOCK_LEAF_YEARS,
    BuilderChoice,
    BuildRequest,
    GoRequest,
    Layout,
    Lifetimes,
    OutputRequest,
    PackageKind,
    SourceRequest,
    TreeState,
)

UPSTREAM = "https://github.com/kubernetes/kubernetes.git"
GOLANG = "golang"
GO_SITE = "https://go.dev/dl"
RELEASE_SITE = "https://dl.k8s.io/release"
FILE = Path("kbuild.toml")
_MAX_FILE = 16 * 1024  # bytes; a dotted key takes tomllib the square of its length
PREFIX = "KBUILD_"
MAX_STALL = 3600
BUILDERS = ("auto", "docker", "local")
TREE_STATES = ("dirty", "clean", "archive")
LAYOUTS = ("flat", "tree")
PACKAGES = ("deb", "rpm")
SIZE_UNITS = ("B", "kB", "MB", "GB", "TB")  # each 1000 times the one before

_EPOCH = datetime.fromtimestamp(0, UTC)
_LIFETIMES = ("ca_years", "leaf_years")

Parse = Callable[[str, object], object]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        hint = "put it in quotes" if isinstance(value, int | float) else "see --help"
        raise BadSetting(name=name, value=value, reason="it must be some text", hint=hint)
    if "\0" in value:
        raise BadSetting(name=name, value=value, reason="it holds a NUL", hint="leave that out")
    return value.strip()


def _address(name: str, value: object) -> str:
    """Parse an address; one with a space in a password could not be told from other words."""
    text = _text(name, value)
    if "://" in text and re.search(r"[\s\\]", text):
        reason, hint = "an address holds no space and no backslash", "write a space as %20"
        raise BadSetting(name=name, value="…", reason=reason, hint=hint)
    return text


def _source(name: str, value: object) -> str:
    """Parse the address of a source, or its path on this machine."""
    text = _address(name, value)
    if text.startswith("~"):
        _path(name, text)
    return text


def _whole_number(unit: str, most: int, hint: str) -> Parse:
    def parse(name: str, value: object) -> int:
        digits = value if isinstance(value, int) and not isinstance(value, bool) else None
        if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip(), re.ASCII):
            digits = int(value)
        if digits is None or not 1 <= digits <= most:
            reason = f"it must be a whole number of {unit} from 1 to {most}"
            raise BadSetting(name=name, value=value, reason=reason, hint=hint)
        return digits

    return parse


_years = _whole_number(
    "years",
    MAX_YEARS,
    f"a year has 365 days; Go's time.Duration ends at {MAX_YEARS} years",
)
_seconds = _whole_number("seconds", MAX_STALL, "60 is the default")


def _one_of(*choices: str) -> Parse:
    def parse(name: str, value: object) -> str:
        text = _text(name, value)
        if text not in choices:
            raise BadSetting(
                name=name,
                value=value,
                reason=f"it must be one of {', '.join(choices)}",
                hint=_suggestion(text, choices) or "see --help",
            )
        return text

    return parse


def _several(parse: Parse) -> Parse:
    def parse_all(name: str, value: object) -> tuple[object, ...]:
        items = [value] if not isinstance(value, list | tuple) else value
        if not items:
            raise BadSetting(name=name, value=value, reason="it must be a list", hint="see --help")
        single = [
            i for item in items for i in (item.split(",") if isinstance(item, str) else [item])
        ]
        return tuple(dict.fromkeys(parse(name, item) for item in single))

    return parse_all


def _hex(*, least: int, most: int) -> Parse:
    def parse(name: str, value: object) -> str:
        text = _text(name, value).lower()
        if not re.fullmatch(rf"[0-9a-f]{{{least},{most}}}", text):
            digits = str(most) if least == most else f"{least} to {most}"
            reason = f"it must be {digits} hexadecimal digits"
            raise BadSetting(name=name, value=value, reason=reason, hint="copy it whole")
        return text

    return parse


def _path(name: str, value: object) -> Path:
    try:
        path = Path(_text(name, str(value) if isinstance(value, Path) else value)).expanduser()
        os.fsencode(path)
    except RuntimeError:
        reason, hint = "there is no such user", "write the whole path"
    except UnicodeEncodeError:
        reason, hint = "the locale cannot write it", "set LC_ALL to a locale with UTF-8"
    else:
        return path
    raise BadSetting(name=name, value=value, reason=reason, hint=hint)


def _moment(name: str, value: object) -> datetime:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        moment = datetime.min  # noqa: DTZ901  # has no zone, so it is refused below
    if moment.tzinfo is None:
        raise BadSetting(
            name=name,
            value=value,
            reason="it must be a date and time with a zone (RFC 3339)",
            hint="write it like 2026-01-31T12:00:00Z",
        )
    try:
        moment = moment.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        moment = _EPOCH - timedelta(days=1)
    if moment < _EPOCH:
        reason, hint = "it is out of range", "give a time between the years 1970 and 9999"
        raise BadSetting(name=name, value=value, reason=reason, hint=hint)
    return moment


def _switch(name: str, value: object) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if isinstance(value, bool):
        return value
    word = str(value).lower() if isinstance(value, str) or value in (0, 1) else ""
    if word not in known:
        reason, hint = "it must be true or false", "write true or false, without quotes"
        raise BadSetting(name=name, value=value, reason=reason, hint=hint)
    return known[word]


def parse_size(name: str, value: object) -> int:
    """Return the bytes of a size such as 500MB or 5GB; raises BadSetting."""
    powers = {unit.lower(): power for power, unit in enumerate(SIZE_UNITS)}
    pattern = rf"(\d{{1,9}}(?:\.\d{{1,3}})?) ?({'|'.join(powers)})"
    match = re.fullmatch(pattern, str(value).strip().lower(), re.ASCII)
    if match is None:
        hint = "write it like 500MB or 5GB"
        raise BadSetting(name=name, value=value, reason="it must be a size", hint=hint)
    return int(float(match[1]) * 1000 ** powers[match[2]])


def _limit(name: str, value: object) -> int:
    return 0 if str(value).strip() == "0" else parse_size(name, value)


def _setting(parse: Parse, default: object = None) -> Any:  # noqa: ANN401  # as dataclasses.field
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, parsed; None where nobody gave one and there is no default."""

    version: tuple[str, ...] | None = _setting(_several(_text))
    ca_years: int | None = _setting(_years)
    leaf_years: int | None = _setting(_years)
    arch: tuple[str, ...] = _setting(_several(_one_of(*ARCHES)), ("amd64",))
    source: str = _setting(_source, UPSTREAM)
    commit: str | None = _setting(_hex(least=7, most=40))
    source_sha256: str | None = _setting(_hex(least=64, most=64))
    verify_against: str | None = _setting(_source)
    builder: BuilderChoice = _setting(_one_of(*BUILDERS), "auto")
    image: str | None = _setting(_address)
    golang_repository: str = _setting(_address, GOLANG)
    go_version: str | None = _setting(_text)
    go_root: Path | None = _setting(_path)
    go_site: str = _setting(_address, GO_SITE)
    lock: Path = _setting(_path, user_config_path("kbuild") / "golang-images.lock")
    output: Path | None = _setting(_path)
    build_date: datetime | None = _setting(_moment)
    tree_state: TreeState | None = _setting(_one_of(*TREE_STATES))
    stock: bool = _setting(_switch, default=False)
    against_stock: bool = _setting(_switch, default=False)
    independent: bool = _setting(_switch, default=False)
    release_site: str = _setting(_address, RELEASE_SITE)
    layout: Layout = _setting(_one_of(*LAYOUTS), "flat")
    package: tuple[PackageKind, ...] = _setting(_several(_one_of(*PACKAGES)), ())
    stall_timeout: int = _setting(_seconds, 60)
    cache_dir: Path = _setting(_path, user_cache_path("kbuild"))
    cache_limit: int = _setting(_limit, 5 * 1000**3)  # bytes; 0 is no limit
    force: bool = _setting(_switch, default=False)
    dry_run: bool = _setting(_switch, default=False)
    json: bool = _setting(_switch, default=False)
    verbose: bool = _setting(_switch, default=False)
    quiet: bool = _setting(_switch, default=False)
    given: frozenset[str] = frozenset()  # the names that the user gave; not a setting itself

    def required(self, *names: str) -> list[Any]:
        """Return settings that have to be there; raises MissingSetting with all that are not."""
        values = [getattr(self, name) for name in names]
        missing = [name for name, value in zip(names, values, strict=True) if value is None]
        if missing:
            raise MissingSetting(names=", ".join(f"--{_flag(name)}" for name in missing))
        return values

    def lifetimes(self) -> Lifetimes:
        """Return the lifetimes asked for; raises MissingSetting, LeafOutlivesCA or BadSetting."""
        if self.stock:
            self._check_stock()
            return Lifetimes(ca_years=STOCK_CA_YEARS, leaf_years=STOCK_LEAF_YEARS)
        ca_years, leaf_years = self.required("ca_years", "leaf_years")
        if leaf_years > ca_years:
            raise LeafOutlivesCA(ca_years=ca_years, leaf_years=leaf_years)
        return Lifetimes(ca_years=ca_years, leaf_years=leaf_years)

    def requests(self, environment: Mapping[str, str]) -> tuple[BuildRequest, ...]:
        """Return a build request a version; SOURCE_DATE_EPOCH is the clock if no date is given.

        Raises MissingSetting, LeafOutlivesCA or BadSetting.
        """
        [versions, *_] = self.required("version", *(() if self.stock else _LIFETIMES))
        if self.independent and not self.against_stock:
            raise BadSetting(
                name="independent",
                value=self.independent,
                reason="it is about the stock kubeadm of --against-stock",
                hint="give --against-stock too",
            )
        for name in ("commit", "source_sha256"):
            if len(versions) > 1 and getattr(self, name) is not None:
                raise BadSetting(
                    name=_flag(name),
                    value=getattr(self, name),
                    reason="it is of one version, and several are asked for",
                    hint="ask for each version by itself",
                )
        return tuple(self._request(version, environment) for version in versions)

    def _check_stock(self) -> None:
        for name in ("ca_years", "leaf_years", "against_stock"):
            if getattr(self, name):
                raise BadSetting(
                    name=_flag(name),
                    value=getattr(self, name),
                    reason="a stock kubeadm is built as upstream has it",
                    hint=f"leave out --stock or --{_flag(name)}",
                )
        if len(self.arch) > 1:
            raise BadSetting(
                name="arch",
                value=",".join(self.arch),
                reason="each binary of the publisher has a build date of its own",
                hint="ask for each architecture by itself with --stock",
            )

    def _request(self, version: str, environment: Mapping[str, str]) -> BuildRequest:
        return BuildRequest(
            version=version,
            lifetimes=self.lifetimes(),
            arches=self.arch,
            source=SourceRequest(
                address=self.source,
                commit=self.commit,
                sha256=self.source_sha256,
                verify_against=self.verify_against,
            ),
            go=GoRequest(
                builder=self.builder,
                image=self.image,
                repository=self.golang_repository,
                version=self.go_version,
                root=self.go_root,
                site=self.go_site,
                lock=self.lock,
            ),
            output=OutputRequest(
                folder=self.output, layout=self.layout, packages=self.package, force=self.force
            ),
            build_date=self.build_date or _clock(environment),
            tree_state=self.tree_state or ("clean" if self.stock else "dirty"),
            stock=self.stock,
            against_stock=self.against_stock,
            independent=self.independent,
            release_site=self.release_site,
        )


def read_settings(
    flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None
) -> Settings:
    """Resolve the cascade; a flag of None was not given.

    ``file`` None means the one that KBUILD_CONFIG names, else ``kbuild.toml`` in the current folder
    if there is one. Raises
    UnknownSetting, BadSettingsFile or BadSetting.
    """
    given = {
        **_from_file(file or _named_file(environment)),
        **_from_environment(environment),
        **{name: value for name, value in flags.items() if value is not None},
    }
    parsers = {f.name: f.metadata["parse"] for f in _setting_fields()}
    parsed = {name: parsers[name](_flag(name), value) for name, value in given.items()}
    return Settings(**parsed, given=frozenset(parsed))


def names() -> tuple[str, ...]:
    """Return the names of all settings, as flags without the dashes."""
    return tuple(_flag(f.name) for f in _setting_fields())


def _setting_fields() -> list[Field[Any]]:
    return [each for each in fields(Settings) if "parse" in each.metadata]


def _from_file(file: Path | None) -> dict[str, object]:
    path = file or FILE
    try:
        entries = tomllib.loads(read_file(path, _MAX_FILE).decode())
    except FileNotFoundError:
        if file is None:
            return {}
        raise BadSettingsFile(path=path, reason="it does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadSettingsFile(path=path, reason=reason_of(error)) from error
    return {_known(name, names(), str(path)): value for name, value in entries.items()}


def _named_file(environment: Mapping[str, str]) -> Path | None:
    named = environment.get(f"{PREFIX}CONFIG")
    return Path(named) if named else None


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    known = tuple(PREFIX + name.upper().replace("-", "_") for name in names())
    config = f"{PREFIX}CONFIG"
    return {
        _known(name, (*known, config), "the environment").removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and name != config and value
    }


def _known(name: str, known: tuple[str, ...], where: str) -> str:
    if name not in known:
        suggestion = _suggestion(name, known) or f"the known ones are {', '.join(known)}"
        raise UnknownSetting(where=where, name=name, suggestion=suggestion)
    return name.replace("-", "_")


def _suggestion(text: str, choices: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(text, choices, n=1)
    return f"did you mean {close[0]}?" if close else ""


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _clock(environment: Mapping[str, str]) -> datetime | None:
    epoch = environment.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return None
    try:
        moment = datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError):
        moment = _EPOCH - timedelta(days=1)
    if moment < _EPOCH:
        raise BadSetting(
            name="SOURCE_DATE_EPOCH",
            value=epoch,
            reason="it must be seconds since 1970",
            hint="unset it, or give the time with --build-date",
        )
    return moment
