import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.errors import ImageNotFound as NoImage

from kbuild.base import engine, network
from kbuild.base.containers import insist
from kbuild.base.errors import (
    DiskFull,
    EngineDown,
    EngineFailed,
    EngineForbidden,
    EngineMissing,
    EngineTooOld,
    ImageNotFound,
    KbuildError,
    RegistryUnreachable,
    WrongImageLoaded,
)
from tests.support.fake_engine import Answer, fake_engine
from tests.support.hostile_servers import answer, hostile_server
from tests.support.recorder import Recorder

DIGEST = "sha256:" + "a" * 64
IMAGE = f"golang@{DIGEST}"
ABSENT = "manifest for golang@sha256:aa not found: manifest unknown: manifest unknown"
REFUSED = 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'
INSPECT = f"GET /images/golang%40{DIGEST}/json"
CREATE = "POST /images/create"
LACKING: list[Answer] = [(404, {"message": f"No such image: {IMAGE}"})]
DOCKER_VARIABLES = (
    "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"
)  # fmt: skip


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in DOCKER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(network, "FIRST_WAIT", 0.0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder whose path is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="kbuild-sock-") as name:
        yield Path(name)


@contextlib.contextmanager
def client_of(answers: dict[str, list[Answer]]) -> Iterator[tuple["engine.Client", list[str]]]:
    with (
        fake_engine(answers) as fake,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("DOCKER_HOST", fake.address)
        with contextlib.closing(engine.connect()) as client:
            yield client, fake.asked


def test_importing_the_engine_does_not_import_the_sdk() -> None:
    program = "import sys, kbuild.base.engine; sys.exit('docker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- reaching it -------------------------------------------------------------------------------


def test_no_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineMissing, match=r"none\.sock"):
        engine.connect()


def test_a_socket_that_nobody_listens_on(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "dead.sock"))
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/dead.sock")
        with pytest.raises(EngineDown, match=r"dead\.sock"):
            engine.connect()


def test_a_port_that_nobody_listens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(EngineDown):
            engine.connect()


