"""Issue, renew and extend: what is written, what is kept, and what is refused."""

import base64
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from kbuild.base.errors import KbuildError
from kbuild.pki.api import Renewal, carry_out, decide, extension, locked, plan_of
from kbuild.x509.api import read_content, read_kubeconfig, signed_by
from tests.support.recorder import Recorder
from tests.unit.pki.conftest import CONFIG, KEY, NOW, Quiet, Recipe, facts, issue, snapshot

ALL = {"ca": "missing", "client": "missing", "server": "missing"}
DAY, YEAR = timedelta(days=1), timedelta(days=365)


def assert_refused(kind: str, said: str, folder: Path, now: object = NOW) -> None:
    before = snapshot(folder)
    with pytest.raises(KbuildError) as caught:
        issue(folder, now)  # type: ignore[arg-type]
    assert caught.value.kind == kind
    assert said in f"{caught.value.happened} {caught.value.hint}"
    assert snapshot(folder) == before


def test_all_is_issued_once(recipe: Recipe) -> None:
    assert issue(recipe.folder) == ALL
    ca, server = facts(recipe.folder / "ca.pem"), facts(recipe.folder / "server.pem")
    assert signed_by(server, ca)
    assert server.not_before == NOW.replace(minute=56, hour=11, second=0)
    assert server.not_after - server.not_before == 5 * YEAR
    assert server.issuer_key_id == ca.own_key_id
    key = read_content((recipe.folder / "server-key.pem").read_bytes()).keys[0]
    assert key.public_key == server.public_key
    before = snapshot(recipe.folder)
    assert issue(recipe.folder, NOW + DAY) == {}
    assert snapshot(recipe.folder) == before


def test_progress_counts_what_is_issued_only(recipe: Recipe) -> None:
    issue(recipe.folder)
    (recipe.folder / "server.pem").unlink()
    plan, recorder = plan_of(recipe.folder), Recorder()
    with locked(plan.output):
        carry_out(plan, decide(plan, NOW), NOW, recorder)
    assert [each[1:] for each in recorder.advances if each[0] == "certificates"] == [(1, 1)]


def test_modes_are_those_that_keys_need(recipe: Recipe) -> None:
    old = os.umask(0o077)
    try:
        issue(recipe.folder)
    finally:
        os.umask(old)
    modes = {p.name: p.stat().st_mode & 0o777 for p in recipe.folder.glob("server*")}
    assert modes["server.pem"] == modes["server.csr"] == 0o644
    assert modes["server-key.pem"] == 0o600
    assert (recipe.folder / ".kbuild-pki").stat().st_mode & 0o777 == 0o700


def test_only_what_changed_is_issued_with_the_key_that_it_has(recipe: Recipe) -> None:
    issue(recipe.folder)
    before = snapshot(recipe.folder)
    recipe.change("server", hosts=["127.0.0.1", "n1", "192.0.2.100"])
    [decision] = [d for d in decide(plan_of(recipe.folder), NOW) if not d.is_kept]
    assert decision.reasons == ("it lacks 192.0.2.100",)
    assert issue(recipe.folder, NOW + DAY, cap=True) == {"server": "changed"}
    after = snapshot(recipe.folder)
    changed = {name for name in after if after[name] != before[name]}
    expected = {"server.pem", "server.csr", "server-csr.json", "kbuild-pki.json"}
    assert changed == expected
    [kept] = (recipe.folder / ".kbuild-pki/generations").iterdir()
    assert kept.name == "20260602T120040Z"
    assert (kept / "server.pem").read_bytes() == before["server.pem"]


def test_a_reason_with_many_names_says_how_many_it_leaves_out(recipe: Recipe) -> None:
    issue(recipe.folder)
    names = [f"192.0.2.{number}" for number in range(1, 12)]
    recipe.change("server", hosts=["127.0.0.1", "n1", *names])
    [decision] = [d for d in decide(plan_of(recipe.folder), NOW) if not d.is_kept]
    assert decision.reasons == (f"it lacks {', '.join(names[:5])} and 6 more",)


