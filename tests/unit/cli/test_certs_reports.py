"""kbuild certs with --timeline, --html, --prometheus and --ics."""

import json
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import icalendar
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kbuild.x509.api import make_ca
from tests.support.command import run_here
from tests.support.terminal import on_terminal


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, now = tmp_path_factory.mktemp("pki"), datetime.now(UTC)
    for name, days in (("ended", -3), ("month", 20), ("century", 36500)):
        ca = make_ca(f"{name} CA", born=now - timedelta(days=9), ends=now + timedelta(days=days))
        (folder / f"{name}.crt").write_bytes(ca.certificate)
    return folder


def test_timeline_shows_bars_instead_of_the_table(pki: Path) -> None:
    done = run_here("certs", pki, "--timeline", COLUMNS="")
    assert done.returncode == 0
    bars = [line for line in done.stdout.splitlines() if line[3:].startswith(("ended", "century"))]
    assert ["expired 3 days ago" in line for line in bars] == [True, False]
    assert bars[1].count("█") > 80
    assert "NotAfter" not in done.stdout.splitlines()[0]
    assert "\x1b" not in done.stdout
    assert "[expired]" in done.stdout  # the findings follow


@pytest.mark.parametrize(
    ("columns", "width"), [("", 160), ("90", 90), ("-1", 160), ("90000", 160), ("5000", 1000)]
)
def test_timeline_in_a_pipe(columns: str, width: int, pki: Path) -> None:
    done = run_here("certs", pki, "--timeline", COLUMNS=columns)
    (bar,) = [line for line in done.stdout.splitlines() if line[3:].startswith("century")]
    assert len(bar) == width


@pytest.mark.parametrize(("locale", "sign"), [("C", "#"), ("POSIX", "#"), ("C.UTF-8", "█")])
def test_timeline_in_the_locale_c(locale: str, sign: str, pki: Path) -> None:
    assert sign * 20 in run_here("certs", pki, "--timeline", LC_ALL=locale).stdout


@pytest.mark.slow
def test_the_certificates_of_a_bundle_are_told_apart(
    pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pki / "both").mkdir()
    both = (pki / "century.crt").read_bytes() + (pki / "month.crt").read_bytes()
    (pki / "both/both.pem").write_bytes(both)
    monkeypatch.chdir(pki)
    shown = on_terminal("certs", "both", width=80)
    shutil.rmtree(pki / "both")
    assert f"Below {pki}/both/:" in shown
    assert "both.pem certificate 2" in shown


@pytest.mark.slow
def test_timeline_fits_the_terminal_and_colours_it(pki: Path) -> None:
    shown = on_terminal("certs", pki, "--timeline", width=80)
    plain = on_terminal("certs", pki, "--timeline", width=80, NO_COLOR="1")
    red, green = "\x1b[31m", "\x1b[32m"
    assert green in shown
    assert red not in plain
    assert green not in plain
    (line,) = [line for line in plain.splitlines() if "century" in line and "█" in line]
    without_styles = line.replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert len(without_styles.rstrip()) == 80


@pytest.mark.slow
def test_timeline_is_ascii_where_the_locale_has_no_blocks(pki: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    shown = on_terminal("certs", pki, "--timeline", width=80, **ascii_only)
    assert shown.isascii()
    assert "#######" in shown
    assert "\\u" not in shown


def test_all_reports_are_written_and_the_result_is_printed(pki: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("page.html", "kbuild.prom", "ends.ics")]
    options = ("--html", files[0], "--prometheus", files[1], "--ics", files[2])
    done = run_here("certs", pki, *options, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["certificates"][0]["subject"] == "CN=ended CA"
    assert [f"wrote {file}" in done.stderr for file in files] == [True] * 3
    assert files[0].read_text().startswith("<!doctype html>")
    series = list(text_string_to_metric_families(files[1].read_text()))
    assert {sample.labels.get("subject_CN") for one in series for sample in one.samples} >= {
        "ended CA",
        "century CA",
    }
    assert stat.S_IMODE(files[1].stat().st_mode) == 0o644
    assert len(icalendar.Calendar.from_ical(files[2].read_bytes()).walk("VEVENT")) == 3
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_reports_are_written_before_fail_before_fails(pki: Path, tmp_path: Path) -> None:
    done = run_here("certs", pki, "--fail-before", "90d", "--prometheus", tmp_path / "a.prom")
    assert done.returncode == 100
    assert (tmp_path / "a.prom").exists()


def test_a_report_that_cannot_be_written_is_the_only_result(pki: Path, tmp_path: Path) -> None:
    done = run_here("certs", pki, "--html", tmp_path / "missing/page.html", "--json")
    assert done.returncode == 80
    assert json.loads(done.stdout)["error"]["kind"] == "not-writable"


@pytest.mark.parametrize("option", ["--html", "--prometheus", "--ics"])
def test_a_report_never_replaces_a_certificate(option: str, pki: Path) -> None:
    target = pki / "century.crt"
    before = target.read_bytes()
    done = run_here("certs", pki, option, target)
    assert done.returncode == 80
    assert "error[not-writable]" in done.stderr
    assert done.stdout == ""
    assert target.read_bytes() == before


@pytest.mark.parametrize("option", ["--html", "--prometheus", "--ics"])
def test_a_report_replaces_its_own_kind_only(option: str, pki: Path, tmp_path: Path) -> None:
    file = tmp_path / "report"
    assert run_here("certs", pki, option, file).returncode == 0
    assert run_here("certs", pki, option, file).returncode == 0
    (other,) = {"--html": ["--ics"], "--prometheus": ["--html"], "--ics": ["--prometheus"]}[option]
    assert run_here("certs", pki, other, file).returncode == 80
