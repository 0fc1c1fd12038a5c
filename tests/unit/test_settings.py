import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.base.errors import (
    BadSetting,
    BadSettingsFile,
    LeafOutlivesCA,
    MissingSetting,
    UnknownSetting,
)
from kbuild.base.settings import key, options
from kbuild.settings import (
    KINDS,
    CachePruneSettings,
    CheckSettings,
    Common,
    PinsCheckSettings,
    PinsUpdateSettings,
    Settings,
    SignSettings,
    VerifySettings,
    VersionsSettings,
    example_file,
    names,
    read_settings,
)

EVERY_OPTION = [(kind, name) for kind in KINDS for name in options(kind)]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def flags(**values: object) -> dict[str, object]:
    return {"version": "1.23", "ca_years": "100", "leaf_years": "10", **values}


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (CheckSettings, "check.key = 'cosign.pub'"),
        (CheckSettings, "check.identity = 'me@example.org'"),
        (CheckSettings, "issuer = 'https://accounts.example.org'"),
        (CheckSettings, "trust-config = 'trust.json'"),
        (SignSettings, "[sign]\ntrust-config = 'trust.json'"),
    ],
)
def test_a_settings_file_that_nobody_named_decides_not_who_is_trusted(
    kind: type[Common], line: str
) -> None:
    file = Path("kbuild.toml")  # it may be part of the download that is checked
    file.write_text(f"{line}\n")
    with pytest.raises(BadSetting, match="you did not name this file") as caught:
        read_settings(kind, {}, {}, None)
    assert "--config kbuild.toml" in caught.value.hint
    assert read_settings(kind, {}, {}, file).given
    assert read_settings(kind, {}, {"KBUILD_CONFIG": "kbuild.toml"}, None).given
    assert not read_settings(VersionsSettings, {}, {}, None).given


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() -> None:
    Path("kbuild.toml").write_text('ca-years = 30\nleaf-years = 3\nbuilder = "local"\n')
    settings = read_settings(
        Settings,
        {"ca_years": "50"},
        {"KBUILD_LEAF_YEARS": "5", "KBUILD_CA_YEARS": "40", "PATH": "/"},
        None,
    )
    assert (settings.ca_years, settings.leaf_years, settings.builder) == (50, 5, "local")
    assert settings.layout == "flat"


def test_config_may_be_named_by_flag_or_environment(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text('arch = ["arm64", "amd64", "arm64"]\n')
    assert read_settings(Settings, {}, {"KBUILD_CONFIG": str(path)}, None).arch == (
        "arm64",
        "amd64",
    )
    assert read_settings(Settings, {}, {}, path).arch == ("arm64", "amd64")


def test_a_config_that_was_named_must_exist() -> None:
    with pytest.raises(BadSettingsFile, match="does not exist"):
        read_settings(Settings, {}, {}, Path("absent.toml"))


@pytest.mark.parametrize("text", ["ca-years = ", "\x00", "= 3"])
def test_a_broken_file_is_named(text: str) -> None:
    Path("kbuild.toml").write_text(text)
    with pytest.raises(BadSettingsFile, match=r"kbuild\.toml"):
        read_settings(Settings, {}, {}, None)


def example_of(kind: type[Common], name: str) -> object:
    """Return a value of a setting that is not its default, as TOML and JSON have it."""
    declared = options(kind)[name]
    if declared.is_switch:
        return True
    others = {"arch": ["arm"], "builder": "local", "layout": "tree", "package": ["rpm"]}
    others["for_"] = "living"
    numbers = {"stall_timeout": 7, "cache_limit": "7GB", "parallel": 7, "max_fail": 7}
    return declared.example or {**others, **numbers}.get(name, "/other")


def table_of(kind: type[Common]) -> str:
    return ".".join(kind.command.split())


def variable_of(kind: type[Common], name: str, *, own: bool) -> str:
    words = [*kind.command.split(), key(name)] if own else [key(name)]
    return "KBUILD_" + "_".join(words).upper().replace("-", "_")


@pytest.mark.parametrize(("kind", "name"), EVERY_OPTION, ids=str)
def test_every_option_of_every_command_works_in_the_file_and_in_the_environment(
    kind: type[Common], name: str
) -> None:
    value = example_of(kind, name)
    text = value if isinstance(value, str) else json.dumps(value).strip("[]").replace('"', "")
    wanted = options(kind)[name].parse("x", value)
    assert wanted != options(kind)[name].default
    assert wanted == getattr(read_settings(kind, {name: text}, {}, None), name)
    own = {variable_of(kind, name, own=True): text}
    assert getattr(read_settings(kind, {}, own, None), name) == wanted
    Path("kbuild.toml").write_text(f"[{table_of(kind)}]\n{key(name)} = {json.dumps(value)}\n")
    # What decides who is trusted is read from a file that somebody named.
    file = Path("kbuild.toml") if options(kind)[name].trust else None
    assert getattr(read_settings(kind, {}, {}, file), name) == wanted
    if not options(kind)[name].own:
        Path("kbuild.toml").write_text(f"{key(name)} = {json.dumps(value)}\n")
        assert getattr(read_settings(kind, {}, {}, file), name) == wanted
        Path("kbuild.toml").unlink()
        common = {variable_of(kind, name, own=False): text}
        assert getattr(read_settings(kind, {}, common, None), name) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), EVERY_OPTION, ids=str)