def test_every_generation_is_kept(recipe: Recipe) -> None:
    issue(recipe.folder)
    for _ in range(3):
        issue(recipe.folder, NOW, Renewal(names=["server"], new_keys=True))
    generations = list((recipe.folder / ".kbuild-pki/generations").iterdir())
    keys = {(each / "server-key.pem").read_bytes() for each in generations}
    assert len(generations) == len(keys) == 3
    assert (recipe.folder / "server-key.pem").read_bytes() not in keys


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"CN": "other"}, "its subject is CN=etcd, planned is CN=other"),
        ({"key": {"algo": "ecdsa", "size": 384}}, "its key is ECDSA P-256"),
        ({"hosts": ["127.0.0.1"]}, "it has n1, not planned"),
    ],
)
def test_each_difference_is_told(recipe: Recipe, change: dict[str, object], reason: str) -> None:
    issue(recipe.folder)
    recipe.change("server", **change)
    [decision] = [d for d in decide(plan_of(recipe.folder), NOW) if not d.is_kept]
    assert reason in decision.reasons[0]
    assert issue(recipe.folder) == {"server": "changed"}
    assert issue(recipe.folder) == {}


def test_a_renewal_keeps_keys_and_names_and_moves_dates(recipe: Recipe) -> None:
    issue(recipe.folder)
    old, key = facts(recipe.folder / "client.pem"), recipe.folder / "client-key.pem"
    before = key.read_bytes()
    soon = Renewal(before=90 * DAY)
    assert issue(recipe.folder, NOW + 274 * DAY, soon) == {}
    assert issue(recipe.folder, NOW + 276 * DAY, soon) == {"client": "renewed"}
    new = facts(recipe.folder / "client.pem")
    assert (new.public_key, new.names, key.read_bytes()) == (old.public_key, old.names, before)
    assert new.not_after - old.not_after == 276 * DAY
    assert new.serial != old.serial
    issue(recipe.folder, NOW, Renewal(names=["client"], new_keys=True))
    assert facts(recipe.folder / "client.pem").public_key != old.public_key


def test_a_renewal_refuses_other_names(recipe: Recipe) -> None:
    issue(recipe.folder)
    recipe.change("server", hosts=["n1"])
    with pytest.raises(KbuildError) as caught:
        issue(recipe.folder, NOW, Renewal())
    assert caught.value.kind == "names-differ"


def test_a_leaf_over_its_ca_is_refused_or_capped(recipe: Recipe) -> None:
    issue(recipe.folder)
    (recipe.folder / "server.pem").unlink()
    late = NOW + YEAR  # of five
    assert_refused("leaf-outlasts-its-ca", "--cap", recipe.folder, late)
    assert issue(recipe.folder, late, cap=True)["server"] == "missing"
    ends = {facts(recipe.folder / f"{name}.pem").not_after for name in ("ca", "server")}
    assert len(ends) == 1
    assert issue(recipe.folder, late) == {}  # a capped one is as planned


def test_a_leaf_that_loses_less_than_a_tenth_ends_with_its_ca(recipe: Recipe) -> None:
    """With the lifetime of its CA, it could never be renewed otherwise."""
    issue(recipe.folder)
    (recipe.folder / "server.pem").unlink()
    assert issue(recipe.folder, NOW + DAY) == {"server": "missing"}
    ends = {facts(recipe.folder / f"{name}.pem").not_after for name in ("ca", "server")}
    assert len(ends) == 1
    (recipe.folder / "server.pem").unlink()
    config = json.loads((recipe.folder / "ca-config.json").read_text())
    config["signing"]["profiles"]["server"]["expiry"] = "43801h"  # more than the CA is planned for
    recipe.config(config)
    assert_refused("leaf-outlasts-its-ca", "--cap", recipe.folder, NOW + DAY)


@pytest.mark.parametrize(
    ("later", "state"), [(timedelta(minutes=5), "kept"), (2 * DAY, "changed")], ids=str
)
def test_a_leaf_that_ended_with_its_ca_is_as_planned_when_the_ca_is_extended(
    recipe: Recipe, later: timedelta, state: str
) -> None:
    issue(recipe.folder)
    (recipe.folder / "server.pem").unlink()
    issue(recipe.folder, NOW + later)
    plan = plan_of(recipe.folder)
    with locked(plan.output):
        carry_out(plan, extension(plan, ()), NOW + 3 * DAY, Quiet())
    states = {each.spec.name: each.state for each in decide(plan, NOW + 3 * DAY)}
    assert states["server"] == state


def test_a_ca_that_is_not_valid_yet_signs_nothing(recipe: Recipe) -> None:
    issue(recipe.folder, NOW + DAY)
    (recipe.folder / "server.pem").unlink()
    assert_refused("ca-not-yet-valid", "clock", recipe.folder)


def test_a_certificate_is_never_written_over_a_key(recipe: Recipe) -> None:
    config = json.loads((recipe.folder / "ca-config.json").read_text())
    profiles = config["signing"]["profiles"]
    profiles["server-key"] = profiles["client"]
    recipe.config(config)
    recipe.request("server-key", {"CN": "x", "key": {"algo": "ecdsa", "size": 256}})
    assert_refused("duplicate-name", "server-key.pem", recipe.folder)


