"""What kbuild asks of a registry, and as whom."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbuild.base import network
from kbuild.base.errors import (
    BadLoginFile,
    CredentialHelperFailed,
    ImageNotFound,
    RegistryUnreachable,
)
from kbuild.base.registry import Repository
from tests.support.recorder import Recorder
from tests.support.registry import BASIC, PASSWORD, TOKEN, USER, Registry, digest_of, registry_of

BLOB = b"a blob"
DIGEST = digest_of(BLOB)


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setattr(network, "FIRST_WAIT", 0.0)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registry_of({DIGEST: BLOB}) as served:
        yield served


def repository(registry: Registry, name: str = "library/golang") -> Repository:
    return Repository(f"{registry.address}/{name}", Recorder())


def log_in(registry: Registry, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have what ``docker login`` keeps."""
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    config = {"auths": {registry.address: {"auth": secret}}}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


@pytest.mark.parametrize("kind", ["manifest", "blob"])
def test_what_a_digest_names_is_downloaded(kind: str, registry: Registry, tmp_path: Path) -> None:
    repository_ = repository(registry)
    getattr(repository_, kind)(DIGEST, tmp_path / "got", 1000)
    assert (tmp_path / "got").read_bytes() == BLOB
    assert registry.asked == ["/v2/", f"/v2/library/golang/{kind}s/{DIGEST}"]
    assert registry.authorized == [None, None]


def test_what_has_another_digest_is_refused(registry: Registry, tmp_path: Path) -> None:
    registry.blobs[DIGEST] = b"a slob"
    with pytest.raises(ImageNotFound) as raised:
        repository(registry).blob(DIGEST, tmp_path / "got")
    assert raised.value.details == f"it sends {digest_of(b'a slob')} instead"


def test_what_is_not_there_is_told(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match=digest_of(b"x")):
        repository(registry).blob(digest_of(b"x"), tmp_path / "got")


def test_what_is_too_large_is_not_downloaded(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(RegistryUnreachable) as raised:
        repository(registry).manifest(DIGEST, tmp_path / "got", 3)
    assert raised.value.details == "it is larger than 3 bytes"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnreachable) as raised:
        Repository("127.0.0.1:1/golang", Recorder()).blob(DIGEST, tmp_path / "got")
    assert raised.value.details == "connection refused"


def test_a_token_is_taken_for_each_part(registry: Registry, tmp_path: Path) -> None:
    registry.demands = "bearer"
    golang = repository(registry)
    golang.blob(DIGEST, tmp_path / "got")
    golang.blob(DIGEST, tmp_path / "got")
    token = "/token?service=the+registry&scope=repository%3Alibrary%2Fgolang%3Apull"
    blob = f"/v2/library/golang/blobs/{DIGEST}"
    assert registry.asked == ["/v2/", token, blob, token, blob]
    assert registry.authorized == [None, None, f"Bearer {TOKEN}", None, f"Bearer {TOKEN}"]


@pytest.mark.parametrize(("demands", "last"), [("bearer", f"Bearer {TOKEN}"), ("basic", BASIC)])
def test_the_login_of_docker_is_used(
    demands: str,
    last: str,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.demands = demands
    log_in(registry, monkeypatch, tmp_path)
    repository(registry).blob(DIGEST, tmp_path / "got")
    assert registry.authorized[0] is None
    assert registry.authorized[1] == BASIC
    assert registry.authorized[-1] == last


def test_without_a_login_a_registry_that_wants_one_refuses(
    registry: Registry, tmp_path: Path
) -> None:
    registry.demands = "basic"
    with pytest.raises(ImageNotFound) as raised:
        repository(registry).blob(DIGEST, tmp_path / "got")
    assert raised.value.details.startswith("HTTP 401 ")


def test_a_credential_helper_that_fails_is_told(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.demands = "basic"
    helper = tmp_path / "docker-credential-broken"
    helper.write_text("#!/bin/sh\necho the keyring is locked\nexit 1\n")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "broken"}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CredentialHelperFailed, match=f"{helper.name}, .*the keyring is locked"):
        repository(registry).blob(DIGEST, tmp_path / "got")
    helper.write_text("#!/bin/sh\necho nonsense\n")
    with pytest.raises(CredentialHelperFailed, match="it is not JSON"):
        repository(registry).blob(DIGEST, tmp_path / "got")


