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
from kbuild.settings import Settings, names, read_settings


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def flags(**values: object) -> dict[str, object]:
    return {"version": "1.23", "ca_years": "100", "leaf_years": "10", **values}


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() -> None:
    Path("kbuild.toml").write_text('ca-years = 30\nleaf-years = 3\nbuilder = "local"\n')
    settings = read_settings(
        {"ca_years": "50"}, {"KBUILD_LEAF_YEARS": "5", "KBUILD_CA_YEARS": "40", "PATH": "/"}, None
    )
    assert (settings.ca_years, settings.leaf_years, settings.builder) == (50, 5, "local")
    assert settings.layout == "flat"


def test_config_may_be_named_by_flag_or_environment(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text('arch = ["arm64", "amd64", "arm64"]\n')
    assert read_settings({}, {"KBUILD_CONFIG": str(path)}, None).arch == ("arm64", "amd64")
    assert read_settings({}, {}, path).arch == ("arm64", "amd64")


def test_a_config_that_was_named_must_exist() -> None:
    with pytest.raises(BadSettingsFile, match="does not exist"):
        read_settings({}, {}, Path("absent.toml"))


@pytest.mark.parametrize("text", ["ca-years = ", "\x00", "= 3"])
def test_a_broken_file_is_named(text: str) -> None:
    Path("kbuild.toml").write_text(text)
    with pytest.raises(BadSettingsFile, match=r"kbuild\.toml"):
        read_settings({}, {}, None)


def test_an_unknown_key_gets_its_close_match() -> None:
    Path("kbuild.toml").write_text("ca-year = 30\n")
    with pytest.raises(UnknownSetting) as caught:
        read_settings({}, {}, None)
    assert caught.value.hint == "did you mean ca-years?"


def test_an_unknown_variable_gets_its_close_match() -> None:
    with pytest.raises(UnknownSetting) as caught:
        read_settings({}, {"KBUILD_LEAVE_YEARS": "1"}, None)
    assert caught.value.hint == "did you mean KBUILD_LEAF_YEARS?"


@pytest.mark.parametrize("years", ["0", "-1", "293", "1.5", "", "ten", "1e2", True, 2.5, "١"])
@pytest.mark.parametrize("name", ["ca_years", "leaf_years"])
def test_years_out_of_range_are_refused(name: str, years: object) -> None:
    with pytest.raises(BadSetting) as caught:
        read_settings(flags(**{name: years}), {}, None)
    assert caught.value.exit_code == 2
    assert "1 to 292" in caught.value.happened


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
        read_settings({"stall_timeout": seconds}, {}, None)


def test_a_stall_timeout_is_whole_seconds() -> None:
    assert read_settings({}, {}, None).stall_timeout == 60
    assert read_settings({}, {"KBUILD_STALL_TIMEOUT": "3600"}, None).stall_timeout == 3600
    Path("kbuild.toml").write_text("stall-timeout = 1\n")
    assert read_settings({}, {}, None).stall_timeout == 1


def test_independent_is_about_against_stock() -> None:
    with pytest.raises(BadSetting, match="against-stock"):
        read_settings(flags(independent=True), {}, None).requests({})
    settings = read_settings(flags(independent=True, against_stock=True), {}, None)
    assert settings.requests({})[0].independent is True


@pytest.mark.parametrize("name", ["version", "ca_years", "leaf_years"])
def test_what_has_no_default_must_be_given(name: str) -> None:
    with pytest.raises(MissingSetting, match=f"^missing: --{name.replace('_', '-')}$"):
        read_settings(flags(**{name: None}), {}, None).requests({})[0]


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
        read_settings(flags(**{name: value}), {}, None)


def test_build_date_is_utc_in_whole_seconds_and_beats_source_date_epoch() -> None:
    epoch = {"SOURCE_DATE_EPOCH": "86400"}
    given_date = read_settings(flags(build_date="2026-01-02T03:04:05.9+01:00"), epoch, None)
    assert given_date.requests(epoch)[0].build_date == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert read_settings(flags(), epoch, None).requests(epoch)[0].build_date == datetime(
        1970, 1, 2, tzinfo=UTC
    )


def test_nobody_gave_a_date() -> None:
    assert read_settings(flags(), {}, None).requests({})[0].build_date is None


@pytest.mark.parametrize(
    "value", ["v1.20.2,1.21", ["v1.20.2", "1.21"], ["v1.20.2,1.21", "v1.20.2"]]
)
def test_each_version_is_a_request(value: object) -> None:
    requests = read_settings(flags(version=value), {}, None).requests({})
    assert [request.version for request in requests] == ["v1.20.2", "1.21"]


def test_a_nonsense_epoch_is_an_error() -> None:
    with pytest.raises(BadSetting, match="SOURCE_DATE_EPOCH"):
        read_settings(flags(), {}, None).requests({"SOURCE_DATE_EPOCH": "soon"})


def test_the_names_are_flags() -> None:
    assert {"ca-years", "source-sha256", "dry-run"} <= set(names())