def test_an_expired_leaf_is_issued_and_an_expired_ca_signs_nothing(recipe: Recipe) -> None:
    issue(recipe.folder)
    assert issue(recipe.folder, NOW + YEAR) == {"client": "expired"}
    assert_refused("ca-expired", "extend-ca", recipe.folder, NOW + 5 * YEAR)


def test_a_ca_without_its_key_signs_nothing_but_is_no_error_else(recipe: Recipe) -> None:
    issue(recipe.folder)
    (recipe.folder / "ca-key.pem").rename(recipe.folder / "away")
    assert issue(recipe.folder) == {}
    (recipe.folder / "server.pem").unlink()
    assert_refused("ca-without-key", "it must sign server", recipe.folder)


def test_a_ca_that_is_gone_is_not_replaced(recipe: Recipe) -> None:
    issue(recipe.folder)
    for path in recipe.folder.glob("ca*.pem"):
        path.unlink()
    assert_refused("ca-missing", "put the CA back", recipe.folder)


def test_a_ca_that_differs_is_not_replaced(recipe: Recipe) -> None:
    issue(recipe.folder)
    recipe.change("ca", CN="other")
    assert_refused("ca-differs", "planned is CN=other", recipe.folder)
    recipe.change("ca", ca={"expiry": "87600h"})
    [ca] = [d for d in decide(plan_of(recipe.folder), NOW) if d.spec.name == "ca"]
    assert ca.is_kept
    assert "extend-ca" in ca.reasons[0]


def test_a_ca_of_another_key_signs_its_leaves_anew(recipe: Recipe, tmp_path: Path) -> None:
    issue(recipe.folder)
    (tmp_path / "other").mkdir()
    other = Recipe(tmp_path / "other")
    issue(other.folder)
    for name in ("ca.pem", "ca-key.pem"):
        (recipe.folder / name).write_bytes((other.folder / name).read_bytes())
    assert issue(recipe.folder) == {"client": "resigned", "server": "resigned"}
    assert signed_by(facts(recipe.folder / "server.pem"), facts(recipe.folder / "ca.pem"))


def test_the_key_of_another_certificate_is_refused(recipe: Recipe) -> None:
    issue(recipe.folder)
    client = (recipe.folder / "client-key.pem").read_bytes()
    (recipe.folder / "server-key.pem").write_bytes(client)
    assert_refused("key-of-another", "server-key.pem", recipe.folder)


@pytest.mark.parametrize("name", ["server.pem", "ca.pem"])
def test_what_is_no_certificate_is_not_replaced(recipe: Recipe, name: str) -> None:
    issue(recipe.folder)
    (recipe.folder / name).write_text("-----BEGIN CERTIFICATE-----\nAAAA\n")
    assert_refused("bad-certificate-file", name, recipe.folder)


def test_what_is_no_key_is_refused(recipe: Recipe) -> None:
    issue(recipe.folder)
    (recipe.folder / "ca-key.pem").write_text("no key\n")
    assert_refused("bad-key-file", "ca-key.pem", recipe.folder)


def test_an_encrypted_key_of_a_ca_needs_its_password(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(recipe.folder)
    path = recipe.folder / "ca-key.pem"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    formats = serialization.PrivateFormat
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, formats.PKCS8, encryption))
    (recipe.folder / "client.pem").unlink()
    assert_refused("wrong-key-password", "CFSSL_CA_PK_PASSWORD", recipe.folder)
    monkeypatch.setenv("CFSSL_CA_PK_PASSWORD", "wrong")
    assert_refused("wrong-key-password", "password is wrong", recipe.folder)
    monkeypatch.setenv("CFSSL_CA_PK_PASSWORD", "secret")
    assert issue(recipe.folder) == {"client": "missing"}


def test_more_hosts_than_go_accepts_are_refused(recipe: Recipe) -> None:
    hosts = [f"node-{n}.example.org" for n in range(10_000)]
    recipe.change("server", hosts=hosts)
    assert_refused("too-many-hosts", "Go's TLS", recipe.folder)
    recipe.change("server", hosts=hosts[:2000])
    assert issue(recipe.folder) == ALL