def test_the_table_of_a_command_sets_nothing_for_others(kind: type[Common], name: str) -> None:
    value = json.dumps(example_of(kind, name))
    Path("kbuild.toml").write_text(f"[{table_of(kind)}]\n{key(name)} = {value}\n")
    for other in KINDS:
        if other is not kind and not other.command.startswith(f"{kind.command} "):
            assert name not in read_settings(other, {}, {}, None).given


def test_a_flag_beats_the_environment_which_beats_the_table_which_beats_the_top() -> None:
    Path("kbuild.toml").write_text("[versions]\nsince = '1.22'\n")
    top = "since = '1.21'\n"
    assert read_settings(VersionsSettings, {}, {}, None).since == "1.22"
    Path("kbuild.toml").write_text(f"{top}[versions]\nsince = '1.22'\n")
    assert read_settings(VersionsSettings, {}, {}, None).since == "1.22"
    environment = {"KBUILD_VERSIONS_SINCE": "1.24", "KBUILD_SINCE": "1.23"}
    assert read_settings(VersionsSettings, {}, {"KBUILD_SINCE": "1.23"}, None).since == "1.23"
    assert read_settings(VersionsSettings, {}, environment, None).since == "1.24"
    assert read_settings(VersionsSettings, {"since": "1.25"}, environment, None).since == "1.25"


def test_the_table_of_a_group_is_for_each_of_its_commands() -> None:
    Path("kbuild.toml").write_text("pins.golang-repository = 'a'\n[pins.update]\ndry-run = true\n")
    assert read_settings(PinsCheckSettings, {}, {}, None).golang_repository == "a"
    update = read_settings(PinsUpdateSettings, {}, {"KBUILD_PINS_LOCK": "x"}, None)
    assert (update.golang_repository, update.dry_run, update.lock) == ("a", True, Path("x"))
    assert read_settings(Settings, {}, {}, None).golang_repository == "golang"


def test_what_the_next_build_is_no_release_must_be() -> None:
    Path("kbuild.toml").write_text('version = ["1.20", "1.21"]\nca-years = 5\narch = "arm"\n')
    found = read_settings(CheckSettings, {}, {"KBUILD_LEAF_YEARS": "5"}, None)
    assert (found.version, found.ca_years, found.leaf_years, found.arch) == (None, None, None, ())
    environment = {"KBUILD_CHECK_LEAF_YEARS": "5", "KBUILD_KEY": "cosign.pub"}
    found = read_settings(CheckSettings, {}, environment, None)
    assert (found.leaf_years, found.key) == (5, Path("cosign.pub"))


def test_a_name_means_one_thing_wherever_it_is_shared() -> None:
    known: dict[tuple[str, ...], object] = {}
    for kind in KINDS:
        words = tuple(kind.command.split())
        for name, declared in options(kind).items():
            for depth in range(declared.own, len(words) + 1):
                meaning = (declared.repeatable or declared.parse, declared.metavar)
                assert known.setdefault((*words[:depth], key(name)), meaning) == meaning
    # A table and a key of the same name could not be told from each other.
    assert not known.keys() & {tuple(kind.command.split()) for kind in KINDS}


