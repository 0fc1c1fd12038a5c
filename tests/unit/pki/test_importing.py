"""``kbuild pki import``: the plan that it derives keeps what is there, or it is refused."""

import json
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from kbuild.base.errors import KbuildError
from kbuild.pki.api import Derived, Step, decide, derive, locked, plan_of, write_derived
from kbuild.pki.errors import PkiBusy
from kbuild.pki.model import Plan
from kbuild.x509.api import KeyKind, key_pem, load_key, name_of, new_key
from kbuild.x509.private import hash_for
from tests.unit.pki.conftest import CONFIG, KEY, NOW, SIGNING, Recipe, facts, issue, snapshot
from tests.unit.pki.test_rotating import rotate

TOML = """\
layout = "{layout}"
cas = {cas}
key = "ecdsa-p256"
cluster-domain = "example.internal"
service-network = ["10.254.0.0/16", "fd00::/112"]
vips = ["192.0.2.100", "api.example.org"]
ca-years = 20
leaf-years = 3
[nodes.m1]
addresses = ["192.0.2.11", "2001:db8::11"]
roles = ["control-plane"]
[nodes.e1]
addresses = ["192.0.2.21"]
roles = ["etcd"]
[nodes."w1.example.org"]
addresses = ["192.0.2.31"]
"""


def said(plan: Plan) -> dict[str, Any]:
    """Return what a plan says of each certificate; names have no order."""
    return {
        spec.name: (
            *(
                spec.issuer,
                name_of(spec.wanted.subject),
                set(spec.wanted.names),
                set(spec.wanted.usages),
            ),
            *(spec.wanted.path_length, spec.key_kind, spec.term.lifetime, spec.place, spec.key),
            *(spec.request, spec.login, spec.wanted.crl_url, spec.wanted.ocsp_url),
        )
        for spec in plan.specs
    } | {pair.name: pair.key for pair in plan.pairs}


def assert_imported(folder: Path) -> None:
    """Check that without its plan, a directory gets one that says the same."""
    before = plan_of(folder)
    for path in before.inputs:
        path.unlink()
    content = snapshot(folder)
    derived = write_derived(folder, (), NOW)
    after = plan_of(folder)
    assert said(after) == said(before)
    assert {each.state for each in decide(after, NOW)} == {"kept"}
    assert {each.name for each in derived.kept} == {each.name for each in after.specs}
    assert {**snapshot(folder), **content} == snapshot(folder)
    assert issue(folder) == {}


def assert_refused(folder: Path, kind: str, said: str, *without: str) -> None:
    before = snapshot(folder)
    with pytest.raises(KbuildError) as caught:
        write_derived(folder, without, NOW)
    assert caught.value.kind == kind
    assert said in f"{caught.value.happened} {caught.value.hint}"
    assert snapshot(folder) == before


def forget(recipe: Recipe) -> None:
    for path in recipe.folder.glob("*.json"):
        path.unlink()


def test_the_files_of_cfssl_are_derived(recipe: Recipe) -> None:
    names = [{"C": "CN", "O": "k8s", "OU": "System"}, {"O": "b"}]
    recipe.change("ca", names=names, ca={"expiry": "876000h", "pathlen": 1})
    recipe.change("server", names=names, hosts=["192.0.2.1", "::1", "*.example.org", "a@b.example"])
    recipe.change("client", CN="flanneld & Söhne", key={"algo": "rsa", "size": 2048}, hosts=[])
    issue(recipe.folder)
    assert_imported(recipe.folder)


def test_certificates_that_are_alike_share_a_profile(recipe: Recipe) -> None:
    recipe.config({"signing": {"profiles": {"k": CONFIG["signing"]["profiles"]["server"]}}})
    issue(recipe.folder)
    assert_imported(recipe.folder)
    config = json.loads((recipe.folder / "ca-config.json").read_text())
    assert list(config["signing"]["profiles"]) == ["kubernetes"]


