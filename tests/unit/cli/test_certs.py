"""``kbuild certs`` as a user meets it."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kbuild.certs import inventory
from tests.support.authority import DAY, control_plane, issue, kubeconfig, write_kubeconfig
from tests.support.command import run_here
from tests.support.failures import outcome


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A control plane that was made when the tests began, for its dates are compared with now."""
    folder = tmp_path / "kubernetes"
    control_plane(folder, ca_years=30, leaf_years=20)
    return folder


def expire(etc: Path, days: float) -> None:
    """Write a certificate that ends so many days from now."""
    born = datetime.now(UTC) - DAY
    ca = issue("ca", years=30, ca=True)
    ca.write(etc / "other/ca.crt")
    issue("x", ca, born=born, years=(days + 1) / 365).write(etc / "other/x.crt")


def test_a_table_and_no_findings(etc: Path) -> None:
    done = run_here("certs", etc)
    assert outcome(done) == (0, "")
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["certificate", "what", "NotAfter", "left", "key", "chain", "owner"]
    assert f"{etc}/pki/apiserver.crt" in done.stdout
    assert rows[-1] == "Not shown: 1 copy of these CAs in other files."
    assert len(rows) == 9  # eight certificates and the last line


def test_findings_are_below_the_table_with_a_command(etc: Path) -> None:
    shutil.copy(etc / "pki/ca.key", etc / "pki/apiserver.key")
    (etc / "pki/ca.key").chmod(0o640)
    lines = run_here("certs", etc).stdout.splitlines()
    assert [line for line in lines if line.endswith(":")] == ["critical:", "warning:"]
    assert f"    kubeadm certs renew apiserver --cert-dir {etc}/pki" in lines
    assert f"    chmod 600 {etc}/pki/ca.key" in lines


def test_json_is_one_document(etc: Path) -> None:
    done = run_here("certs", etc, "--json")
    document = json.loads(done.stdout)
    assert set(document) == {"read_at", "paths", "certificates", "findings"}
    assert document["paths"] == [str(etc)]
    one = next(c for c in document["certificates"] if c["path"].endswith("apiserver.crt"))
    assert one["owner"]["mode"] == "0644"
    assert one["private_key"]["fits"] is True
    assert timedelta(seconds=one["seconds_left"]) < timedelta(days=20 * 365)


@pytest.mark.parametrize(
    ("days", "code", "kind"),
    [(100, 0, ""), (89, 100, "certificates-expire"), (-1, 100, "certificates-expire")],
)
def test_fail_before(days: float, code: int, kind: str, etc: Path) -> None:
    expire(etc, days)
    done = run_here("certs", etc, "--fail-before", "90d", "--json")
    assert outcome(done) == (code, kind)
    assert len(json.loads(done.stdout)["certificates"]) == 11  # printed all the same
    assert run_here("certs", etc).returncode == 0


def test_fail_before_names_the_first(etc: Path) -> None:
    expire(etc, 10.5)
    done = run_here("certs", etc, "--fail-before", "8w")
    day = datetime.now(UTC) + 10.5 * DAY
    assert (
        f"1 certificate expires within 8w; the first, {etc}/other/x.crt, expires on {day:%Y-%m-%d}"
        in done.stderr
    )


@pytest.mark.parametrize(
    ("days", "age", "words"),
    [
        (-1, "0d", "1 certificate has expired; the first, "),
        (-1, "5000d", "1 certificate has expired; the first, "),
        (10, "36h", ""),
        (10, "5000d", "1 certificate expires within 5000d; the first, "),
        (10, "2y", "1 certificate expires within 2y; the first, "),
        (10, "243h", "1 certificate expires within 243h; the first, "),
    ],
)
def test_fail_before_tells_what_has_expired(days: float, age: str, words: str, etc: Path) -> None:
    expire(etc, days)
    done = run_here("certs", etc, "--fail-before", age)
    assert words in done.stderr
    assert bool(done.stderr) == bool(words)
    assert "above" not in done.stderr  # there are findings of what ends within 90 days only


