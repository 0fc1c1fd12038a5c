"""Replace a CA: what each step writes, keeps and refuses, and what other commands do meanwhile."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kbuild.base.errors import KbuildError
from kbuild.pki.api import (
    Step,
    carry_out,
    decide,
    deliveries,
    extension,
    facts_to_know,
    locked,
    plan_of,
    rotated,
    turn_of,
)
from kbuild.pki.errors import RotationRefused
from kbuild.x509.api import CertificateFacts, read_content, read_kubeconfig, signed_by
from tests.unit.pki.conftest import NOW, Quiet, Recipe, facts, issue, snapshot

DAY = timedelta(days=1)
LONG = {"ca": {"expiry": "876000h"}}
CLUSTER = """\
layout = "{layout}"
cas = {cas}
key = "ecdsa-p256"
leaf-years = 10
{more}
[nodes.n1]
addresses = ["192.0.2.1"]
roles = ["control-plane", "etcd"]
"""


def rotate(
    folder: Path,
    step: Step,
    *names: str,
    now: datetime = NOW,
    new_keys: bool = False,
    cap: bool = False,
) -> dict[str, str]:
    """Make a step, and return the state of each written certificate."""
    plan = plan_of(folder, cap=cap)
    with locked(plan.output, plan.key_folders):
        turn = turn_of(plan, step, names, now, new_keys=new_keys)
        written = carry_out(plan, turn.decisions, now, Quiet(), turn.files, turn.swaps)
    return {each.name: each.state for each in written}


def bundle(path: Path) -> list[CertificateFacts]:
    return read_content(path.read_bytes()).certificates


def public(path: Path) -> bytes:
    return read_content(path.read_bytes()).keys[0].public_key


def assert_refused(kind: str, said: str, folder: Path, step: Step, *names: str) -> None:
    before = snapshot(folder)
    with pytest.raises(KbuildError) as caught:
        rotate(folder, step, *names)
    assert caught.value.kind == kind
    assert said in f"{caught.value.happened} {caught.value.hint}"
    assert snapshot(folder) == before


@pytest.fixture
def issued(recipe: Recipe) -> Recipe:
    recipe.change("ca", **LONG)
    issue(recipe.folder)
    return recipe


@pytest.fixture(params=["begin", "leaves"])
def rotating(issued: Recipe, request: pytest.FixtureRequest) -> Recipe:
    """Give a directory after one step, and after two."""
    rotate(issued.folder, "begin")
    if request.param == "leaves":
        rotate(issued.folder, "leaves")
    return issued


def test_begin_trusts_both_and_changes_no_leaf(issued: Recipe) -> None:
    folder, before = issued.folder, snapshot(issued.folder)
    [old] = bundle(folder / "ca.pem")
    assert rotate(folder, "begin", now=NOW + DAY) == {"ca": "rotated"}
    first, new = bundle(folder / "ca.pem")
    assert (first, new.subject) == (old, old.subject)
    assert new.public_key == public(folder / "ca-new-key.pem") != old.public_key
    assert new.own_key_id != old.own_key_id
    assert signed_by(new, new)
    assert new.not_after > old.not_after
    assert (folder / "ca-new-key.pem").stat().st_mode & 0o777 == 0o600
    assert bundle(folder / "ca-signing.pem") == [old]
    after = snapshot(folder)
    added = {"ca-new-key.pem", "ca-signing.pem", "kbuild-pki-rotation.json"}
    assert set(after) == set(before) | added
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"ca.pem", "kbuild-pki.json"}
    assert issue(folder) == {}


def test_leaves_are_signed_by_the_new_ca_with_the_keys_that_they_have(issued: Recipe) -> None:
    folder, keys = (
        issued.folder,
        {n: public(issued.folder / f"{n}-key.pem") for n in ("ca", "server")},
    )
    rotate(folder, "begin")
    old, new = bundle(folder / "ca.pem")
    assert rotate(folder, "leaves") == {
        "ca": "rotated",
        "client": "resigned",
        "server": "resigned",
    }
    assert bundle(folder / "ca.pem") == [new, old]
    assert bundle(folder / "ca-signing.pem") == [new]
    for name in ("client", "server"):
        leaf = facts(folder / f"{name}.pem")
        assert (signed_by(leaf, new), signed_by(leaf, old)) == (True, False)
        assert leaf.issuer_key_id == new.own_key_id
    assert public(folder / "ca-key.pem") == new.public_key
    assert public(folder / "ca-old-key.pem") == old.public_key == keys["ca"]
    assert public(folder / "server-key.pem") == keys["server"]
    assert not (folder / "ca-new-key.pem").exists()
    assert issue(folder) == {}


def test_new_keys_are_made_if_they_are_asked_for(issued: Recipe) -> None:
    before = public(issued.folder / "server-key.pem")
    rotate(issued.folder, "begin")
    rotate(issued.folder, "leaves", new_keys=True)
    assert public(issued.folder / "server-key.pem") != before


def test_end_leaves_the_new_ca_alone_and_keeps_the_old_one(issued: Recipe) -> None:
    folder, before = issued.folder, snapshot(issued.folder)
    rotate(folder, "begin")
    old, new = bundle(folder / "ca.pem")
    rotate(folder, "leaves", now=NOW + DAY)
    leaf = (folder / "server.pem").read_bytes()
    assert rotate(folder, "end", now=NOW + 2 * DAY) == {"ca": "rotated"}
    assert bundle(folder / "ca.pem") == [new]
    assert public(folder / "ca-key.pem") == new.public_key
    assert (folder / "server.pem").read_bytes() == leaf
    assert set(snapshot(folder)) == set(before)
    [*_, last] = sorted((folder / ".kbuild-pki/generations").iterdir())
    assert public(last / "ca-old-key.pem") == old.public_key
    assert old in bundle(last / "ca.pem")
    assert issue(folder) == {}
    rotate(folder, "begin")  # and the next one can begin


def test_a_key_of_a_ca_is_kept_once(issued: Recipe) -> None:
    """A copy of the key that signs is of no use in a directory that grows."""
    for number, step in enumerate(("begin", "leaves", "end")):
        rotate(issued.folder, step, now=NOW + number * DAY)  # type: ignore[arg-type]
    kept = (issued.folder / ".kbuild-pki/generations").rglob("ca*-key.pem")
    assert [path.name for path in kept] == ["ca-old-key.pem"]


@pytest.mark.parametrize("steps", [("begin",), ("begin", "leaves", "back"), ("begin", "leaves")])
def test_back_leads_to_where_it_was(issued: Recipe, steps: tuple[Step, ...]) -> None:
    folder, before = issued.folder, snapshot(issued.folder)
    for step in steps:
        rotate(folder, step)
    if steps[-1] == "leaves":
        both = bundle(folder / "ca.pem")
        rotate(folder, "back")
        assert bundle(folder / "ca.pem") == both[::-1]
    rotate(folder, "back")
    after = snapshot(folder)
    assert set(after) == set(before)
    for name in ("ca.pem", "ca-key.pem", "server-key.pem"):
        assert after[name] == before[name], name
    assert signed_by(facts(folder / "server.pem"), facts(folder / "ca.pem"))
    assert issue(folder) == {}


def test_every_trust_of_a_step_accepts_every_leaf_of_the_steps_around_it(issued: Recipe) -> None:
    """So components may be restarted in any order, one after the other."""
    folder = issued.folder
    trusts, leaves = [bundle(folder / "ca.pem")], [facts(folder / "server.pem")]
    for step in ("begin", "leaves", "back", "leaves", "end"):
        rotate(folder, step)
        trusts.append(bundle(folder / "ca.pem"))
        leaves.append(facts(folder / "server.pem"))
    for number, trust in enumerate(trusts):
        for leaf in leaves[max(number - 1, 0) : number + 2]:
            assert any(signed_by(leaf, ca) for ca in trust), number
    assert not any(signed_by(leaves[0], ca) for ca in trusts[-1])


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["leaves", "end", "back"])
def test_nothing_goes_before_the_beginning(issued: Recipe, step: Step) -> None:
    assert_refused("wrong-step", "what can be made now is --step begin", issued.folder, step)


@pytest.mark.parametrize(
    ("made", "wrong"),
    [(("begin",), ("begin", "end")), (("begin", "leaves"), ("begin", "leaves"))],
)
def test_no_step_is_left_out_or_made_twice(
    issued: Recipe, made: tuple[Step, ...], wrong: tuple[Step, ...]
) -> None:
    for step in made:
        rotate(issued.folder, step)
    for step in wrong:
        assert_refused("wrong-step", "--step back", issued.folder, step)


def test_a_ca_that_is_not_there_cannot_be_replaced(recipe: Recipe) -> None:
    assert_refused("nothing-to-rotate", "kbuild pki issue", recipe.folder, "begin")
    assert_refused("unknown-certificate", "choose among ca", recipe.folder, "begin", "server")


def test_end_is_refused_while_the_old_ca_has_signed_what_is_there(issued: Recipe) -> None:
    folder, old = issued.folder, (issued.folder / "server.pem").read_bytes()
    rotate(folder, "begin")
    rotate(folder, "leaves")
    (folder / "forgotten").mkdir()
    other = folder / "forgotten/other.crt"
    other.write_bytes(old)
    assert_refused("still-signed", "forgotten/other.crt", folder, "end")
    data = base64.b64encode(old).decode()
    users = [{"name": "x", "user": {"client-certificate-data": data}}]
    other.with_suffix(".kubeconfig").write_text(json.dumps({"kind": "Config", "users": users}))
    other.unlink()
    assert_refused("still-signed", "forgotten/other.kubeconfig", folder, "end")
    other.with_suffix(".kubeconfig").unlink()
    (folder / "server.pem").write_bytes(old)
    assert_refused("still-signed", "the old CA ca is not removed", folder, "end")
    assert issue(folder) == {"server": "resigned"}
    rotate(folder, "end")


def test_the_last_way_back_is_refused_while_the_new_ca_has_signed_what_is_there(
    issued: Recipe,
) -> None:
    rotate(issued.folder, "begin")
    rotate(issued.folder, "leaves")
    new = (issued.folder / "server.pem").read_bytes()
    rotate(issued.folder, "back")
    (issued.folder / "copy.pem").write_bytes(new)
    assert_refused("still-signed", "the new CA ca is not removed", issued.folder, "back")


@pytest.mark.parametrize("name", ["ca-new-key.pem", "ca-old-key.pem", "ca-signing.pem"])
def test_what_is_there_already_is_not_replaced(issued: Recipe, name: str) -> None:
    (issued.folder / name).write_text("mine")
    assert_refused("rotation-refused", name, issued.folder, "begin")


def test_a_bundle_of_ones_own_is_not_rotated(issued: Recipe) -> None:
    path = issued.folder / "ca.pem"
    path.write_bytes(path.read_bytes() * 2)
    assert_refused("rotation-refused", "holds 2 certificates", issued.folder, "begin")


# --- what is not as the last step has left it -----------------------------------------------------


@pytest.mark.parametrize("keep", [[0], [1], [1, 0], []])
def test_a_bundle_that_was_changed_is_refused(rotating: Recipe, keep: list[int]) -> None:
    path = rotating.folder / "ca.pem"
    blocks = path.read_text().split("-----BEGIN CERTIFICATE-----")[1:]
    path.write_text("".join(f"-----BEGIN CERTIFICATE-----{blocks[n]}" for n in keep))
    kinds = {"rotation-differs", "key-of-another", "bad-certificate-file"}
    before = snapshot(rotating.folder)
    with pytest.raises(KbuildError) as caught:
        issue(rotating.folder)
    assert caught.value.kind in kinds
    with pytest.raises(KbuildError) as caught:
        rotate(rotating.folder, "back")
    assert caught.value.kind in kinds
    assert snapshot(rotating.folder) == before


def test_a_key_of_another_ca_does_not_become_that_of_the_signer(issued: Recipe) -> None:
    rotate(issued.folder, "begin")
    waiting = issued.folder / "ca-new-key.pem"
    waiting.write_bytes((issued.folder / "server-key.pem").read_bytes())
    assert_refused("key-of-another", "ca-new-key.pem", issued.folder, "leaves")
    waiting.unlink()
    assert_refused("ca-without-key", "ca-new-key.pem", issued.folder, "leaves")


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"rotations": [{}]}', '{"rotations": [{"ca": 1}]}', '{"rotations": ["ca"]}'],
)
def test_a_broken_state_is_refused(rotating: Recipe, content: str) -> None:
    path = rotating.folder / "kbuild-pki-rotation.json"
    path.write_text(content)
    assert_refused("bad-pki-file", "kbuild-pki-rotation.json", rotating.folder, "back")


def test_a_state_with_a_stage_of_its_own_is_refused(rotating: Recipe) -> None:
    path = rotating.folder / "kbuild-pki-rotation.json"
    document = json.loads(path.read_text())
    for change in ({"stage": "middle"}, {"ca": "other"}):
        path.write_text(json.dumps({"rotations": [{**document["rotations"][0], **change}]}))
        assert_refused("bad-pki-file", "rotation", rotating.folder, "back")


# --- other commands meanwhile ---------------------------------------------------------------------


def test_what_is_issued_meanwhile_is_signed_by_the_signer_of_the_step(issued: Recipe) -> None:
    folder = issued.folder
    for step in ("begin", "leaves", "end"):
        rotate(folder, step)
        issued.change("server", hosts=["n1", f"{step}.example"])
        assert issue(folder) == {"server": "changed"}
        server, signer = facts(folder / "server.pem"), facts(folder / "ca.pem")
        assert signed_by(server, signer)
        assert signer.public_key == public(folder / "ca-key.pem")


def test_a_ca_is_not_extended_meanwhile(rotating: Recipe) -> None:
    with pytest.raises(KbuildError) as caught:
        extension(plan_of(rotating.folder), ())
    assert caught.value.kind == "rotation-under-way"


def test_the_names_of_a_leaf_are_not_changed_by_a_step(issued: Recipe) -> None:
    rotate(issued.folder, "begin")
    issued.change("server", hosts=["n1"])
    assert_refused("names-differ", "127.0.0.1", issued.folder, "leaves")


def test_a_leaf_ends_with_the_new_ca_only_if_it_is_asked_to(recipe: Recipe) -> None:
    config = json.loads((recipe.folder / "ca-config.json").read_text())
    config["signing"]["profiles"]["server"]["expiry"] = "43801h"  # an hour more than the CA
    recipe.config(config)
    issue(recipe.folder, cap=True)
    plan = plan_of(recipe.folder)
    [note] = turn_of(plan, "begin", (), NOW).notes
    assert note.startswith("server would end later than the new CA.")
    rotate(recipe.folder, "begin")
    with pytest.raises(KbuildError) as caught:
        rotate(recipe.folder, "leaves", now=NOW + DAY)
    assert caught.value.kind == "leaf-outlasts-its-ca"
    rotate(recipe.folder, "leaves", now=NOW + DAY, cap=True)
    assert issue(recipe.folder) == {}


def test_leaves_of_the_lifetime_of_their_ca_need_no_cap(recipe: Recipe) -> None:
    issue(recipe.folder)
    assert turn_of(plan_of(recipe.folder), "begin", (), NOW).notes == ()
    rotate(recipe.folder, "begin")
    rotate(recipe.folder, "leaves", now=NOW + DAY)


def test_a_new_ca_that_is_not_valid_yet_signs_no_leaves(recipe: Recipe) -> None:
    issue(recipe.folder)
    rotate(recipe.folder, "begin", now=NOW + 60 * DAY)
    with pytest.raises(KbuildError) as caught:
        rotate(recipe.folder, "leaves", now=NOW)
    assert caught.value.kind == "ca-not-yet-valid"


def test_a_lost_key_is_replaced_by_a_new_ca(issued: Recipe) -> None:
    """Without the old key nothing can be issued, but the new CA does not need it."""
    folder = issued.folder
    (folder / "ca-key.pem").unlink()
    for step in ("begin", "leaves", "end"):
        rotate(folder, step)
    assert public(folder / "ca-key.pem") == facts(folder / "ca.pem").public_key
    assert signed_by(facts(folder / "server.pem"), facts(folder / "ca.pem"))


def test_there_is_no_way_back_to_a_ca_without_its_key(issued: Recipe) -> None:
    (issued.folder / "ca-key.pem").unlink()
    rotate(issued.folder, "begin")
    rotate(issued.folder, "leaves")
    assert_refused("ca-without-key", "ca-old-key.pem", issued.folder, "back")


def test_an_old_ca_that_has_expired_signs_nothing_again(recipe: Recipe) -> None:
    issue(recipe.folder)
    later = NOW + timedelta(days=6 * 365)
    rotate(recipe.folder, "begin", now=later, cap=True)
    rotate(recipe.folder, "leaves", now=later, cap=True)
    with pytest.raises(KbuildError) as caught:
        rotate(recipe.folder, "back", now=later, cap=True)
    assert caught.value.kind == "ca-expired"


def test_a_new_ca_may_have_another_name_and_another_kind_of_key(issued: Recipe) -> None:
    folder = issued.folder
    issued.change("ca", CN="second", key={"algo": "rsa", "size": 2048}, **LONG)
    with pytest.raises(KbuildError) as caught:
        issue(folder)
    assert "rotate-ca" in caught.value.hint
    for step in ("begin", "leaves", "end"):
        rotate(folder, step)
        assert issue(folder) == {}
    ca = facts(folder / "ca.pem")
    assert (ca.subject, ca.key) == ("CN=second", "RSA 2048")


def test_two_cas_of_one_name_without_identifiers_are_told(issued: Recipe) -> None:
    folder = issued.folder
    assert turn_of(plan_of(folder), "begin", (), NOW).notes == ()
    (folder / "server.pem").write_bytes(_without_issuer_key_id(folder))
    assert issue(folder) == {}
    [note] = turn_of(plan_of(folder), "begin", (), NOW).notes
    assert "server has no key identifier" in note
    issued.change("ca", CN="second", **LONG)
    assert turn_of(plan_of(folder), "begin", (), NOW).notes == ()


def _without_issuer_key_id(folder: Path) -> bytes:
    """Return the certificate of the server without AuthorityKeyIdentifier, as old Go makes it."""
    old = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    builder = x509.CertificateBuilder(
        old.issuer,
        old.subject,
        old.public_key(),
        old.serial_number,
        old.not_valid_before_utc,
        old.not_valid_after_utc,
        [
            each
            for each in old.extensions
            if not isinstance(each.value, x509.AuthorityKeyIdentifier)
        ],
    )
    key = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


# --- layouts, keys elsewhere, encrypted keys ------------------------------------------------------


@pytest.mark.parametrize(("layout", "cas"), [("cfssl", 1), ("cfssl", 3), ("kubeadm", 3)])
def test_all_cas_of_a_cluster_are_replaced_together(tmp_path: Path, layout: str, cas: int) -> None:
    (tmp_path / "pki.toml").write_text(CLUSTER.format(layout=layout, cas=cas, more=""))
    issue(tmp_path)
    plan = plan_of(tmp_path)
    roots = [each for each in plan.specs if not each.issuer]
    old = {each.name: facts(each.place) for each in roots}
    assert len(roots) == cas
    logins = {each.name for each in plan.specs if each.login is not None}
    assert set(rotate(tmp_path, "begin")) == set(old) | logins
    _assert_kubeconfigs(tmp_path)
    assert issue(tmp_path) == {}
    written = rotate(tmp_path, "leaves")
    assert set(written) == {each.name for each in plan.specs}
    _assert_kubeconfigs(tmp_path)
    rotate(tmp_path, "end")
    _assert_kubeconfigs(tmp_path)
    assert issue(tmp_path) == {}
    for spec in plan.specs:
        if spec.issuer and spec.certificate is not None:
            leaf, ca = facts(spec.certificate), facts(plan.spec(spec.issuer).place)
            assert (signed_by(leaf, ca), signed_by(leaf, old[spec.issuer])) == (True, False)


def _assert_kubeconfigs(folder: Path) -> None:
    """Check that each kubeconfig holds what the file of the CA holds, and its own pair."""
    plan = plan_of(folder)
    for spec in plan.specs:
        if spec.login is None:
            continue
        config = read_kubeconfig(spec.login.path.read_bytes())
        assert config.clusters[0].ca.data == plan.spec(spec.login.ca).place.read_bytes()
        pair = read_content(config.users[0].certificate.data + config.users[0].key.data)
        assert pair.certificates[0].public_key == pair.keys[0].public_key


def test_one_ca_of_three_is_replaced_alone(tmp_path: Path) -> None:
    (tmp_path / "pki.toml").write_text(CLUSTER.format(layout="cfssl", cas=3, more=""))
    issue(tmp_path)
    before = snapshot(tmp_path)
    assert rotate(tmp_path, "begin", "etcd-ca") == {"etcd-ca": "rotated"}
    written = set(rotate(tmp_path, "leaves"))
    expected = {"etcd-ca", "etcd", "etcd-client", "apiserver-etcd-client", "flanneld"}
    assert written == expected
    rotate(tmp_path, "begin", "ca")
    assert_refused("wrong-step", "etcd-ca", tmp_path, "leaves")
    rotate(tmp_path, "end", "etcd-ca")
    assert [each.ca for each in plan_of(tmp_path).rotations] == ["ca"]
    rotate(tmp_path, "back")
    after = snapshot(tmp_path)
    assert after["pki/ca.pem"] == before["pki/ca.pem"]
    assert after["pki/front-proxy-ca.pem"] == before["pki/front-proxy-ca.pem"]
    assert after["pki/etcd-ca.pem"] != before["pki/etcd-ca.pem"]


def test_keys_of_cas_never_leave_their_directory(tmp_path: Path) -> None:
    more = 'ca-keys = "usb"'
    (tmp_path / "pki.toml").write_text(CLUSTER.format(layout="kubeadm", cas=3, more=more))
    issue(tmp_path)
    old = (tmp_path / "usb/pki/ca.key").read_bytes()
    for step in ("begin", "leaves", "end"):
        rotate(tmp_path, step)
        keys = [
            path for path in (tmp_path / "usb").rglob("*.key") if ".kbuild-pki" not in path.parts
        ]
        expected = {"begin": "ca-new.key", "leaves": "ca-old.key", "end": "ca.key"}[step]
        assert expected in {path.name for path in keys}
    secrets = {path.read_bytes() for path in (tmp_path / "usb").rglob("*.key")}
    assert old in secrets
    elsewhere = {path.read_bytes() for path in (tmp_path / "pki").rglob("*") if path.is_file()}
    assert secrets.isdisjoint(elsewhere)


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_the_key_of_a_new_ca_is_encrypted_as_the_old_one(
    issued: Recipe, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = issued.folder / "ca-key.pem"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    formats = getattr(serialization.PrivateFormat, form)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, formats, encryption))
    head = path.read_bytes().splitlines()[0]
    monkeypatch.delenv("CFSSL_CA_PK_PASSWORD", raising=False)
    assert_refused("wrong-key-password", "CFSSL_CA_PK_PASSWORD", issued.folder, "begin")
    monkeypatch.setenv("CFSSL_CA_PK_PASSWORD", "wrong")
    assert_refused("wrong-key-password", "password is wrong", issued.folder, "begin")
    monkeypatch.setenv("CFSSL_CA_PK_PASSWORD", "secret")
    for step in ("begin", "leaves", "back", "leaves", "end"):
        rotate(issued.folder, step)
        for each in issued.folder.glob("ca*-key.pem"):
            assert each.read_bytes().splitlines()[0] == head
            with pytest.raises(TypeError):
                serialization.load_pem_private_key(each.read_bytes(), None)
    new = serialization.load_pem_private_key(path.read_bytes(), b"secret").public_key()
    der = new.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert der == facts(issued.folder / "ca.pem").public_key


def test_the_key_of_a_new_ca_is_encrypted_if_the_plan_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CLUSTER.format(layout="cfssl", cas=1, more="")
    (tmp_path / "pki.toml").write_text(text)
    issue(tmp_path)
    (tmp_path / "pki.toml").write_text(f"encrypt-ca-keys = true\n{text}")
    monkeypatch.delenv("CFSSL_CA_PK_PASSWORD", raising=False)
    assert_refused("no-key-password", "CFSSL_CA_PK_PASSWORD", tmp_path, "begin")
    monkeypatch.setenv("CFSSL_CA_PK_PASSWORD", "secret")
    rotate(tmp_path, "begin")
    assert b"ENCRYPTED" in (tmp_path / "pki/ca-new-key.pem").read_bytes()


def test_a_ca_below_the_root_is_signed_again_with_its_key(issued: Recipe) -> None:
    folder = issued.folder
    profile = {"expiry": "8760h", "usages": ["cert sign"], "ca_constraint": {"is_ca": True}}
    config = json.loads((folder / "ca-config.json").read_text())
    config["signing"]["profiles"]["second"] = profile
    issued.config(config)
    issued.request("second", {"CN": "Second", "key": {"algo": "ecdsa", "size": 256}})
    issue(folder)
    key = public(folder / "second-key.pem")
    rotate(folder, "begin")
    rotate(folder, "leaves", new_keys=True)
    rotate(folder, "end")
    assert signed_by(facts(folder / "second.pem"), facts(folder / "ca.pem"))
    assert public(folder / "second-key.pem") == key == facts(folder / "second.pem").public_key


# --- killed ---------------------------------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
from tests.unit.pki.conftest import die_at
from tests.unit.pki.test_rotating import rotate
die_at(sys.argv[3], int(sys.argv[4]))
rotate(Path(sys.argv[1]), sys.argv[2])
"""
ORDER: dict[str, Step] = {"begin": "leaves", "leaves": "end"}