@pytest.mark.filterwarnings("error")
def test_a_credential_helper_that_is_not_there_is_told(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.demands = "bearer"
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "absent"}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(CredentialHelperFailed, match=r"docker-credential-absent, .*not installed"):
        repository(registry).blob(DIGEST, tmp_path / "got")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "it is not an object"),
        ("null", "it is not an object"),
        ("{", "it is not JSON"),
        ('{"credsStore": 5}', "a credential helper cannot be 5"),
        ('{"credHelpers": [5]}', "not of the right type"),
        ('{"auths": 5}', "not of the right type"),
        ('{"auths": {"h": 5}}', "is not the base64"),
        ('{"auths": {"h": {"auth": "dXNlcg=="}}}', "is not the base64"),
        ('{"auths": {"h": {"auth": "\u00e4"}}}', "is not the base64"),
        ('{"auths": {"h": {"auth": 5}}}', "not of the right type"),
    ],
)
def test_a_broken_file_of_logins_is_told(
    content: str,
    reason: str,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.demands = "bearer"
    (tmp_path / "config.json").write_text(content)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(BadLoginFile, match=reason) as raised:
        repository(registry).blob(DIGEST, tmp_path / "got")
    assert str(tmp_path / "config.json") in str(raised.value)


@pytest.mark.parametrize("content", ["{}", '{"auths": {}}', '{"detachKeys": "x", "proxies": {}}'])
def test_a_file_without_logins_is_none(
    content: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.demands = "bearer"
    (tmp_path / "config.json").write_text(content)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    repository(registry).blob(DIGEST, tmp_path / "got")
    assert registry.authorized == [None, None, f"Bearer {TOKEN}"]


@pytest.mark.parametrize("demands", ["basic", "bearer"])
def test_a_login_that_is_not_used_is_told(
    demands: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.demands = demands
    login = {"auth": "dXNlcjpw", "identitytoken": "secret"}
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.address: login}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(ImageNotFound) as raised:
        repository(registry).blob(digest_of(b"x"), tmp_path / "got")
    assert f"only an identity token for {registry.address}" in raised.value.details
    assert "secret" not in raised.value.details


@pytest.mark.parametrize("realm", ["http://192.0.2.1/token", "ftp://h/token", "nonsense"])
def test_a_login_goes_to_https_only(
    realm: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.demands, registry.realm = "bearer", realm
    log_in(registry, monkeypatch, tmp_path)
    with pytest.raises(RegistryUnreachable) as raised:
        repository(registry).blob(DIGEST, tmp_path / "got")
    assert "not https" in raised.value.details


@pytest.mark.parametrize("path", ["/v2/", "/v2/library/golang/manifests/"])
def test_who_a_redirect_names_gets_no_login(
    path: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch, tmp_path)
    with registry_of({DIGEST: BLOB}) as other:
        other.demands = "bearer"
        registry.redirects[path] = f"http://{other.address}/v2/"
        with pytest.raises((RegistryUnreachable, ImageNotFound)) as raised:
            repository(registry).manifest(DIGEST, tmp_path / "got", 1000)
        assert not any(each.startswith("/token") for each in other.asked)
        assert other.authorized in ([], [None])
    told = f"redirects http://{registry.address}/v2/ to" if path == "/v2/" else "HTTP 401 "
    assert told in raised.value.details


@pytest.mark.parametrize(("demands", "last"), [("bearer", f"Bearer {TOKEN}"), ("basic", BASIC)])
def test_a_registry_may_demand_a_login_for_a_manifest_only(
    demands: str,
    last: str,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.demands, registry.is_open_at_first = demands, True
    log_in(registry, monkeypatch, tmp_path)
    repository(registry).manifest(DIGEST, tmp_path / "got", 1000)
    assert (tmp_path / "got").read_bytes() == BLOB
    assert registry.asked[0] == "/v2/"
    assert registry.authorized[:3] == [None, None, None]
    assert registry.authorized[-1] == last


def test_a_realm_that_is_no_address_is_told(registry: Registry, tmp_path: Path) -> None:
    registry.demands, registry.realm = "bearer", "https://[::1"
    with pytest.raises(RegistryUnreachable) as raised:
        repository(registry).blob(DIGEST, tmp_path / "got")
    assert raised.value.details == "it asks for a token of 'https://[::1', which is not an address"


@pytest.mark.parametrize("token", ["a\nHost: x", "\u00e4", 5])
def test_what_cannot_be_a_token_is_none(
    token: object, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.demands = "bearer"
    monkeypatch.setattr("tests.support.registry.TOKEN", token)
    with pytest.raises(ImageNotFound, match="the registry has no image") as raised:
        repository(registry).blob(DIGEST, tmp_path / "got")
    assert raised.value.details == "it gives no token (HTTP 200)"


def test_no_token(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.demands = "bearer"
    monkeypatch.setattr("tests.support.registry.TOKEN", None)
    registry.realm = f"http://{registry.address}/v2/nowhere"
    with pytest.raises(ImageNotFound) as raised:
        repository(registry).blob(DIGEST, tmp_path / "got")
    assert raised.value.details == "it gives no token (HTTP 401)"


def test_a_redirect_to_another_host_gets_no_token(registry: Registry, tmp_path: Path) -> None:
    registry.demands = "bearer"
    with registry_of({DIGEST: BLOB}) as other:
        registry.elsewhere = f"http://localhost:{other.address.rpartition(':')[2]}"
        repository(registry).blob(DIGEST, tmp_path / "got")
        assert other.authorized == [None]
    assert registry.authorized[-1] == f"Bearer {TOKEN}"


def test_a_netrc_does_not_replace_the_token(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.demands = "bearer"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    repository(registry).blob(DIGEST, tmp_path / "got")
    assert registry.authorized[-1] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("golang", "https://registry-1.docker.io/v2/library/golang"),
        ("docker.io/golang", "https://registry-1.docker.io/v2/library/golang"),
        ("docker.io/library/golang", "https://registry-1.docker.io/v2/library/golang"),
        ("mine/golang", "https://registry-1.docker.io/v2/mine/golang"),
        ("r.example.com/mirrors/golang", "https://r.example.com/v2/mirrors/golang"),
        ("r.example.com:5000/golang", "https://r.example.com:5000/v2/golang"),
        ("localhost/golang", "http://localhost/v2/golang"),
        ("[::1]:5000/golang", "http://[::1]:5000/v2/golang"),
        ("127.0.0.1.example.com/golang", "https://127.0.0.1.example.com/v2/golang"),
    ],
)
def test_where_a_repository_is(
    name: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(where: str, *_: object, **__: object) -> network.Answer:
        asked.append(where)
        return network.Answer(status=200, headers={}, body=b"")

    def download(where: str, target: Path, *_: object) -> None:
        asked.append(where)
        target.write_bytes(BLOB)

    monkeypatch.setattr(network, "ask", answer)
    monkeypatch.setattr(network, "download", download)
    Repository(name, Recorder()).blob(DIGEST, tmp_path / "got")
    assert asked == [f"{url.partition('/v2/')[0]}/v2/", f"{url}/blobs/{DIGEST}"]