@pytest.mark.parametrize("expiry", ["1s", "4m"])
def test_a_certificate_that_has_ended_already_is_refused(recipe: Recipe, expiry: str) -> None:
    recipe.change("ca", ca={"expiry": expiry})
    assert_refused("bad-pki-file", "before it is used", recipe.folder)
    recipe.change("ca", ca={"expiry": "87600h"})
    profile = {**CONFIG["signing"]["profiles"]["server"], "expiry": expiry}
    recipe.config({"signing": {**CONFIG["signing"], "profiles": {"x": profile}}})
    assert_refused("bad-pki-file", "before it is used", recipe.folder)


def test_a_date_beyond_the_year_9999_is_refused(recipe: Recipe) -> None:
    profile = {**CONFIG["signing"]["profiles"]["server"], "expiry": "2562047h"}
    recipe.config({"signing": {**CONFIG["signing"], "profiles": {"x": profile}}})
    assert_refused("bad-pki-file", "9999", recipe.folder, NOW.replace(year=9800))


def test_a_link_stays_a_link(recipe: Recipe, tmp_path: Path) -> None:
    issue(recipe.folder)
    real = tmp_path / "real.pem"
    (recipe.folder / "server.pem").rename(real)
    (recipe.folder / "server.pem").symlink_to(real)
    before = real.read_bytes()
    issue(recipe.folder, NOW, Renewal(names=["server"]))
    assert (recipe.folder / "server.pem").is_symlink()
    assert real.read_bytes() != before


def test_a_group_that_may_read_a_key_still_may(recipe: Recipe) -> None:
    issue(recipe.folder)
    key = recipe.folder / "server-key.pem"
    key.chmod(0o644)
    issue(recipe.folder, NOW, Renewal(names=["server"], new_keys=True))
    assert key.stat().st_mode & 0o777 == 0o640


def test_an_extended_ca_keeps_key_name_and_identifiers(recipe: Recipe) -> None:
    issue(recipe.folder)
    old = facts(recipe.folder / "ca.pem")
    recipe.change("ca", ca={"expiry": "876000h"})
    plan = plan_of(recipe.folder)
    with locked(plan.output):
        carry_out(plan, extension(plan, ()), NOW + DAY, Quiet())
    new, server = facts(recipe.folder / "ca.pem"), facts(recipe.folder / "server.pem")
    assert new.not_after == NOW.replace(minute=56, hour=11, second=0) + DAY + 100 * YEAR
    for field in ("subject", "public_key", "own_key_id", "usages", "path_length", "not_before"):
        assert getattr(new, field) == getattr(old, field), field
    assert new.serial != old.serial
    assert signed_by(server, new)
    assert signed_by(server, old)
    assert issue(recipe.folder) == {}


def test_an_extended_ca_is_as_planned(recipe: Recipe) -> None:
    issue(recipe.folder)
    plan = plan_of(recipe.folder)
    with locked(plan.output):
        carry_out(plan, extension(plan, ()), NOW + DAY, Quiet())
    [ca] = [each for each in decide(plan_of(recipe.folder), NOW + DAY) if each.spec.name == "ca"]
    assert ca.reasons == ()


def test_a_ca_is_never_shortened(recipe: Recipe) -> None:
    issue(recipe.folder)
    recipe.change("ca", ca={"expiry": "8760h"})
    plan = plan_of(recipe.folder)
    with pytest.raises(KbuildError) as caught, locked(plan.output):
        carry_out(plan, extension(plan, ()), NOW + DAY, Quiet())
    assert caught.value.kind == "ca-shortened"


def test_a_ca_beside_others_in_its_file_is_not_extended(recipe: Recipe) -> None:
    issue(recipe.folder)
    ca = recipe.folder / "ca.pem"
    ca.write_bytes(ca.read_bytes() + (recipe.folder / "server.pem").read_bytes())
    with pytest.raises(KbuildError) as caught:
        extension(plan_of(recipe.folder), ())
    assert caught.value.kind == "ca-not-alone"


def test_the_manifest_has_the_fingerprints(recipe: Recipe) -> None:
    issue(recipe.folder)
    manifest = json.loads((recipe.folder / "kbuild-pki.json").read_text())
    told = {each["file"]: each["sha256"] for each in manifest["certificates"]}
    assert told == {
        name: facts(recipe.folder / name).fingerprint
        for name in ("ca.pem", "client.pem", "server.pem")
    }