def test_urls_and_intermediate_cas_are_derived(recipe: Recipe) -> None:
    urls = {
        "expiry": "1h30m5s",
        "usages": [*SIGNING, "ipsec user"],
        "crl_url": "http://crl.example.org/",
        "ocsp_url": "http://ocsp.example.org",
        "issuer_urls": ["http://ca.example.org/1", "http://ca.example.org/2"],
        "ocsp_no_check": True,
    }
    second = {
        "expiry": "8760h",
        "usages": ["cert sign"],
        "ca_constraint": {"is_ca": True, "max_path_len_zero": True},
    }
    profiles = {"urls": urls, "second": second, **CONFIG["signing"]["profiles"]}
    recipe.config({"signing": {"profiles": profiles}})
    recipe.request("urls", {"CN": "u", "key": KEY, "serialnumber": "7"})
    recipe.request("second", {"CN": "Second", "key": KEY})
    issue(recipe.folder)
    assert_imported(recipe.folder)


def test_several_cas_are_told_apart_by_what_they_signed(recipe: Recipe) -> None:
    recipe.request("etcd-ca", {"CN": "etcd-ca", "key": KEY})
    with pytest.raises(KbuildError) as caught:
        plan_of(recipe.folder)
    assert caught.value.kind == "unknown-signer"
    plan = plan_of(recipe.folder, signers={"server": "etcd-ca", "client": "ca"})
    assert (plan.spec("server").issuer, plan.spec("client").issuer) == ("etcd-ca", "ca")
    for name, ca in (("serve", "ca"), ("server", "etcd")):
        with pytest.raises(KbuildError, match="did you mean"):
            plan_of(recipe.folder, signers={name: ca})


def test_a_directory_with_several_cas_is_imported(tmp_path: Path) -> None:
    text = TOML.format(layout="cfssl", cas=3).replace("[nodes.m1]", "output = '.'\n[nodes.m1]")
    components = 'components = ["etcd", "apiserver", "front-proxy"]\n'
    (tmp_path / "pki.toml").write_text(components + text)
    issue(tmp_path)
    (tmp_path / "pki.toml").unlink()
    derived = write_derived(tmp_path, (), NOW)
    plan = plan_of(tmp_path)
    assert (tmp_path / "etcd-csr.json").exists()
    assert plan.spec("etcd").issuer == "etcd-ca"
    assert plan.spec("kubernetes").issuer == "ca"
    assert {each.state for each in decide(plan, NOW)} == {"kept"}
    assert len(derived.kept) == len(plan.specs) == 9


@pytest.mark.parametrize("layout", ["cfssl", "kubeadm"])
@pytest.mark.parametrize("cas", [1, 3])
def test_a_pki_toml_is_derived(tmp_path: Path, layout: str, cas: int) -> None:
    (tmp_path / "pki.toml").write_text(TOML.format(layout=layout, cas=cas))
    issue(tmp_path)
    assert_imported(tmp_path)


@pytest.mark.parametrize("layout", ["cfssl", "kubeadm"])
def test_what_is_not_as_derived_is_said_of_single_certificates(tmp_path: Path, layout: str) -> None:
    name, admin, client = {
        "cfssl": ("kubernetes", "admin", "front-proxy-client"),
        "kubeadm": ("pki/apiserver", "admin.conf", "pki/front-proxy-client"),
    }[layout]
    own = f"""\
[certificates."{name}"]
subject = {{ O = ["k8s", "b"], CN = ["kubernetes"] }}
extra-hosts = ["other.example.org"]
without-hosts = ["localhost", "::1"]
lifetime = "43801h7s"
usages = ["digital signature", "server auth", "client auth"]
[certificates."{admin}"]
server = "https://api.example.org:8443"
[certificates."{client}"]
key = "rsa-2048"
"""
    (tmp_path / "pki.toml").write_text(TOML.format(layout=layout, cas=3) + own)
    issue(tmp_path)
    place = plan_of(tmp_path).spec(name).place
    assert "DNS:localhost" not in facts(place).names
    assert facts(place).organizations == ("b", "k8s")
    before = {each.name: set(each.wanted.names) for each in plan_of(tmp_path).specs}
    (tmp_path / "pki.toml").unlink()
    write_derived(tmp_path, (), NOW)
    plan = plan_of(tmp_path)
    assert {each.name: set(each.wanted.names) for each in plan.specs} == before
    assert {each.state for each in decide(plan, NOW)} == {"kept"}
    text = (tmp_path / "pki.toml").read_text()
    for line in own.splitlines():
        if not line.startswith(("subject", "extra")):
            assert line in text
    assert 'without-hosts = ["localhost", "::1"]' in text


