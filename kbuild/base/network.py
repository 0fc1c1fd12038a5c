"""Download files, detect stalled transfers, and retry after network errors.

A transfer has stalled when fewer than 1000 bytes per second arrived for ``stall_timeout`` seconds,
as with git's http.lowSpeedLimit. Socket timeouts cannot detect this: they restart with each byte,
so a server that sometimes sends one byte would never time out.
"""

import contextlib
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import urlsplit

from kbuild.base.progress import Progress

if TYPE_CHECKING:
    import requests

ATTEMPTS = 4
FIRST_WAIT = 1.0  # seconds; tests set it to 0
LEAST = 1000  # bytes per second
LARGEST = 2 << 30  # bytes of a download
SMALL = 1 << 20  # bytes of an answer that is not a file
stall_timeout = 60.0  # seconds; --stall-timeout, for the whole process
_TICK = 0.25  # seconds between two checks of the queue
_GRACE = 5.0  # seconds that a socket waits longer, so that a stall is reported as a stall
_CHUNK = 1 << 20
_QUEUED = 4
_OK = 200
_TOO_MANY_REQUESTS = 429
_SERVER_ERRORS = 500
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3}.{0,60})")  # http.client's, for CONNECT
_NO_COMPRESSION = {"Accept-Encoding": "identity"}  # archives are compressed already

T = TypeVar("T")


class NetworkError(Exception):
    """A failure that a retry may solve; its text is the message of git, the server or the SDK."""


class DownloadFailed(Exception):
    """A download that failed permanently; its text says why."""


class Pace:
    """Distinguishes a stalled transfer from a slow one.

    It counts bytes in windows. A window ends when the minimum number of bytes for ``stall_timeout``
    seconds has arrived. So a server may be silent for nearly ``stall_timeout``, for example before
    its first byte, but a fast start does not allow a longer pause later.
    """

    def __init__(self) -> None:
        self._seconds, self._bytes = 0.0, 0.0

    def add(self, seconds: float, size: float) -> None:
        """Count bytes that arrived while waiting; raises NetworkError for a stall."""
        self._seconds, self._bytes = self._seconds + seconds, self._bytes + size
        if self._bytes >= LEAST * stall_timeout:
            self._seconds, self._bytes = 0.0, 0.0
        elif self._seconds >= stall_timeout:
            message = (
                f"it stalled: fewer than {LEAST} bytes a second for {stall_timeout:g} s"
                " (--stall-timeout)"
            )
            raise NetworkError(message)


def on_network_errors(what: Callable[[], T], progress: Progress) -> T:
    """Call ``what`` up to four times while it raises NetworkError; the last error propagates."""
    # Imported here: most commands never use the network.
    from tenacity import (
        RetryCallState,
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        wait_exponential,
        wait_random,
    )

    def report(state: RetryCallState) -> None:
        wait = state.next_action.sleep if state.next_action else 0
        progress.say(f"network error, trying again in {wait:.0f} s")

    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=FIRST_WAIT) + wait_random(0, FIRST_WAIT),
        retry=retry_if_exception_type(NetworkError),
        before_sleep=report,
        reraise=True,
    )
    return retrying(what)


def watched(
    items: Callable[[], Generator[T, None, None]],
    size: Callable[[T], float],
    tick: Callable[[], None] = lambda: None,
) -> Generator[T, None, None]:
    """Yield the items of a generator that runs in its own thread, unless they stall.

    A thread that waits for a server cannot be stopped, but it can be abandoned. Then it closes the
    generator after the next item or error, and at the latest it ends with kbuild. ``size`` returns
    the number of bytes that an item stands for. ``tick`` is called while there is no item, and may
    raise. Raises NetworkError when the items stall, and whatever the generator raises.
    """
    thread, pace = _Thread(items), Pace()
    try:
        while True:
            # Only the time spent waiting counts, not the time spent on an item.
            began = time.monotonic()
            try:
                got = thread.received.get(timeout=_TICK)
            except queue.Empty:
                pace.add(time.monotonic() - began, 0)
                tick()
                continue
            if got is None:
                return
            if isinstance(got, BaseException):
                raise got
            pace.add(time.monotonic() - began, size(got[0]))
            yield got[0]
    finally:
        thread.abandon()