def _kills() -> Iterator[tuple[str, str, int, bool]]:
    yield from (("begin", "fsync", 2, False), ("begin", "replace", 1, True))
    yield from (("begin", "replace", 3, True), ("leaves", "fsync", 4, False))
    yield from (("leaves", "replace", 1, True), ("leaves", "replace", 6, True))
    # The first file that is unlinked is that of a journal that was not finished.
    yield from (("leaves", "unlink", 2, True), ("end", "replace", 2, True))
    yield from (("end", "unlink", 2, True), ("end", "unlink", 4, True), ("end", "fsync", 1, False))


@pytest.mark.slow
@pytest.mark.parametrize(("step", "call", "number", "is_done"), list(_kills()))
def test_after_kill_9_a_step_is_made_or_not(
    issued: Recipe, step: Step, call: str, number: int, is_done: bool
) -> None:
    folder, made = issued.folder, list[Step]()
    for each in ("begin", "leaves", "end"):
        if each == step:
            break
        rotate(folder, each)
        made.append(each)
    before = snapshot(folder)
    words = (sys.executable, "-c", KILLED, str(folder), step, call, str(number))
    assert subprocess.run(words, check=False, cwd=Path(__file__).parents[3]).returncode == -9
    with locked(folder) as is_finished:
        assert is_finished is is_done
    if not is_done:
        assert snapshot(folder) == before
        rotate(folder, step)
    assert issue(folder) == {}
    assert public(folder / "ca-key.pem") == facts(folder / "ca.pem").public_key
    if step in ORDER:
        rotate(folder, ORDER[step])
    else:
        assert not (folder / "kbuild-pki-rotation.json").exists()
        assert not (folder / "ca-old-key.pem").exists()


