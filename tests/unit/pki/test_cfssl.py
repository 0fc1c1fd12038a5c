"""The files of cfssl, with its meaning."""

from datetime import timedelta
from typing import Any

import pytest

from kbuild.base.errors import KbuildError
from kbuild.pki.api import plan_of
from kbuild.pki.model import Plan
from tests.unit.pki.conftest import CONFIG, KEY, REQUESTS, Recipe


def plan(recipe: Recipe, **profiles: str) -> Plan:
    return plan_of(recipe.folder, profiles=profiles)


def test_a_request_takes_the_profile_with_its_name(recipe: Recipe) -> None:
    planned = plan(recipe)
    server, client = planned.spec("server"), planned.spec("client")
    assert server.wanted.usages == ("digital signature", "key encipherment", "server auth")
    assert server.wanted.names == ("IP:127.0.0.1", "DNS:n1")
    assert (server.issuer, client.issuer) == ("ca", "ca")
    assert client.term.lifetime == timedelta(days=365)


def test_a_ca_is_valid_for_five_years_unless_it_says_more(recipe: Recipe) -> None:
    assert plan(recipe).spec("ca").term.lifetime == timedelta(days=5 * 365)
    recipe.change("ca", ca={"expiry": "876000h", "pathlen": 2})
    ca = plan(recipe).spec("ca")
    assert ca.term.lifetime == timedelta(days=36500)
    assert ca.wanted.path_length == 2
    assert ca.wanted.usages == ("cert sign", "crl sign")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({}, None), ({"pathlen": 0}, None), ({"pathlenzero": True}, 0), ({"pathlen": 3}, 3)],
)
def test_a_path_length_is_that_of_cfssl(
    recipe: Recipe, limits: dict[str, Any], expected: int | None
) -> None:
    recipe.change("ca", ca=limits)
    assert plan(recipe).spec("ca").wanted.path_length == expected


def test_the_only_profile_is_taken_and_any_can_be_named(recipe: Recipe) -> None:
    profiles = {"kubernetes": CONFIG["signing"]["profiles"]["server"]}
    recipe.config({"signing": {**CONFIG["signing"], "profiles": profiles}})
    assert plan(recipe).spec("client").source == "client-csr.json, profile kubernetes"
    recipe.config(CONFIG)
    assert "server auth" in plan(recipe, client="server").spec("client").wanted.usages


def test_without_profiles_it_is_the_default_of_cfssl(recipe: Recipe) -> None:
    recipe.config({"signing": {}})
    server = plan(recipe).spec("server")
    assert server.wanted.usages[2:] == ("server auth", "client auth")
    assert server.term.lifetime == timedelta(days=365)


def test_keys_may_be_spelt_in_any_case_as_for_go(recipe: Recipe) -> None:
    recipe.request("server", {"cn": "etcd", "HOSTS": ["n1"], "Key": {"Algo": "rsa", "SIZE": 4096}})
    server = plan(recipe).spec("server")
    assert server.wanted.subject == (("CN", ("etcd",)),)
    assert server.key_kind.shown == "RSA 4096"


def test_without_a_key_it_is_the_one_of_cfssl(recipe: Recipe) -> None:
    recipe.request("server", {"CN": "etcd", "hosts": ["n1"]})
    assert plan(recipe).spec("server").key_kind.shown == "ECDSA P-256"


def test_an_empty_host_is_left_out_and_said(recipe: Recipe) -> None:
    recipe.change("client", hosts=[""])
    planned = plan(recipe)
    assert planned.spec("client").wanted.names == ()
    assert any("client-csr.json has the empty host" in note for note in planned.notes)


def test_an_api_server_that_lacks_a_usual_name_is_said(recipe: Recipe) -> None:
    recipe.change("server", hosts=["kubernetes", "kubernetes.default", "127.0.0.1"])
    [note] = plan(recipe).notes
    assert "lacks kubernetes.default.svc, kubernetes.default.svc.cluster.local" in note


def profile(**values: object) -> dict[str, Any]:
    """Return a ca-config.json in which the profile server has other values."""
    signing = CONFIG["signing"]
    server = {**signing["profiles"]["server"], **values}
    return {"signing": {**signing, "profiles": {**signing["profiles"], "server": server}}}


