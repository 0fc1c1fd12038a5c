"""Downloads from servers that stall, send rubbish or never end."""

import gzip
import resource
import socket
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from kbuild.base import network
from kbuild.base.network import (
    ATTEMPTS,
    DownloadFailed,
    NetworkError,
    Pace,
    download,
    watched,
    within,
)
from kbuild.base.prefetch import BackgroundProgress, Stopped
from tests.support.hostile_servers import (
    Act,
    HostileServer,
    answer,
    drip,
    flood,
    hostile_server,
    silence,
)
from tests.support.recorder import Recorder

CLOSED = 9  # a port of loopback on which nothing listens
OK = b"HTTP/1.1 200 OK\r\n"
STALLED = r"it stalled: fewer than 1000 bytes a second for (0.4|1) s"


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(network, "stall_timeout", 0.4)


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "stall_timeout", 1)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing stall that is only slow, because the machine is busy."""
    monkeypatch.setattr(network, "stall_timeout", 10)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def get(
    server: HostileServer, target: Path, recorder: Recorder, limit: int = network.LARGEST
) -> None:
    download(f"{server.address}/file", target, "download", recorder, limit)


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "act",
    [
        pytest.param(silence, id="no answer"),
        pytest.param(drip(b"HTTP/1.1 200 OK" + b"K" * 5000), id="status line"),
        pytest.param(drip(b"X-Header: value\r\n", at_once=OK), id="headers"),
        pytest.param(
            drip(b"x", at_once=OK + b"Content-Length: 100000\r\n\r\n"), id="body with its length"
        ),
        pytest.param(drip(b"x", at_once=OK + b"\r\n"), id="body without a length"),
        pytest.param(
            drip(b"1\r\nx\r\n", at_once=OK + b"Transfer-Encoding: chunked\r\n\r\n"), id="chunks"
        ),
        pytest.param(
            drip(b"x", at_once=OK + b"Content-Length: 9000000\r\n\r\n" + b"x" * 2_000_000),
            id="after two megabytes",
        ),
        pytest.param(flood(b"HTTP/1.1 100 Continue\r\n\r\n"), id="flood of 100"),
    ],
)
def test_a_server_that_stalls_is_left(act: Act, tmp_path: Path, recorder: Recorder) -> None:
    began = time.monotonic()
    with hostile_server(act) as server, pytest.raises(DownloadFailed, match=STALLED):
        get(server, tmp_path / "file", recorder)
    assert time.monotonic() - began < 40
    assert len(server.visits) == ATTEMPTS


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FOUND = b"HTTP/1.1 302 Found\r\n"
RUBBISH = {
    "no number": (OK + b"Content-Length: many\r\n\r\nx", "its Content-Length is 'many'"),
    "negative": (OK + b"Content-Length: -1\r\n\r\nx", "its Content-Length is '-1'"),
    "huge": (OK + b"Content-Length: " + b"9" * 18 + b"\r\n\r\nx", "larger than 2147483648 bytes"),
    "endless number": (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", "Content-Length"),
    "two lengths": (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", "Content-Length"),
    "to nowhere": (FOUND + b"Location: http://[\r\n\r\n", "not valid"),
    "in a circle": (FOUND + b"Location: /file\r\n\r\n", "more than 30 times"),
    "to a file": (FOUND + b"Location: file:///etc/passwd\r\n\r\n", "file:///etc/passwd"),
    "to ftp": (FOUND + b"Location: ftp://127.0.0.1/x\r\n\r\n", "ftp://127.0.0.1/x"),
    "to no text": (FOUND + b"Location: \xff\xfe://\r\n\r\n", ""),
    "to no port": (FOUND + b"Location: http://a:b:c/\r\n\r\n", ""),
    "to nothing": (FOUND + b"\r\n", "HTTP 302"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "HTTP 204"),
    "no status": (b"HTTP/1.1 999999 What\r\n\r\n", ""),
    "no HTTP": (b"\0\1\2\3 rubbish", ""),
    "nothing": (b"", ""),
    "no chunk": (CHUNKED + b"zz\r\nrubbish", ""),
    "negative chunk": (CHUNKED + b"-5\r\nrubbish", ""),
    "half a chunk": (CHUNKED + b"ff\r\nrubbish", ""),
    "half a body": (OK + b"Content-Length: 9\r\n\r\nhalf", ""),
    "many headers": (OK + b"X: y\r\n" * 200 + b"\r\n", ""),
    "long header": (OK + b"X: " + b"y" * 100_000 + b"\r\n\r\n", ""),
}


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_is_told(name: str, tmp_path: Path, recorder: Recorder) -> None:
    data, reason = RUBBISH[name]
    with hostile_server(answer(data)) as server, pytest.raises(DownloadFailed) as caught:
        get(server, tmp_path / "file", recorder)
    assert reason in str(caught.value)


HEAD = b"\r\nContent-Length: 0\r\n\r\n"
REASONS = {
    "502": (b"HTTP/1.1 502 Bad Gateway" + HEAD, "", "HTTP 502 Bad Gateway"),
    "404": (b"HTTP/1.1 404 Not Found" + HEAD, "", "HTTP 404 Not Found"),
    "no answer": (b"", "", "it closed the connection without an answer"),
    "no HTTP": (b"\0\1\2\3 rubbish", "", "the server sent no valid answer"),
    "half a body": (
        OK + b"Content-Length: 9\r\n\r\nhalf",
        "",
        "it closed the connection too early",
    ),
    "no TLS": (b"no TLS at all", "https", "TLS failed: wrong version number"),
    "a proxy's 502": (b"HTTP/1.1 502 No" + HEAD, "https_proxy", "the proxy: HTTP 502 No"),
    "a proxy's 407": (b"HTTP/1.1 407 Who" + HEAD, "https_proxy", "the proxy: HTTP 407 Who"),
}


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("name", REASONS)
def test_a_failure_is_told_in_plain_words(
    name: str, tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, how, reason = REASONS[name]
    with hostile_server(answer(data)) as server, pytest.raises(DownloadFailed) as caught:
        address = server.address.replace("http:", "https:") if how == "https" else server.address
        if how == "https_proxy":
            monkeypatch.setenv("HTTPS_PROXY", server.address)
            address = "https://go.invalid"
        download(f"{address}/file", tmp_path / "file", "download", recorder)
    assert str(caught.value) == reason


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("address", "proxy", "reason"),
    [
        (f"http://127.0.0.1:{CLOSED}/x", "", "connection refused"),
        (f"https://127.0.0.1:{CLOSED}/x", "", "connection refused"),
        ("https://go.invalid/x", "", "the host name is unknown"),
        ("https://go.invalid/x", f"http://127.0.0.1:{CLOSED}", "the proxy: connection refused"),
        (
            *("https://go.invalid/x", f"socks5h://127.0.0.1:{CLOSED}"),
            "the proxy is a SOCKS proxy, for which PySocks is needed: pip install pysocks",
        ),
    ],
)
def test_a_connection_that_fails_is_told_in_plain_words(
    address: str, proxy: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(DownloadFailed) as caught:
        download(address, tmp_path / "file", "download", Recorder())
    assert str(caught.value) == reason


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "head",
    [
        OK + b"\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["plain", "chunked"],
)
def test_a_body_without_end_is_cut_off(head: bytes, tmp_path: Path, recorder: Recorder) -> None:
    body = b"x" * 65536 if b"chunked" not in head else b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with (
        hostile_server(flood(body, at_once=head)) as server,
        pytest.raises(DownloadFailed, match="larger than 1048576 bytes"),
    ):
        get(server, tmp_path / "file", recorder, limit=1 << 20)
    assert (tmp_path / "file").stat().st_size < 3 << 20
    assert len(server.visits) == 1


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("patient")
def test_the_body_of_a_redirect_is_not_read(tmp_path: Path, recorder: Recorder) -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: /file\r\n\r\n"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        hostile_server(flood(b"x" * 65536, at_once=head)) as server,
        pytest.raises(DownloadFailed, match="more than 30 times"),
    ):
        get(server, tmp_path / "file", recorder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("patient")
def test_what_a_server_compresses_unasked_stays_as_it_is(
    tmp_path: Path, recorder: Recorder
) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with hostile_server(answer(head + bomb)) as server:
        get(server, tmp_path / "file", recorder)
    assert (tmp_path / "file").read_bytes() == bomb


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("one_second")
def test_a_slow_server_is_not_stalled(tmp_path: Path, recorder: Recorder) -> None:
    def act(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(OK + b"Content-Length: 25000\r\n\r\n")
        for _ in range(25):  # for more than two windows, and a piece is less than a chunk
            time.sleep(0.1)
            connection.sendall(b"x" * 1000)

    with hostile_server(act) as server:
        get(server, tmp_path / "file", recorder)
    assert (tmp_path / "file").stat().st_size == 25000
    assert len(server.visits) == 1


@pytest.mark.timeout(60)
def test_a_download_that_nobody_waits_for_any_more_ends(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "stall_timeout", 60)
    background = BackgroundProgress(recorder, "the next")
    background.stopped = True
    with hostile_server(silence) as server, pytest.raises(Stopped):
        download(f"{server.address}/file", tmp_path / "file", "download", background)


@pytest.mark.usefixtures("one_second")
def test_a_pace_is_a_mean_over_a_window() -> None:
    pace = Pace()
    for _ in range(100):
        pace.add(0.1, 101)
    pace.add(0.9, 0)
    with pytest.raises(NetworkError, match=STALLED):
        pace.add(0.2, 0)


@pytest.mark.usefixtures("one_second")
def test_a_burst_does_not_count_for_later() -> None:
    pace = Pace()
    pace.add(0.1, 1_000_000)
    pace.add(0.9, 0)
    with pytest.raises(NetworkError):
        pace.add(0.2, 999)


@pytest.mark.slow
@pytest.mark.usefixtures("one_second")
def test_what_is_done_with_an_item_is_no_time_of_waiting() -> None:
    def items() -> Generator[int, None, None]:
        for _ in range(3):
            time.sleep(0.3)
            yield 400

    for _ in watched(items, float):
        time.sleep(1.2)


def test_an_error_of_the_thread_is_ours() -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        raise LookupError

    with pytest.raises(LookupError):
        list(watched(items, float))


def test_a_call_has_its_time() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(LookupError):
        within(5, dict[str, int]().popitem)
    with pytest.raises(NetworkError, match=r"no answer in 0\.1 s"):
        within(0.1, lambda: time.sleep(3))