def test_the_example_holds_the_defaults() -> None:
    text = example_file()
    assert len(text) < 24 * 1024 - 2000
    file = Path("all.toml")
    lines = [
        line.removeprefix("#") if line.startswith("#") and line[1:2] != " " else line
        for line in text.splitlines()
    ]
    file.write_text("\n".join(line for line in lines if "no default" not in line))
    for kind in KINDS:
        assert read_settings(kind, {}, {}, file) == kind()
    file.write_text("\n".join(lines))
    for kind in KINDS:
        found = read_settings(kind, {}, {}, file)
        assert set(found.given) == set(options(kind))
        for name, declared in options(kind).items():
            assert f"# {declared.help.split()[0]}" in text
            example = declared.example
            wanted = declared.parse("x", example) if example else declared.default
            assert getattr(found, name) == wanted


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        (
            "ca-year = 30",
            "kbuild.toml names an unknown setting 'ca-year'",
            "did you mean ca-years?",
        ),
        ("ca_years = 30", "'ca_years'", "did you mean ca-years?"),
        ("frob = 30", "'frob'", "`kbuild config-file` shows every setting"),
        ("[chek]", "'chek'", "did you mean check?"),
        ("[pins.updates]", "kbuild.toml [pins] names", "did you mean update?"),
        ("[sign]\nsince = 'x'", "kbuild.toml [sign] names", "the keys of [sign] are json, verbose"),
        (
            "[cache.prune]\nmax-sise = 1",
            "[cache.prune] names",
            "did you mean max-size? the keys of",
        ),
        ("[check]\nkeyless = true", "[check] names an unknown setting 'keyless'", "key, identity"),
    ],
)
def test_an_unknown_key_is_an_error_that_helps(text: str, what: str, hint: str) -> None:
    Path("kbuild.toml").write_text(text)
    with pytest.raises(UnknownSetting) as caught:
        read_settings(SignSettings, {}, {}, None)
    assert what in caught.value.happened
    assert hint in caught.value.hint


def test_a_command_is_no_setting() -> None:
    Path("kbuild.toml").write_text("check = true")
    with pytest.raises(BadSetting, match=r"kbuild\.toml: check cannot be true: it is a command"):
        read_settings(Settings, {}, {}, None)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("KBUILD_LEAVE_YEARS", "did you mean KBUILD_LEAF_YEARS?"),
        ("KBUILD_SINC", "did you mean KBUILD_SINCE?"),
        ("KBUILD_CACHE_PRUNE_MAXSIZE", "did you mean KBUILD_CACHE_PRUNE_MAX_SIZE?"),
        ("KBUILD_FROB", "`kbuild config-file` shows every setting"),
    ],
)
def test_an_unknown_variable_is_an_error_that_helps(variable: str, hint: str) -> None:
    with pytest.raises(UnknownSetting) as caught:
        read_settings(Settings, {}, {variable: "1"}, None)
    assert caught.value.hint == hint


def test_a_wrong_value_is_named_with_where_it_comes_from() -> None:
    def told(kind: type[Common], flag: str | None = None, **environment: str) -> str:
        with pytest.raises(BadSetting) as caught:
            read_settings(kind, {"max_size": flag}, environment, None)
        return caught.value.happened.partition(" cannot be")[0]

    assert told(CachePruneSettings, "x") == "--max-size"
    assert told(CachePruneSettings, KBUILD_MAX_SIZE="x") == "KBUILD_MAX_SIZE"
    assert told(Settings, KBUILD_CACHE_PRUNE_MAX_SIZE="x") == "KBUILD_CACHE_PRUNE_MAX_SIZE"
    Path("kbuild.toml").write_text("max-size = 5")
    assert told(CachePruneSettings) == "kbuild.toml: max-size"
    Path("kbuild.toml").write_text("[cache.prune]\nmax-size = {a = 1}")
    assert told(CachePruneSettings) == "kbuild.toml: [cache.prune] max-size"