def test_an_engine_that_never_answers(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(engine, "PROBE_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(folder / "mute.sock"))
        mute.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/mute.sock")
        with pytest.raises(EngineDown):
            engine.connect()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 1\r\n\r\nx", "HTTP 502 Bad Gateway"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "the server sent no valid answer"),
        (b"garbage\n\n", "the server sent no valid answer"),
    ],
)
def test_what_answers_for_an_engine_but_is_none_is_told(
    said: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hostile_server(answer(said)) as server:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.port}")
        with pytest.raises(EngineDown) as caught:
            engine.connect()
    assert caught.value.details == told


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("tcp://127.0.0.1:99999", "it is not a valid address"),
        ("npipe:////./pipe/x", "it is not a valid address"),
        ("ssh://127.0.0.1:1", "connection refused"),
    ],
)
def test_an_address_without_an_engine_is_told_in_our_words(
    address: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(EngineDown) as caught:
        engine.connect()
    assert caught.value.details == told


def test_no_permission(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    # Root may open every socket, and tests may run as root: so the refusal is the socket's.
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/private.sock")
    with pytest.raises(EngineForbidden, match=r"private\.sock"):
        engine.connect()


@pytest.mark.parametrize("api", ["1.12", "1.30", "1.40"])
def test_an_old_engine(monkeypatch: pytest.MonkeyPatch, api: str) -> None:
    with fake_engine({}, api) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        with pytest.raises(EngineTooOld, match=rf"{api}, kbuild needs 1\.41"):
            engine.connect()


@pytest.mark.parametrize("api", ["1.41", "1.52", "2.0"])
def test_a_new_engine_is_spoken_to_in_its_own_version(
    monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    # Engines from API 1.52 on refuse clients of 1.41, so the needed one cannot be used with all.
    with fake_engine({"GET /_ping": [(200, b"OK")]}, api) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        with contextlib.closing(engine.connect()) as client:
            assert client.ping()
    assert fake.asked == ["GET /version", "GET /_ping"]


def test_an_engine_tells_its_version_and_that_of_its_api(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = (200, {"ApiVersion": "1.47", "Version": "27.5.1", "Arch": "amd64"})
    with fake_engine({"GET /version": [answer]}, "1.47") as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        assert engine.described() == "27.5.1 (API 1.47)"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"ApiVersion": "new"}', b"{}"])
def test_something_else_on_the_socket(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    with fake_engine({"GET /version": [(200, body)]}) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        with pytest.raises(EngineDown):
            engine.connect()


def test_an_address_of_no_known_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "gopher://somewhere")
    with pytest.raises(EngineDown) as caught:
        engine.connect()
    assert "gopher" in caught.value.happened
    assert caught.value.details == "it is not a valid address"


def test_missing_tls_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(EngineDown) as caught:
        engine.connect()
    assert "DOCKER_CERT_PATH" in caught.value.details


def test_why_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_engine({}) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        assert engine.why_unavailable() is None
    reason = engine.why_unavailable()
    assert reason is not None
    assert fake.address in reason


# --- where it is -------------------------------------------------------------------------------


def write_context(home: Path, name: str, host: str) -> None:
    folder = home / ".docker/contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    meta = {"Name": name, "Metadata": {}, "Endpoints": endpoints}
    (folder / "meta.json").write_text(json.dumps(meta))


def test_contexts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with fake_engine({}) as current, fake_engine({}) as named, fake_engine({}) as host:
        write_context(tmp_path, "current", current.address)
        write_context(tmp_path, "named", named.address)
        (tmp_path / ".docker/config.json").write_text('{"currentContext": "current"}')
        engine.connect().close()
        assert [bool(fake.asked) for fake in (current, named, host)] == [True, False, False]
        monkeypatch.setenv("DOCKER_CONTEXT", "named")
        engine.connect().close()
        assert [bool(fake.asked) for fake in (current, named, host)] == [True, True, False]
        monkeypatch.setenv("DOCKER_HOST", host.address)
        engine.connect().close()
        assert [len(fake.asked) for fake in (current, named, host)] == [1, 1, 1]


def test_a_context_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    with pytest.raises(EngineMissing, match="gone"):
        engine.connect()


@pytest.mark.parametrize("place", ["docker.sock", "podman/podman.sock"])
def test_a_rootless_socket_needs_no_settings(
    monkeypatch: pytest.MonkeyPatch, folder: Path, place: str
) -> None:
    system = Path("/var/run/docker.sock")
    there = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path != system and there(path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    (folder / place).parent.mkdir(exist_ok=True)
    with fake_engine({}) as fake:
        (folder / place).symlink_to(fake.address.removeprefix("unix://"))
        engine.connect().close()
        assert fake.asked == ["GET /version"]
    assert "DOCKER_HOST" not in os.environ


def test_a_runtime_folder_of_somebody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    def knock(_: socket.socket, address: str) -> None:
        raise ConnectionRefusedError(111, "Connection refused", address)

    monkeypatch.setattr(Path, "exists", refuse)
    monkeypatch.setattr(socket.socket, "connect", knock)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(EngineDown, match=r"unix:///var/run/docker\.sock"):
        engine.connect()


# --- what it says ------------------------------------------------------------------------------


def api_error(code: int, text: str) -> APIError:
    response = requests.Response()
    response.status_code, response.url, response.reason = code, "http://localhost/x", "Reason"
    return APIError("", response=response, explanation=text)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (NoImage("No such image: x"), ImageNotFound),
        (api_error(404, "No such container: x"), EngineFailed),
        (api_error(400, 'exec: "sh": executable file not found in $PATH'), EngineFailed),
        (api_error(500, "mount failed"), EngineFailed),
        (api_error(500, "dial unix /run/containerd.sock: timeout"), EngineFailed),
        (api_error(500, "write /var/lib/docker/x: no space left on device"), DiskFull),
        (requests.ConnectionError("connection refused"), EngineFailed),
        (DockerException("anything"), EngineFailed),
    ],
)
def test_translation(error: Exception, ours: type[KbuildError]) -> None:
    with pytest.raises(KbuildError) as caught, engine.translate("some/image"):
        raise error
    assert type(caught.value) is ours
    assert caught.value.__cause__ is error


def test_translation_leaves_other_errors_alone() -> None:
    with pytest.raises(ZeroDivisionError), engine.translate("some/image"):
        raise ZeroDivisionError


# --- the registry ------------------------------------------------------------------------------


def test_a_digest_from_the_registry() -> None:
    descriptor = {"Descriptor": {"digest": DIGEST}, "Platforms": []}
    with client_of({"GET /distribution/golang:1.20.0/json": [(200, descriptor)]}) as (client, _):
        assert engine.registry_digest(client, "golang:1.20.0") == DIGEST


@pytest.mark.parametrize(
    ("code", "text", "ours"),
    [
        (404, "manifest unknown: manifest unknown", ImageNotFound),
        (400, "invalid reference format", ImageNotFound),
        (500, REFUSED, RegistryUnreachable),
        (500, "dial tcp: lookup nosuch.invalid: no such host", RegistryUnreachable),
        (500, "net/http: request canceled (Client.Timeout exceeded)", RegistryUnreachable),
        (500, "received unexpected HTTP status: 503 Service Unavailable", RegistryUnreachable),
        (500, "error parsing HTTP 404 response body: invalid character '<'", RegistryUnreachable),
        (500, "a panic", EngineFailed),
    ],
)
def test_a_registry_that_gives_no_digest(code: int, text: str, ours: type[KbuildError]) -> None:
    answers: dict[str, list[Answer]] = {
        "GET /distribution/golang:1/json": [(code, {"message": text})]
    }
    with client_of(answers) as (client, _), pytest.raises(KbuildError) as caught:
        engine.registry_digest(client, "golang:1")
    assert type(caught.value) is ours
    assert "dial tcp" not in caught.value.details


# --- pulling -----------------------------------------------------------------------------------


def layer(name: str, current: int, total: int) -> dict[str, object]:
    detail = {"current": current, "total": total}
    return {"status": "Downloading", "id": name, "progressDetail": detail}


def done(name: str) -> dict[str, object]:
    return {"status": "Download complete", "id": name, "progressDetail": {}}


def test_an_image_that_is_there_is_not_pulled() -> None:
    recorder = Recorder()
    with client_of({INSPECT: [(200, {"Id": DIGEST})]}) as (client, asked):
        engine.pull(client, IMAGE, recorder)
        assert not [request for request in asked if request.startswith("POST")]
    assert recorder.said == []


def test_a_pull_tells_how_many_bytes_are_here() -> None:
    events = [
        {"status": "Pulling from golang", "id": DIGEST},
        layer("one", 10, 100),
        layer("two", 5, 50),
        done("one"),
        done("three"),  # was there, so it has no size
        done("two"),
        {"status": f"Digest: {DIGEST}"},
    ]
    recorder = Recorder()
    with client_of({INSPECT: LACKING, CREATE: [(200, events)]}) as (client, _):
        engine.pull(client, IMAGE, recorder)
    assert [(now, total) for _, now, total in recorder.advances] == [
        (10, 100), (15, 150), (105, 150), (150, 150)
    ]  # fmt: skip


def test_a_pull_tries_again_when_the_network_fails() -> None:
    answers: dict[str, list[Answer]] = {
        INSPECT: LACKING,
        CREATE: [
            (500, {"message": REFUSED}),
            (200, [layer("one", 1, 2), {"error": "unexpected EOF"}]),
            (200, [layer("one", 2, 2)]),
        ],
    }
    recorder = Recorder()
    with client_of(answers) as (client, asked):
        engine.pull(client, IMAGE, recorder)
        assert asked.count(CREATE) == 3
    assert recorder.advances[-1][1:] == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "ours", "tries"),
    [
        ((404, {"message": ABSENT}), ImageNotFound, 1),
        ((200, [{"error": ABSENT}]), ImageNotFound, 1),
        ((200, [{"error": "failed to register layer: no space left on device"}]), DiskFull, 1),
        ((200, [{"error": "layer verification failed"}]), EngineFailed, 1),
        ((200, [layer("one", 1, 2), None]), EngineFailed, 1),
        ((200, [{"error": REFUSED}]), RegistryUnreachable, network.ATTEMPTS),
        ((500, {"message": REFUSED}), RegistryUnreachable, network.ATTEMPTS),
    ],
)
def test_a_pull_that_fails(answer: Answer, ours: type[KbuildError], tries: int) -> None:
    with client_of({INSPECT: LACKING, CREATE: [answer]}) as (client, asked):
        with pytest.raises(KbuildError) as caught:
            engine.pull(client, IMAGE, Recorder())
        assert type(caught.value) is ours
        assert asked.count(CREATE) == tries