def test_fail_before_counts_what_the_findings_list(etc: Path) -> None:
    """A CA is in kubeconfigs and perhaps in a backup, too, and is one certificate."""
    born = datetime.now(UTC) - 30 * DAY
    ca = issue("kubernetes", born=born, years=20 / 365, ca=True)
    ca.write(etc / "pki/ca.crt")
    ca.write(etc / "backup/ca.crt")
    for name in ("admin", "scheduler"):
        leaf = issue(name, ca, born=born, years=20 / 365)
        write_kubeconfig(etc / f"{name}.conf", kubeconfig(name, leaf, ca))
    done = run_here("certs", etc, "--fail-before", "1d")
    assert done.stdout.count("[expired]") == 3
    assert "error[certificates-expire]: 3 certificates have expired; the first" in done.stderr


def test_what_is_excluded_is_not_read(etc: Path) -> None:
    expire(etc, -1)
    (etc / "other").rename(etc / "pki/pki.bak")
    shutil.copy(etc / "pki/pki.bak/x.crt", etc / "pki/x.old")
    shutil.copy(etc / "pki/pki.bak/x.crt", etc / "pki/etcd/x.crt")
    command = ("certs", etc, "--fail-before", "90d")
    assert outcome(run_here(*command))[0] == 100
    some = ("--exclude", "*.bak", "--exclude", "*.old")
    assert outcome(run_here(*command, *some))[0] == 100
    done = run_here(*command, *some, "--exclude", "*/etcd/x.*")
    assert outcome(done) == (0, "")
    assert "x.crt" not in done.stdout
    assert outcome(run_here(*command, KBUILD_CERTS_EXCLUDE="*.bak,*.old,*/etcd/x.*")) == (0, "")


def test_a_path_that_is_named_is_read_though_it_is_excluded(etc: Path) -> None:
    done = run_here("certs", etc / "pki/ca.crt", "--exclude", "*.crt", "--json")
    assert len(json.loads(done.stdout)["certificates"]) == 1


def test_paths_that_do_not_exist(etc: Path, tmp_path: Path) -> None:
    done = run_here("certs", tmp_path / "a", tmp_path / "b")
    assert outcome(done) == (2, "nothing-to-read")
    assert f"no such file or directory ({tmp_path}/a, {tmp_path}/b)" in done.stderr
    done = run_here("certs", tmp_path / "a", etc, "--json")
    assert done.returncode == 0
    [found] = json.loads(done.stdout)["findings"]
    assert (found["kind"], found["path"]) == ("unreadable", str(tmp_path / "a"))


def test_a_directory_without_certificates(tmp_path: Path) -> None:
    assert run_here("certs", tmp_path).stdout == f"There is no certificate in {tmp_path}.\n"
    done = run_here("certs", tmp_path, "--fail-before", "1d")
    assert f"there is no certificate in {tmp_path}" in done.stderr


@pytest.mark.parametrize("path", ["kubernetes/pki/broken.crt", "empty"])
def test_what_could_not_be_read_fails_too(path: str, etc: Path, tmp_path: Path) -> None:
    (etc / "pki/broken.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA")
    (tmp_path / "empty").mkdir()
    done = run_here("certs", tmp_path / path, "--fail-before", "90d")
    assert outcome(done) == (100, "certificates-unread")
    assert run_here("certs", tmp_path / path).returncode == 0


def test_the_setting_may_be_in_the_environment(etc: Path) -> None:
    done = run_here("certs", etc, KBUILD_CERTS_FAIL_BEFORE="9000d")
    assert outcome(done) == (100, "certificates-expire")
    assert outcome(run_here("certs", etc, "--fail-before", "soon")) == (2, "bad-setting")


def test_without_a_path_the_usual_places_are_read(
    etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = (tmp_path / "none", etc)
    monkeypatch.setattr(inventory, "usual_places", lambda: places)
    assert json.loads(run_here("certs", "--json").stdout)["paths"] == [str(etc)]
    shutil.rmtree(etc)
    done = run_here("certs")
    assert outcome(done) == (2, "nothing-to-read")
    assert str(etc) in done.stderr


def test_names_that_are_not_text_are_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\n\x1b[31m.crt")
    issue("x\x1b[31m", ca=True).write(tmp_path / name)
    done = run_here("certs", tmp_path)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\\udcff\\n\\x1b[31m.crt" in done.stdout
    assert json.loads(run_here("certs", tmp_path, "--json").stdout)


def test_nothing_is_changed(etc: Path) -> None:
    def state() -> list[tuple[str, int, int]]:
        return [
            (str(path), path.stat().st_mtime_ns, path.stat().st_mode)
            for path in sorted(etc.rglob("*"))
        ]

    before = state()
    run_here("certs", etc, cwd=etc)
    assert state() == before