class _Thread(Generic[T]):
    """A thread that puts the items of a generator into a queue; then its error, or None."""

    def __init__(self, items: Callable[[], Generator[T, None, None]]) -> None:
        self.received: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(_QUEUED)
        self._is_abandoned = threading.Event()
        threading.Thread(target=self._run, args=(items,), daemon=True).start()

    def abandon(self) -> None:
        """Let the thread end after its next item."""
        self._is_abandoned.set()
        with contextlib.suppress(queue.Empty):
            while True:  # the thread may be waiting for room in the queue
                self.received.get_nowait()

    def _run(self, items: Callable[[], Generator[T, None, None]]) -> None:
        try:
            with contextlib.closing(items()) as all_items:
                for item in all_items:
                    self.received.put((item,))
                    if self._is_abandoned.is_set():
                        return
        except BaseException as error:
            self.received.put(error)
        else:
            self.received.put(None)


def within(seconds: float, what: Callable[[], T]) -> T:
    """Return the result of a call that makes a few small requests, if it ends in time.

    Raises NetworkError after ``seconds``, and whatever the call raises.
    """
    answer = Future[T]()

    def call() -> None:
        try:
            answer.set_result(what())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    if not wait([answer], seconds).done:
        message = f"no answer in {seconds:g} s (--stall-timeout)"
        raise NetworkError(message)
    return answer.result()


def why(error: BaseException, otherwise: str = "the server sent no valid answer") -> str:
    """Return why a request failed, without the words of requests, urllib3 or http.client.

    The reason is in the first error that caused the others; ``otherwise`` if that is none of the
    system or of a protocol.
    """
    chain = list(_causes(error))
    texts = [text for each in reversed(chain) if (text := _plain(each)) is not None]
    reason = next(iter(texts), otherwise)
    is_of_proxy = any(type(each).__name__ == "ProxyError" for each in chain)
    return f"the proxy: {reason}" if is_of_proxy else reason


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and what caused it, as far as the libraries tell."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        each = todo.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            todo += [each.__context__, each.__cause__, getattr(each, "reason", None), *each.args]
            tried = getattr(each, "errors", None)  # paramiko's, by address
            todo += tried.values() if isinstance(tried, dict) else ()


def _plain(error: BaseException) -> str | None:
    """Return what an error of the system or a protocol means; None if it only wraps another."""
    text: str | None = None
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"its TLS certificate is not accepted: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        text = f"TLS failed: {(error.reason or 'unknown').lower().replace('_', ' ')}"
    elif isinstance(error, socket.gaierror):
        text = "the host name is unknown"
    elif isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        text = "it did not answer in time"
    elif found := _TUNNEL.match(str(error)):
        text = f"HTTP {found[1]}"
    elif isinstance(error, ConnectionError) and error.strerror is None:
        text = "it closed the connection without an answer"
    elif type(error).__name__ == "IncompleteRead":
        text = "it closed the connection too early"
    elif isinstance(error, OSError) and error.errno is not None and error.strerror:
        text = error.strerror.lower()
    return text


def _why_refused(error: Exception) -> str:
    """Return why requests itself refuses an address, or follows no more of them."""
    import requests

    if "SOCKS" in str(error):
        return "the proxy is a SOCKS proxy, for which PySocks is needed: pip install pysocks"
    if isinstance(error, requests.TooManyRedirects):
        return "it redirects more than 30 times"
    if isinstance(error, requests.exceptions.InvalidHeader):
        return "it sends several headers Content-Length that differ"
    asked = getattr(error.request, "url", None) if hasattr(error, "request") else None
    found = re.search(r"[a-z][a-z0-9+.-]{1,20}://\S{1,200}", str(error), re.IGNORECASE)
    place = asked or (found[0].strip("'\"") if found else "")
    return f"the address {place} is not valid for HTTP".replace("  ", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A small answer of a server, whatever its status is."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    url: str, progress: Progress, headers: Mapping[str, str] | None = None, *, follow: bool = True
) -> Answer:
    """Return the answer to a request, of which at most ``SMALL`` bytes are read.

    Without ``follow``, a redirect is the answer. Network errors, stalls and server errors are
    retried. Raises DownloadFailed.
    """
    progress.advance(f"ask {urlsplit(url).hostname}", 0, None)
    try:
        return on_network_errors(
            lambda: within(stall_timeout, lambda: _ask(url, headers or {}, follow)), progress
        )
    except NetworkError as error:
        raise DownloadFailed(str(error)) from error