STUCK = layer("one", 1, 9_000_000)
MEANWHILE = [layer("one", done * 100_000, 900_000) for done in range(1, 10)]


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "events",
    [
        pytest.param([30.0], id="silent"),
        pytest.param([STUCK, 30.0], id="silent after a layer has begun"),
        pytest.param([STUCK, 0.1] * 300, id="news that are none"),
        pytest.param(
            [e for done in range(300) for e in (layer("one", done, 9_000_000), 0.1)], id="dripping"
        ),
    ],
)
def test_a_pull_that_stalls_is_left(events: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "stall_timeout", 0.4, raising=False)
    with client_of({INSPECT: LACKING, CREATE: [(200, events)]}) as (client, asked):
        with pytest.raises(RegistryUnreachable) as caught:
            engine.pull(client, IMAGE, Recorder())
        assert asked.count(CREATE) == network.ATTEMPTS
    assert "it stalled: fewer than 1000 bytes a second" in caught.value.details


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "events",
    [
        pytest.param([e for event in MEANWHILE for e in (event, 0.3)], id="slow"),
        pytest.param(
            [e for n in range(6) for e in ({"status": "Extracting", "id": f"{n}"}, 0.5)],
            id="unpacking",
        ),
    ],
)
def test_a_pull_that_is_slow_has_not_stalled(
    events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "stall_timeout", 1, raising=False)
    with client_of({INSPECT: LACKING, CREATE: [(200, events)]}) as (client, asked):
        engine.pull(client, IMAGE, Recorder())
        assert asked.count(CREATE) == 1