# --- killed, busy, full ---------------------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
from tests.unit.pki.conftest import NOW, Renewal, die_at, issue
die_at(sys.argv[2], int(sys.argv[3]))
issue(Path(sys.argv[1]), NOW, Renewal(new_keys=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "number", "is_done"),
    [("fsync", 1, False), ("fsync", 6, False), ("replace", 1, True), ("replace", 4, True)],
)
def test_after_kill_9_the_next_run_goes_on(
    recipe: Recipe, call: str, number: int, is_done: bool
) -> None:
    issue(recipe.folder)
    before = snapshot(recipe.folder)
    words = (sys.executable, "-c", KILLED, str(recipe.folder), call, str(number))
    assert subprocess.run(words, check=False, cwd=Path(__file__).parents[3]).returncode == -9
    with locked(recipe.folder) as is_finished:
        assert is_finished is is_done
    after = snapshot(recipe.folder)
    assert set(after) == set(before)
    assert (after == before) is not is_done
    for name in ("server", "client"):
        key = read_content(after[f"{name}-key.pem"]).keys[0]
        assert key.public_key == facts(recipe.folder / f"{name}.pem").public_key
        assert (after[f"{name}.pem"] == before[f"{name}.pem"]) is not is_done
    assert issue(recipe.folder) == {}


def test_what_a_killed_run_left_beside_keys_elsewhere_is_removed(tmp_path: Path) -> None:
    (tmp_path / "pki.toml").write_text('ca-keys = "usb"\ncomponents = ["flannel"]\n')
    (tmp_path / "usb").mkdir()
    left = tmp_path / "usb/.ca-key.pem.kbuild-new-0123456789ab"
    left.write_text("a key")
    plan = plan_of(tmp_path)
    with locked(plan.output, plan.key_folders):
        assert not left.exists()


def test_a_second_run_is_refused(recipe: Recipe) -> None:
    with locked(recipe.folder):
        assert_refused("pki-busy", "another kbuild", recipe.folder)
    assert issue(recipe.folder) == ALL


def test_a_full_disk_changes_nothing(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    issue(recipe.folder)
    before = snapshot(recipe.folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(KbuildError) as caught:
            issue(recipe.folder, NOW, Renewal(new_keys=True))
    assert caught.value.kind == "disk-full"
    assert snapshot(recipe.folder) == before


# --- kubeconfigs ----------------------------------------------------------------------------------

CLUSTER = """\
layout = "{layout}"
key = "ecdsa-p256"
vips = ["192.0.2.100"]
[nodes.n1]
addresses = ["192.0.2.1"]
roles = ["control-plane", "etcd"]
"""


@pytest.mark.parametrize(
    ("layout", "kubeconfig", "ca"),
    [("cfssl", "kube-proxy.kubeconfig", "ca.pem"), ("kubeadm", "kube-proxy.conf", "pki/ca.crt")],
)
def test_a_kubeconfig_holds_what_was_issued(
    tmp_path: Path, layout: str, kubeconfig: str, ca: str
) -> None:
    (tmp_path / "pki.toml").write_text(CLUSTER.format(layout=layout))
    assert "missing" in issue(tmp_path).values()
    assert issue(tmp_path) == {}
    path = tmp_path / "pki" / kubeconfig
    text = path.read_text()
    [user] = read_kubeconfig(path.read_bytes()).users
    [cluster] = read_kubeconfig(path.read_bytes()).clusters
    assert user.name == "system:kube-proxy"
    assert cluster.server == "https://192.0.2.100:6443"
    assert cluster.ca.data == (tmp_path / "pki" / ca).read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    found = read_content(user.certificate.data + user.key.data)
    assert found.certificates[0].public_key == found.keys[0].public_key
    # With another CA or server in it, it is written again with the certificate that is there.
    data = base64.b64encode(cluster.ca.data).decode()
    path.write_text(text.replace(data, base64.b64encode(b"other").decode()))
    assert set(issue(tmp_path).values()) == {"changed"}
    assert path.read_text() == text
    toml = (tmp_path / "pki.toml").read_text()
    (tmp_path / "pki.toml").write_text(f"port = 8443\n{toml}")
    issue(tmp_path)
    assert path.read_text() == text.replace(":6443", ":8443")


def test_a_profile_that_makes_a_ca_makes_one(recipe: Recipe) -> None:
    profile = {
        "expiry": "8760h",
        "usages": ["cert sign"],
        "ca_constraint": {"is_ca": True, "max_path_len_zero": True},
    }
    profiles = {**CONFIG["signing"]["profiles"], "second": profile}
    recipe.config({"signing": {"profiles": profiles}})
    recipe.request("second", {"CN": "Second", "key": KEY})
    issue(recipe.folder)
    second = facts(recipe.folder / "second.pem")
    assert (second.is_ca, second.path_length) == (True, 0)
    assert signed_by(second, facts(recipe.folder / "ca.pem"))