@pytest.mark.parametrize(
    ("config", "kind", "said"),
    [
        ({**CONFIG, "signin": {}}, "unknown-pki-key", "did you mean signing"),
        (profile(usage=[]), "unknown-pki-key", "did you mean usages"),
        (profile(usages=["sever auth"]), "unknown-pki-key", "did you mean server auth"),
        (profile(usages=[]), "profile-without-usages", "server has no usages"),
        (profile(expiry="5y"), "bad-pki-file", "43800h"),
        (profile(expiry=43800), "bad-pki-file", "must be text"),
        (profile(expiry=""), "bad-pki-file", "expiry is missing"),
        (profile(not_after="2031-01-31"), "bad-pki-file", "time zone"),
        (profile(remote="other"), "not-supported-here", "remote"),
        (profile(ca_constraint={"isca": True}), "unknown-pki-key", "did you mean is_ca"),
        ([], "bad-pki-file", "must be a table"),
    ],
)
def test_a_mistake_in_the_configuration_is_refused(
    recipe: Recipe, config: object, kind: str, said: str
) -> None:
    recipe.config(config)
    assert_refused(recipe, kind, said)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"host": []}, "unknown-pki-key", "did you mean hosts"),
        ({"hosts": ["10.0.0.1:2379"]}, "bad-host", "it has a port"),
        ({"hosts": ["n1", "n1"]}, "duplicate-name", "n1 twice"),
        ({"hosts": ["n1", "N1"]}, "duplicate-name", "n1 twice"),
        ({"hosts": ["::1", "0:0::1"]}, "duplicate-name", "::1 twice"),
        ({"hosts": "n1"}, "bad-pki-file", "must be a list"),
        ({"key": {"algo": "rsa", "size": 1024}}, "bad-pki-file", "2048 to 8192"),
        ({"key": {"algo": "ecdsa", "size": 255}}, "bad-pki-file", "256, 384 and 521"),
        ({"key": {"algo": "dsa", "size": 1024}}, "bad-pki-file", "rsa, ecdsa or ed25519"),
        ({"names": [{"CN": "x"}]}, "unknown-pki-key", "names[0]"),
        ({"names": [{"C": "Germany"}]}, "bad-pki-file", "two letters"),
        ({"CN": "x" * 65}, "bad-pki-file", "64 characters"),
        ({"CN": "", "hosts": []}, "bad-pki-file", "neither CN nor names"),
        ({"extensions": [{}]}, "not-supported-here", "extensions"),
    ],
)
def test_a_mistake_in_a_request_is_refused(
    recipe: Recipe, changes: dict[str, Any], kind: str, said: str
) -> None:
    recipe.change("server", **changes)
    assert_refused(recipe, kind, said)


def test_a_profile_that_is_not_known_is_refused(recipe: Recipe) -> None:
    recipe.request("web", {"CN": "web", "key": KEY})
    assert_refused(recipe, "unknown-profile", "--profile web=PROFILE")
    assert_refused(recipe, "unknown-profile", "did you mean server", web="sever")
    assert_refused(recipe, "unknown-profile", "did you mean server", web="server", sever="server")


def test_one_ca_must_sign(recipe: Recipe) -> None:
    recipe.request("etcd-ca", REQUESTS["ca"])
    assert_refused(recipe, "unknown-signer", "several CAs, and no certificate yet")
    for name in ("etcd-ca", "ca"):
        (recipe.folder / f"{name}-csr.json").unlink()
    assert_refused(recipe, "bad-pki-file", "none of the requests is that of a CA")


def test_a_directory_without_a_plan_is_refused(recipe: Recipe) -> None:
    for path in recipe.folder.glob("*-csr.json"):
        path.unlink()
    assert_refused(recipe, "nothing-planned", "kbuild pki init")


@pytest.mark.parametrize("content", [b"{", b'{"CN": "a", "CN": "b"}', b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(recipe: Recipe, content: bytes) -> None:
    (recipe.folder / "server-csr.json").write_bytes(content)
    assert_refused(recipe, "bad-pki-file", "server-csr.json")


def assert_refused(recipe: Recipe, kind: str, said: str, **profiles: str) -> None:
    with pytest.raises(KbuildError) as caught:
        plan(recipe, **profiles)
    assert (caught.value.kind, caught.value.exit_code) == (kind, 2)
    assert said in f"{caught.value.happened} {caught.value.hint}"