def _ask(url: str, headers: Mapping[str, str], follow: bool) -> Answer:  # noqa: FBT001
    with _opened(url, headers, follow=follow) as answer:
        if _is_temporary(answer.status_code):
            _check_status(answer.status_code, str(answer.reason))
        body = b"" if answer.is_redirect else answer.raw.read(SMALL, decode_content=False)
        return Answer(status=answer.status_code, headers=answer.headers, body=body)


def download(
    url: str,
    target: Path,
    what: str,
    progress: Progress,
    limit: int = LARGEST,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Download a file of at most ``limit`` bytes, without decompressing it.

    Network errors, stalls and server errors are retried. Raises DownloadFailed.
    """
    try:
        on_network_errors(
            lambda: _download(url, target, what, progress, limit, headers or {}), progress
        )
    except NetworkError as error:
        raise DownloadFailed(str(error)) from error


def _download(
    url: str,
    target: Path,
    what: str,
    progress: Progress,
    limit: int,
    headers: Mapping[str, str],
) -> None:
    import requests  # noqa: F401  # slow to import, and must not count as waiting for the server

    done, total = 0, None
    progress.advance(what, 0, None, "bytes")
    pieces = watched(
        lambda: _pieces(url, limit, headers),
        lambda got: len(got[0]),
        lambda: progress.advance(what, done, total, "bytes"),
    )
    with contextlib.closing(pieces), target.open("wb") as file:
        for piece, total in pieces:
            done += file.write(piece)
            if done > limit:
                raise DownloadFailed(_too_large(limit))
            progress.advance(what, done, total, "bytes")
    if total is not None and done != total:
        message = f"only {done} of {total} bytes arrived"
        raise NetworkError(message)


def _pieces(
    url: str, limit: int, headers: Mapping[str, str]
) -> Generator[tuple[bytes, int | None], None, None]:
    """Yield each piece that a server sends, with the total length if the server reports it."""
    # At most the minimum for one window, or a slow transfer would look like a stalled one.
    chunk = min(_CHUNK, int(LEAST * stall_timeout))
    with _opened(url, headers) as answer:
        _check_status(answer.status_code, str(answer.reason))
        total = _content_length(answer.headers.get("Content-Length"), limit)
        # Not iter_content: it decompresses what a server compressed without being asked.
        for piece in answer.raw.stream(chunk, decode_content=False):
            yield piece, total


@contextlib.contextmanager
def _opened(
    url: str, headers: Mapping[str, str], *, follow: bool = True
) -> Iterator["requests.Response"]:
    """Request an address; raises NetworkError or DownloadFailed for what happens in the block."""
    import requests
    from urllib3.exceptions import HTTPError

    def authorize(request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        request.headers.update(headers)
        return request

    try:
        with requests.get(
            url,
            stream=True,
            timeout=stall_timeout + _GRACE,
            headers=_NO_COMPRESSION,
            allow_redirects=follow,
            # As auth, because ~/.netrc would replace a header. Another host never gets it:
            # requests removes Authorization when a redirect leaves the host.
            auth=authorize if headers else None,
            hooks={"response": _close_redirect},
        ) as answer:
            yield answer
    except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
        raise NetworkError(why(error)) from error
    except (requests.RequestException, ValueError) as error:
        raise DownloadFailed(_why_refused(error)) from error


def _close_redirect(answer: "requests.Response", **_: object) -> None:
    # Otherwise requests reads the complete body of a redirect before following it.
    if answer.is_redirect:
        answer.close()


def _check_status(code: int, reason: str) -> None:
    message = f"HTTP {code} {reason}"
    if _is_temporary(code):
        raise NetworkError(message)
    if code != _OK:
        raise DownloadFailed(message)


def _is_temporary(code: int) -> bool:
    return code == _TOO_MANY_REQUESTS or code >= _SERVER_ERRORS


def _content_length(header: str | None, limit: int) -> int | None:
    if header is None:
        return None
    if not re.fullmatch(r"\d{1,18}", header, re.ASCII):
        message = f"its Content-Length is {header[:40]!r}"
        raise DownloadFailed(message)
    if int(header) > limit:
        raise DownloadFailed(_too_large(limit))
    return int(header)


def _too_large(limit: int) -> str:
    return f"it is larger than {limit} bytes"