def test_what_settings_say_of_each_other_names_where_they_come_from() -> None:
    Path("kbuild.toml").write_text("[kubeadm]\nca-years = 9\nversion = 'v1.20.2'")
    with pytest.raises(
        BadSetting, match=r"kbuild\.toml: \[kubeadm\] ca-years cannot be 9: a stock"
    ):
        read_settings(Settings, {"stock": True}, {}, None).requests({})


@pytest.mark.parametrize("years", ["0", "-1", "293", "1.5", "", "ten", "1e2", True, 2.5, "١"])
@pytest.mark.parametrize("name", ["ca_years", "leaf_years"])
def test_years_out_of_range_are_refused(name: str, years: object) -> None:
    with pytest.raises(BadSetting) as caught:
        read_settings(Settings, flags(**{name: years}), {}, None)
    assert caught.value.exit_code == 2
    assert "1 to 292" in caught.value.happened


@pytest.mark.slow
@given(st.integers(1, 292), st.integers(1, 292))
def test_the_leaf_never_outlives_the_ca(ca_years: int, leaf_years: int) -> None:
    settings = Settings(ca_years=ca_years, leaf_years=leaf_years)
    if leaf_years > ca_years:
        with pytest.raises(LeafOutlivesCA):
            settings.lifetimes()
    else:
        assert settings.lifetimes().ca.days == 365 * ca_years
        assert settings.lifetimes().leaf.days == 365 * leaf_years


@pytest.mark.parametrize("seconds", ["0", "-1", "3601", "1.5", "", "ever", "1e2", True, 2.5, "١"])
def test_a_stall_timeout_out_of_range_is_refused(seconds: object) -> None:
    with pytest.raises(BadSetting, match="stall-timeout"):
        read_settings(Settings, {"stall_timeout": seconds}, {}, None)


def test_a_stall_timeout_is_whole_seconds() -> None:
    assert read_settings(Settings, {}, {}, None).stall_timeout == 60
    assert read_settings(Settings, {}, {"KBUILD_STALL_TIMEOUT": "3600"}, None).stall_timeout == 3600
    Path("kbuild.toml").write_text("stall-timeout = 1\n")
    assert read_settings(Settings, {}, {}, None).stall_timeout == 1


def test_independent_is_about_against_stock() -> None:
    with pytest.raises(BadSetting, match="against-stock"):
        read_settings(Settings, flags(independent=True), {}, None).requests({})
    settings = read_settings(Settings, flags(independent=True, against_stock=True), {}, None)
    assert settings.requests({})[0].independent is True


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "override"), ({"stored_defaults": "override"}, "override"),
     ({"stored_defaults": "keep"}, "keep")],
)  # fmt: skip
def test_stored_defaults_are_overridden_unless_they_are_to_be_kept(
    given: dict[str, str], expected: str
) -> None:
    settings = read_settings(Settings, flags(**given), {}, None)
    assert settings.requests({})[0].stored_defaults == expected


def test_a_stock_build_keeps_stored_defaults() -> None:
    stock = {"version": ["v1.33.3"], "stock": True}
    for more in ({}, {"stored_defaults": "keep"}):
        settings = read_settings(Settings, {**stock, **more}, {}, None)
        assert settings.requests({})[0].stored_defaults == "keep"
    settings = read_settings(Settings, stock, {"KBUILD_STORED_DEFAULTS": "override"}, None)
    with pytest.raises(BadSetting, match=r"KBUILD_STORED_DEFAULTS.*a stock build is not patched"):
        settings.requests({})


def test_verify_demands_nothing_of_stored_defaults_by_itself() -> None:
    assert read_settings(VerifySettings, {}, {}, None).stored_defaults is None
    Path("kbuild.toml").write_text('stored-defaults = "keep"\n')
    assert read_settings(VerifySettings, {}, {}, None).stored_defaults == "keep"