@pytest.mark.timeout(60)
def test_a_registry_that_gives_the_engine_no_answer_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "stall_timeout", 1, raising=False)
    answers: dict[str, list[Answer]] = {"GET /distribution/golang:1.21.1/json": [(200, [30.0])]}
    with client_of(answers) as (client, asked):
        with pytest.raises(RegistryUnreachable, match="golang") as caught:
            engine.registry_digest(client, "golang:1.21.1")
        assert len(asked) == 2
    assert "no answer in 1 s" in caught.value.details


# --- loading -----------------------------------------------------------------------------------

CONFIG, MANIFEST = "sha256:" + "c" * 64, "sha256:" + "d" * 64
LOAD = "POST /images/load"


def known(digest: str, *answers: Answer) -> dict[str, list[Answer]]:
    return {f"GET /images/{digest}/json": list(answers)}


@pytest.mark.parametrize(("digest", "asks"), [(CONFIG, 1), (MANIFEST, 2)])
def test_an_image_that_is_there_is_not_loaded(digest: str, asks: int) -> None:
    other = known(CONFIG, *LACKING) | known(digest, (200, {"Id": digest}))
    with client_of(other) as (client, asked):
        found = engine.load(client, IMAGE, (CONFIG, MANIFEST), iter([b"a"]), Recorder())
    assert found == digest
    assert LOAD not in asked
    assert len([each for each in asked if each.startswith("GET /images/")]) == asks


def test_an_image_is_loaded_and_its_id_returned() -> None:
    answers = {
        **known(CONFIG, *LACKING, (200, {"Id": CONFIG})),
        **known(MANIFEST, *LACKING),
        LOAD: [(200, [{"stream": "Loaded image ID"}])],
    }
    progress = Recorder()
    with fake_engine(answers) as fake, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", fake.address)
        with contextlib.closing(engine.connect()) as client:
            archive = iter([b"first ", b"second"])
            assert engine.load(client, IMAGE, (CONFIG, MANIFEST), archive, progress) == CONFIG
    assert fake.sent[LOAD] == [b"first second"]
    assert ("load the image", 12, None) in progress.advances
    assert progress.said == [f"loading {IMAGE} into the engine"]


@pytest.mark.parametrize(
    ("answer", "after", "ours"),
    [
        ((200, [{"stream": "Loaded"}]), LACKING[0], WrongImageLoaded),
        ((200, [{"stream": "Loaded"}]), (200, {"Id": DIGEST}), WrongImageLoaded),
        ((200, [{"errorDetail": {}, "error": "invalid diffID"}]), LACKING[0], EngineFailed),
        ((500, {"message": "invalid diffID for layer 0"}), LACKING[0], EngineFailed),
        ((200, [{"error": "write: no space left on device"}]), LACKING[0], DiskFull),
    ],
)
def test_a_load_that_fails(answer: Answer, after: Answer, ours: type[KbuildError]) -> None:
    answers = {**known(CONFIG, *LACKING, after), **known(MANIFEST, *LACKING), LOAD: [answer]}
    with client_of(answers) as (client, _), pytest.raises(ours):
        engine.load(client, IMAGE, (CONFIG, MANIFEST), iter([b"a"]), Recorder())


def test_a_removal_that_the_engine_refuses_for_a_while_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    answers = [api_error(409, "removal is already in progress")] * 3

    def remove() -> None:
        if answers:
            raise answers.pop()

    insist(remove)
    assert answers == []
    assert waited == [0.5, 1, 2]


def test_a_removal_that_the_engine_refuses_for_good_is_an_error_and_what_is_gone_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)

    def refused() -> None:
        raise api_error(409, "in use")

    def gone() -> None:
        message = "no such container"
        raise NotFound(message)

    with pytest.raises(APIError):
        insist(refused)
    insist(gone)