def test_without_kubelets_the_only_node_is_the_one_that_api_server_and_etcd_name(
    tmp_path: Path,
) -> None:
    """As after `kubeadm init phase certs all`, where etcd has the name of the node."""
    own = """\
layout = "kubeadm"
key = "ecdsa-p256"
components = ["etcd", "apiserver", "admin", "controller-manager"]
vips = ["192.0.2.100"]
[nodes.m1]
addresses = ["192.0.2.11"]
roles = ["control-plane", "etcd"]
[certificates."pki/etcd/server"]
subject = { CN = ["m1"] }
[certificates."pki/apiserver"]
without-hosts = ["localhost", "127.0.0.1", "::1"]
[certificates."controller-manager.conf"]
lifetime = "876000h9s"
server = "https://192.0.2.11:6443"
"""
    (tmp_path / "pki.toml").write_text(own.replace("key =", "ca-years = 101\nkey ="))
    issue(tmp_path)
    assert_imported(tmp_path)
    text = (tmp_path / "pki.toml").read_text()
    for line in own.splitlines()[3:]:
        assert line.replace("[nodes.m1]", '[nodes."m1"]') in text


def test_an_empty_host_of_cfssl_is_no_difference(recipe: Recipe) -> None:
    issue(recipe.folder)
    resign(recipe.folder, "client", x509.SubjectAlternativeName([x509.DNSName("")]))
    assert facts(recipe.folder / "client.pem").names == ("DNS:",)
    forget(recipe)
    derive(recipe.folder)
    recipe.change("client", hosts=[""])
    recipe.config(CONFIG)
    for name in ("ca", "server"):
        recipe.change(name)
    assert {each.state for each in decide(plan_of(recipe.folder), NOW)} == {"kept"}


def test_a_plan_is_never_replaced(recipe: Recipe) -> None:
    issue(recipe.folder)
    assert_refused(recipe.folder, "plan-exists", "ca-config.json")
    for name in ("ca", "client", "server"):
        (recipe.folder / f"{name}-csr.json").unlink()
    assert_refused(recipe.folder, "plan-exists", "ca-config.json")
    (recipe.folder / "ca-config.json").unlink()
    (recipe.folder / "pki.toml").write_text("")
    assert_refused(recipe.folder, "plan-exists", "pki.toml")