@pytest.mark.parametrize("name", ["version", "ca_years", "leaf_years"])
def test_what_has_no_default_must_be_given(name: str) -> None:
    with pytest.raises(MissingSetting, match=f"^missing: --{name.replace('_', '-')}$"):
        read_settings(Settings, flags(**{name: None}), {}, None).requests({})[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arch", ["riscv64"]),
        ("arch", []),
        ("version", []),
        ("version", ["v1.20.2", 1.21]),
        ("version", 1.21),
        ("builder", "podman"),
        ("tree_state", "filthy"),
        ("stored_defaults", "overwrite"),
        ("commit", "abc"),
        ("source_sha256", "00"),
        ("build_date", "0001-01-01T00:00:00+14:00"),
        ("build_date", "yesterday"),
        ("build_date", "2026-01-02T03:04:05"),
        ("json", "perhaps"),
        ("source", ""),
    ],
)
def test_bad_values_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(BadSetting, match=name.replace("_", "-")):
        read_settings(Settings, flags(**{name: value}), {}, None)


def test_build_date_is_utc_in_whole_seconds_and_beats_source_date_epoch() -> None:
    epoch = {"SOURCE_DATE_EPOCH": "86400"}
    given_date = read_settings(
        Settings, flags(build_date="2026-01-02T03:04:05.9+01:00"), epoch, None
    )
    assert given_date.requests(epoch)[0].build_date == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert read_settings(Settings, flags(), epoch, None).requests(epoch)[0].build_date == datetime(
        1970, 1, 2, tzinfo=UTC
    )


def test_nobody_gave_a_date() -> None:
    assert read_settings(Settings, flags(), {}, None).requests({})[0].build_date is None


@pytest.mark.parametrize(
    "value", ["v1.20.2,1.21", ["v1.20.2", "1.21"], ["v1.20.2,1.21", "v1.20.2"]]
)
def test_each_version_is_a_request(value: object) -> None:
    requests = read_settings(Settings, flags(version=value), {}, None).requests({})
    assert [request.version for request in requests] == ["v1.20.2", "1.21"]


def test_a_nonsense_epoch_is_an_error() -> None:
    with pytest.raises(BadSetting, match="SOURCE_DATE_EPOCH"):
        read_settings(Settings, flags(), {}, None).requests({"SOURCE_DATE_EPOCH": "soon"})


def test_the_names_are_flags() -> None:
    assert {"ca-years", "source-sha256", "dry-run"} <= set(names())


def test_architectures_have_the_names_of_uname_too() -> None:
    given = flags(arch=["x86_64,arm64", "aarch64"])
    assert read_settings(Settings, given, {}, None).arch == ("amd64", "arm64")


def test_the_settings_of_the_page_on_mirrors_are_settings(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs/mirrors.md"
    examples = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(examples) == 2
    for text in examples:
        file = tmp_path / "kbuild.toml"
        file.write_text(text)
        settings = read_settings(Settings, {}, {}, file)
        addresses = {"source", "go_site", "golang_repository", "release_site"}
        assert settings.given.keys() == addresses
        for name in addresses:
            assert getattr(settings, name) != getattr(Settings(), name)


@pytest.mark.parametrize("address", ["https://[::1/k.git", "https://host:99999/k.git"])
def test_an_address_that_is_none_is_refused_before_it_is_used(address: str) -> None:
    with pytest.raises(BadSetting, match="not a valid address"):
        read_settings(VersionsSettings, {"source": address}, {}, None)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "kbuild.toml"
    file.write_bytes(b'\xef\xbb\xbfversion = ["v1.23.0"]\n')
    assert read_settings(Settings, {}, {}, file).version == ("v1.23.0",)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_that_another_user_left_in_a_shared_directory_must_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("kbuild.toml")
    (tmp_path / "theirs").write_text('source = "https://elsewhere.example/k.git"\n')
    os.chown(tmp_path / "theirs", 12345, -1)
    for make in (file.hardlink_to, file.symlink_to):
        make("theirs")
        with pytest.raises(BadSettingsFile, match="it belongs to another user"):
            read_settings(Settings, {}, {}, None)
        assert read_settings(Settings, {}, {}, file).source.startswith("https://elsewhere")
        file.unlink()
    os.chown(tmp_path, 12345, -1)  # a checkout of theirs
    file.hardlink_to("theirs")
    assert read_settings(Settings, {}, {}, None).source.startswith("https://elsewhere")