def test_a_full_disk_changes_nothing(rotating: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(rotating.folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(KbuildError) as caught:
            rotate(rotating.folder, "back")
    assert caught.value.kind == "disk-full"
    assert snapshot(rotating.folder) == before
    assert [each for each in decide(plan_of(rotating.folder), NOW) if not each.is_kept] == []


@pytest.mark.parametrize("why", ["", "elsewhere", "encrypted"])
def test_the_controller_manager_gets_only_a_key_that_it_may_have_and_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setenv("CFSSL_CA_PK_PASSWORD", "secret")
    more = {"": "", "elsewhere": 'ca-keys = "usb"', "encrypted": "encrypt-ca-keys = true"}[why]
    (tmp_path / "pki.toml").write_text(CLUSTER.format(layout="cfssl", cas=3, more=more))
    issue(tmp_path)
    for step in ("begin", "leaves", "end"):
        plan = plan_of(tmp_path)
        cas = turn_of(plan, step, ("ca",), NOW).cas
        told = {e.component: e for e in deliveries(plan, cas, with_leaves=False)}
        manager = told["kube-controller-manager"].trusted
        options = [option for each in manager.values() for option in each]
        assert "--root-ca-file" in options
        assert any("--cluster-signing" in option for option in options) is not bool(why)
        assert any(path.name.endswith("key.pem") for path in manager) is not bool(why)
        facts_told = " ".join(facts_to_know(plan, cas))
        assert ("--cluster-signing-cert-file" in facts_told) is not bool(why)
        rotate(tmp_path, step, "ca")


@pytest.mark.parametrize("encrypts", [False, True])
def test_a_signer_that_the_controller_manager_loses_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, encrypts: bool
) -> None:
    monkeypatch.setenv("CFSSL_CA_PK_PASSWORD", "secret")
    text = CLUSTER.format(layout="cfssl", cas=3, more="{more}")
    (tmp_path / "pki.toml").write_text(text.format(more=""))
    issue(tmp_path)
    more = "encrypt-ca-keys = true" if encrypts else ""
    (tmp_path / "pki.toml").write_text(text.format(more=more))
    said = {
        "begin": "After the step leaves, the controller manager cannot sign",
        "leaves": "The controller manager cannot sign with the new CA.",
        "back": "After the step leaves, the controller manager cannot sign",
    }
    steps: tuple[Step, ...] = ("begin", "leaves", "back")
    for step in steps:
        rotate(tmp_path, step)
        plan = plan_of(tmp_path)
        told = " ".join(facts_to_know(plan, rotated(plan)))
        assert (said[step] in told) is encrypts
        assert ("Let every kubelet get a new one" in told) is (step == "leaves" and not encrypts)


def test_the_key_of_a_ca_that_is_a_link_is_not_rotated(
    recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The key of the other CA would be written beside the link, and not where the key is."""
    issue(recipe.folder)
    key, safe = recipe.folder / "ca-key.pem", tmp_path_factory.mktemp("safe") / "ca-key.pem"
    key.rename(safe)
    key.symlink_to(safe)
    before = snapshot(recipe.folder)
    with pytest.raises(RotationRefused, match="is a symbolic link"):
        rotate(recipe.folder, "begin")
    assert snapshot(recipe.folder) == before
    key.unlink()
    safe.rename(key)
    rotate(recipe.folder, "begin")