def resign(folder: Path, name: str, *more: x509.ExtensionType, ca: str = "ca") -> None:
    """Sign a certificate again, with more extensions."""
    old = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
    by = x509.load_pem_x509_certificate((folder / f"{ca}.pem").read_bytes())
    key = load_key((folder / f"{ca}-key.pem").read_bytes(), str)
    builder = x509.CertificateBuilder(
        issuer_name=by.subject,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=old.serial_number,
        not_valid_before=old.not_valid_before_utc,
        not_valid_after=old.not_valid_after_utc,
    )
    for each in (*(e.value for e in old.extensions), *more):
        builder = builder.add_extension(each, critical=False)
    signed = builder.sign(key, hash_for(key))
    (folder / f"{name}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
USAGE = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.2")


def other_ca(folder: Path) -> None:
    (folder / "ca.pem").unlink()
    (folder / "ca-key.pem").unlink()
    other = Recipe(folder)
    other.change("ca", CN="other")
    for name in ("server", "client"):
        (folder / f"{name}-csr.json").unlink()
    issue(folder)


def key_of_another(folder: Path) -> None:
    key = new_key(KeyKind(algorithm="ecdsa", size=256))
    (folder / "server-key.pem").write_bytes(key_pem(key))


@pytest.mark.parametrize(
    ("spoil", "kind", "expected"),
    [
        (lambda f: resign(f, "server", UNKNOWN), "not-expressible", "extension 1.2.3.4"),
        (
            lambda f: resign(f, "client", x509.IssuerAlternativeName([x509.DNSName("a")])),
            "not-expressible",
            "--without client",
        ),
        (lambda f: (f / "ca.pem").unlink(), "signer-missing", "CN=kubernetes"),
        (other_ca, "signer-missing", "by none of the CAs in its directory (ca.pem)"),
        (
            lambda f: (f / "server.crt").write_bytes((f / "server.pem").read_bytes()),
            *(
                "duplicate-name",
                "server.pem and server.crt",
            ),
        ),
        (key_of_another, "key-of-another", "server-key.pem"),
        (
            lambda f: (f / "server.pem").write_text("-----BEGIN CERTIFICATE-----\n"),
            *(
                "bad-certificate-file",
                "truncated",
            ),
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(
    recipe: Recipe, spoil: Callable[[Path], object], kind: str, expected: str
) -> None:
    issue(recipe.folder)
    forget(recipe)
    spoil(recipe.folder)
    forget(recipe)
    assert_refused(recipe.folder, kind, expected)


def test_what_cannot_be_planned_can_be_left_out(recipe: Recipe) -> None:
    issue(recipe.folder)
    resign(recipe.folder, "server", UNKNOWN)
    forget(recipe)
    derived = write_derived(recipe.folder, ("server",), NOW)
    assert [each.name for each in derived.kept] == ["ca", "client"]
    forget(recipe)
    assert_refused(recipe.folder, "unknown-certificate", "ca, client, server", "serve")


def test_a_component_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "pki.toml").write_text(TOML.format(layout="kubeadm", cas=3))
    issue(tmp_path)
    (tmp_path / "pki.toml").unlink()
    write_derived(tmp_path, ("pki/flannel-etcd-client",), NOW)
    assert "pki/flannel-etcd-client" not in {each.name for each in plan_of(tmp_path).specs}


def test_keys_that_are_not_there_are_told(recipe: Recipe) -> None:
    issue(recipe.folder)
    for name in ("ca", "client"):
        (recipe.folder / f"{name}-key.pem").unlink()
    forget(recipe)
    derived = derive(recipe.folder)
    assert [each.name for each in derived.kept] == ["ca", "server"]
    assert "ca-key.pem is not there: nothing can be signed without it." in derived.notes
    assert any("client-key.pem is not there" in note for note in derived.notes)


def test_what_is_passed_over_is_told(recipe: Recipe) -> None:
    issue(recipe.folder)
    forget(recipe)
    ca, server = (recipe.folder / "ca.pem").read_bytes(), recipe.folder / "server.pem"
    server.write_bytes(server.read_bytes() + ca)
    (recipe.folder / "dh.pem").write_text("parameters")
    (recipe.folder / "other.crt").write_bytes(ca)
    (recipe.folder / "mine.kubeconfig").write_text("")
    told = " ".join(derive(recipe.folder).notes)
    for name in (
        "server.pem has several",
        "dh.pem is passed",
        "other.crt is",
        "mine.kubeconfig is",
    ):
        assert name in told


def test_expired_certificates_are_planned_as_they_were(recipe: Recipe) -> None:
    issue(recipe.folder, NOW - timedelta(days=4000))
    forget(recipe)
    write_derived(recipe.folder, (), NOW)
    # The plan is right, and says that they have expired.
    with pytest.raises(KbuildError) as caught:
        decide(plan_of(recipe.folder), NOW)
    assert caught.value.kind == "ca-expired"


def test_where_nothing_is_nothing_is_imported(tmp_path: Path) -> None:
    assert_refused(tmp_path, "nothing-to-import", "--dir")
    (tmp_path / "notes.pem").write_text("")
    assert_refused(tmp_path, "nothing-to-import", "--dir")
    assert_refused(tmp_path / "no", "nothing-to-import", "--dir")


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
HOST = st.one_of(
    LABEL.filter(lambda text: not text.isdigit()).map(lambda text: f"{text}.example"),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)
NAME = st.fixed_dictionaries({}, optional={"O": TEXT, "OU": TEXT, "L": TEXT, "ST": TEXT})
REQUEST = st.fixed_dictionaries(
    {
        "CN": TEXT,
        "hosts": st.lists(HOST, max_size=5, unique=True),
        "names": st.lists(NAME, max_size=2),
        "key": st.sampled_from([KEY, {"algo": "ecdsa", "size": 521}, {"algo": "ed25519"}]),
    }
)
PROFILE = st.fixed_dictionaries(
    {
        "expiry": st.integers(3600, 40_000 * 3600).map(lambda seconds: f"{seconds}s"),
        "usages": st.lists(
            st.sampled_from(["signing", "key encipherment", "server auth", "client auth", "any"]),
            min_size=1,
            unique=True,
        ),
    }
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    ca=REQUEST,
    leaves=st.dictionaries(LABEL, st.tuples(REQUEST, PROFILE), max_size=3),
)
def test_any_requests_survive_the_round_trip(
    ca: dict[str, Any], leaves: dict[str, tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profiles = {leaf: profile for leaf, (_, profile) in leaves.items() if leaf != "ca"}
        config = {"signing": {"default": {"expiry": "1h"}, "profiles": profiles}}
        (folder / "ca-config.json").write_text(json.dumps(config))
        requests = {leaf: leaves[leaf][0] for leaf in profiles} | {"ca": ca}
        for leaf, request in requests.items():
            (folder / f"{leaf}-csr.json").write_text(json.dumps(request))
        try:
            issue(folder)
        except KbuildError:
            return  # such as a host that is there twice in two spellings
        assert_imported(folder)


@pytest.mark.parametrize("steps", [("begin",), ("begin", "leaves")])
def test_nothing_is_imported_while_a_ca_is_being_replaced(
    recipe: Recipe, steps: tuple[Step, ...]
) -> None:
    issue(recipe.folder)
    for step in steps:
        rotate(recipe.folder, step)
    for path in (*recipe.folder.glob("*-csr.json"), recipe.folder / "ca-config.json"):
        path.unlink()
    assert_refused(recipe.folder, "bad-pki-file", "the CA ca is being replaced")


@pytest.mark.parametrize("layout", ["cfssl", "kubeadm"])
@pytest.mark.parametrize("below", [".", "pki"])
def test_a_rotation_is_found_beside_and_below_a_pki_toml(
    tmp_path: Path, layout: str, below: str
) -> None:
    (tmp_path / "pki.toml").write_text(TOML.format(layout=layout, cas=1))
    issue(tmp_path)
    rotate(tmp_path, "begin")
    (tmp_path / "pki.toml").unlink()
    assert_refused(tmp_path / below, "bad-pki-file", "take it back with `--step back`")


def test_what_a_rotation_has_left_is_no_ca_of_its_own(recipe: Recipe) -> None:
    issue(recipe.folder)
    for step in ("begin", "leaves", "end"):
        rotate(recipe.folder, step)
    content = (recipe.folder / "ca.pem").read_bytes()
    for name in ("ca-signing.pem", "ca-new-key.pem", "ca-old-key.pem"):
        (recipe.folder / name).write_bytes(content if name == "ca-signing.pem" else b"old")
    for kind in (".pem", "-key.pem"):  # one of its own that has such a name
        there = recipe.folder / f"client{kind}"
        there.rename(recipe.folder / f"client-signing{kind}")
    forget(recipe)
    derived = write_derived(recipe.folder, (), NOW)
    assert [each.name for each in derived.kept] == ["ca", "client-signing", "server"]
    assert "ca-signing.pem is passed over: a rotation of ca.pem has left it." in derived.notes


# --- others at work -------------------------------------------------------------------------------


def test_a_plan_is_derived_while_nobody_else_issues(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(recipe.folder)
    for path in recipe.folder.glob("*.json"):
        path.unlink()
    with locked(recipe.folder), pytest.raises(PkiBusy):
        write_derived(recipe.folder, (), NOW)
    assert not list(recipe.folder.glob("*.json"))
    seen = []

    def deriving(*words: Any) -> Derived:
        with pytest.raises(PkiBusy), locked(recipe.folder):
            pass
        seen.append(words)
        return derive(*words)

    monkeypatch.setattr("kbuild.pki.importing.derive", deriving)
    write_derived(recipe.folder, (), NOW)
    assert len(seen) == 1
